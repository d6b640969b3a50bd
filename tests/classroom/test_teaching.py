"""Pages for teaching and committed student versions follow from the sources, and hold no solutions."""

import importlib.util
import re
from pathlib import Path

import pytest
from classroom_helpers import mark, notebook

from adamix_lab.classroom.course import assignments
from adamix_lab.cli.main import copy_lessons

ROOT = Path(__file__).resolve().parents[2]
KINDS = (".py", ".ipynb", ".md", ".sh", ".html", ".json", ".txt")
PAGES = sorted((ROOT / "docs" / "teaching").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_commands_on_the_pages_exist():
    import typer

    from adamix_lab.cli import main as cli

    known = typer.main.get_command(cli.app).commands
    for page in PAGES:
        for words in re.findall(r"adamix-lab ([a-z][a-z -]*)", page.read_text("utf-8")):
            first, *rest = words.split()
            assert first in known, (page.name, words)
            if first == "classroom" and rest:
                assert rest[0] in known["classroom"].commands, (page.name, words)


@pytest.mark.parametrize("name", assignments())
def test_a_committed_student_version_holds_stubs_and_no_solution(name):
    nbformat = pytest.importorskip("nbformat")
    student = nbformat.read(ROOT / "notebooks" / "exercises" / f"{name}.ipynb", as_version=4)
    assert len(student.cells) == len(notebook(name).cells)
    for given, source in zip(student.cells, notebook(name).cells, strict=True):
        secret = []
        for kind in ("SOLUTION", "HIDDEN TESTS"):
            secret += re.findall(rf"### BEGIN {kind}\n(.*?)### END {kind}", source.source, re.S)
        lines = {line.strip() for part in secret for line in part.splitlines() if len(line.strip()) > 12}
        # a line that stands in an open part of the same cell, too, is no secret
        open_part = re.sub(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n.*?### END \1", "", source.source, flags=re.S)
        assert not [line for line in lines if line in given.source and line not in open_part]
        assert "### " not in given.source
        assert not mark(source, "solution") or "raise NotImplementedError()" in given.source
        assert not given.get("outputs")


def test_what_is_installed_and_what_is_handed_out_hold_no_solution(tmp_path):
    import jupytext

    copy_lessons(tmp_path)
    secrets = set()
    for path in (ROOT / "notebooks" / "exercises" / "src").glob("*.py"):
        for cell in jupytext.read(path, fmt="py:percent").cells:
            secrets |= {body.strip() for body in re.findall(r"### BEGIN [A-Z ]+\n(.*?)### END", cell.source, re.S)}
    files = [p for folder in (ROOT / "adamix_lab", tmp_path) for p in folder.rglob("*") if p.suffix in KINDS]
    assert len(secrets) > 60 and len(files) > 100
    for path in files:
        text = path.read_text("utf-8")
        assert not [secret for secret in secrets if len(secret) > 40 and secret in text], path


@pytest.mark.slow
def test_student_versions_and_the_sheets_table_are_up_to_date():
    pytest.importorskip("nbgrader", reason="the instructor extra is not installed")
    spec = importlib.util.spec_from_file_location("renew", ROOT / "notebooks" / "exercises" / "renew.py")
    renew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(renew)
    for path, text in {**renew.student_versions(), renew.SHEETS: renew.sheets()}.items():
        assert path.read_text("utf-8") == text, f"{path.name} is stale: python notebooks/exercises/renew.py"
