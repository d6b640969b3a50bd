"""Grading that is killed at random moments comes to the same marks as grading that is not."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="the instructor extra is not installed")

from classroom_helpers import reference, submission, without

from adamix_lab.classroom.course import api, release

NAME = "01_routing"
ROOT = Path(__file__).resolve().parents[2]
# The command, with cells that run in its own process: what surrounds them is what can be torn.
GRADE = """
import sys
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
import test_classroom_grading
from adamix_lab.classroom import grading
from adamix_lab.cli.main import app
grading.run = test_classroom_grading.run_here
app(["classroom", "grade", {name!r}, {handed!r}, "--course", {course!r}, "--trust"])
"""


def started(handed, course):
    paths = {"root": str(ROOT), "tests": str(ROOT / "tests"), "here": str(Path(__file__).parent)}
    script = GRADE.format(name=NAME, handed=str(handed), course=str(course), **paths)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ends(course):
    """The table and the gradebook."""
    with api(course).gradebook as book:
        parts = [(s.student.id, n) for s in book.assignment_submissions(NAME) for n in s.notebooks]
        kept = {(person, grade.name): grade.score for person, notebook in parts for grade in notebook.grades}
    return (course / "marks" / f"{NAME}.csv").read_text("utf-8"), kept


@pytest.mark.slow
def test_kills_at_random_moments_leave_equal_ends(tmp_path):
    once, often = tmp_path / "once", tmp_path / "often"
    released, _ = release(NAME, once)
    shutil.copytree(once, often)
    right = reference(NAME)
    texts = {
        "ada": submission(released, right),
        "bo": submission(released, right | {"number": "x = 1"}, without("number-many")),
        "cy": submission(released, {}),
        "di": "no notebook",
        "ed": submission(released, right, lambda cells: [*cells, cells[-1]]),
    }
    for name, text in texts.items():
        (tmp_path / "handed" / name).mkdir(parents=True)
        (tmp_path / "handed" / name / f"{NAME}.ipynb").write_text(text, encoding="utf-8")

    said, _ = started(tmp_path / "handed", once).communicate()
    assert "Odd:" in said, said
    draw, killed = random.Random(0), 0
    for _ in range(40):
        process = started(tmp_path / "handed", often)
        line = ""
        while killed < 6 and "Each submission" not in line and process.poll() is None:
            line = process.stdout.readline()  # from here on something is written
        try:
            said, _ = process.communicate(timeout=draw.uniform(0.0, 3.0) if killed < 6 else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        assert process.returncode == 0, said
        break
    assert killed >= 3 and ends(often) == ends(once), killed
