"""What goes into the bundle and what does not; its starter looks nowhere but into its own folder."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from adamix_lab.classroom import bundle


def test_pip_gathers_what_learners_need(tmp_path, monkeypatch):
    words = []
    monkeypatch.setattr(bundle, "_pip", lambda *given: words.extend(given))  # it runs in the checkout
    monkeypatch.chdir(tmp_path)
    assert bundle.bundle(Path("stick"), tell=lambda text: None)[0] == 0
    assert words[2] == str(tmp_path / "stick" / "wheels") and words[-1] == ".[learn]"
    assert "Apache-2.0" in (tmp_path / "stick" / "BUNDLE.txt").read_text("utf-8")
    assert (tmp_path / "stick" / "bootstrap.py").is_file() and (tmp_path / "stick" / "constraints.txt").is_file()


def write_wheel(folder):
    """A package of the name adamix-lab, whose command prints what it was given."""
    about = "dist-info/METADATA Metadata-Version: 2.1\nName: adamix-lab\nVersion: 0\nProvides-Extra: learn"
    wheel = "dist-info/WHEEL Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
    with zipfile.ZipFile(folder / "adamix_lab-0-py3-none-any.whl", "w") as file:
        file.writestr("adamix_lab/__main__.py", "import os, sys\nprint(sys.argv[1:], os.getcwd())")
        for entry in (about, wheel, "dist-info/RECORD adamix_lab/__main__.py,,"):
            name, _, text = entry.partition(" ")
            file.writestr(f"adamix_lab-0.{name}", text + "\n")


@pytest.mark.slow
def test_the_starter_sets_up_from_its_own_folder_alone_and_once(tmp_path):
    stick = tmp_path / "a stick"
    (stick / "wheels").mkdir(parents=True)
    (stick / "start.py").write_text(bundle.START, encoding="utf-8")
    (stick / "BUNDLE.txt").write_text("made for a test\n", encoding="utf-8")
    shutil.copyfile(bundle.ROOT / "bootstrap.py", stick / "bootstrap.py")
    for name in ("pyproject.toml", "constraints.txt"):
        (stick / name).touch()
    start = [sys.executable, str(stick / "start.py"), "tour"]
    done = subprocess.run(start, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode and "No matching distribution" in done.stderr and "made for a test" in done.stderr
    write_wheel(stick / "wheels")
    for making in (True, False):
        done = subprocess.run(start, capture_output=True, text=True, cwd=tmp_path, check=True)
        assert ("Making" in done.stdout) == making
        assert f"['tour'] {stick}" in done.stdout


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        bundle.bundle(tmp_path)


def test_a_pip_that_fails_says_its_last_words():
    with pytest.raises(ValueError, match=r"pip download failed:[\s\S]*made with the network"):
        bundle._pip("download", "--no-index", "no-such-package-of-ours")
