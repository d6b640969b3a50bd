"""What goes into the bundle and what does not; its starter looks nowhere but into its own folder."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from adamix_lab.classroom import bundle


def test_pip_gathers_what_all_extras_ask_for(tmp_path, monkeypatch):
    words = []
    monkeypatch.setattr(bundle, "_pip", lambda *given: words.extend(given))
    assert bundle.bundle(tmp_path / "stick", tell=lambda text: None)[0] == 0
    assert words[-1] == f"{tmp_path / 'stick' / 'project'}[all]" and words[-2].startswith("setuptools==")
    assert (tmp_path / "stick" / "project" / "pyproject.toml").is_file()


def test_a_relative_folder_is_where_the_command_was_called(tmp_path, monkeypatch):
    words = []
    monkeypatch.setattr(bundle, "_pip", lambda *given: words.extend(given))  # it runs in the checkout
    monkeypatch.chdir(tmp_path)
    bundle.bundle(Path("stick"), tell=lambda text: None)
    assert words[2] == str(tmp_path / "stick" / "wheels") and words[-1] == f"{tmp_path / 'stick' / 'project'}[all]"


def test_the_project_is_copied_without_solutions(tmp_path):
    bundle.copy_project(tmp_path / "project")
    bundle.copy_project(tmp_path / "project")  # a second time replaces
    there = {path.relative_to(tmp_path / "project").as_posix() for path in (tmp_path / "project").rglob("*.*")}
    assert {"bootstrap.py", "notebooks/exercises/01_routing.ipynb", "data/aspects/train.jsonl"} <= there
    assert not [name for name in there if "exercises/src" in name or name.startswith(("tests", "runs", ".venv"))]


def test_pip_is_told_to_look_nowhere_else(tmp_path):
    project = tmp_path / "a stick" / "project"
    project.mkdir(parents=True)
    (project / "bootstrap.py").write_text(
        "import os, sys\nkeys = ('PIP_NO_INDEX', 'PIP_FIND_LINKS', 'PIP_INDEX_URL', 'HF_HOME', 'IPYTHONDIR')\n"
        "print([os.environ.get(k) for k in keys], sys.argv[1:], os.getcwd())\n"
    )
    start = tmp_path / "a stick" / "start.py"
    start.write_text(bundle.START, encoding="utf-8")
    done = subprocess.run([sys.executable, str(start), "tour"], capture_output=True, text=True, check=True)
    values = ast.literal_eval(done.stdout[: done.stdout.index("]") + 1])
    assert values[:3] == ["1", "../wheels", None] and all(str(project) in folder for folder in values[3:])
    assert "'run', '-m', 'adamix_lab', 'tour'" in done.stdout


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        bundle.bundle(tmp_path)


def test_a_pip_that_fails_says_its_last_words():
    with pytest.raises(ValueError, match=r"pip download failed:[\s\S]*made with the network"):
        bundle._pip("download", "--no-index", "no-such-package-of-ours")
