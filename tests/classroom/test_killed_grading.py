"""Grading that is killed at random moments comes to the same marks as grading that is not."""

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="the instructor extra is not installed")

from classroom_helpers import reference, submission, without

from adamix_lab.classroom.course import api, release

NAME = "01_routing"
ROOT = Path(__file__).resolve().parents[2]
# The command, with cells that run in its own process: what surrounds them is what can be torn. It kills itself at the
# so-manieth time that it touches a file of the course's folder, so that nothing depends on the clock.
GRADE = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
import test_classroom_grading
from adamix_lab.classroom import grading
from adamix_lab.cli.main import app

touched, last = 0, {last}

def touch(event, what):
    global touched
    if event.startswith(("open", "os.", "shutil.", "sqlite3.")) and any({course!r} in str(one) for one in what):
        touched += 1
        if touched == last:
            os.kill(os.getpid(), signal.SIGKILL)

def grade(*given, marks=grading.grade, **named):
    sys.addaudithook(touch)
    marked = marks(*given, **named)
    print("TOUCHED", touched)
    return marked

grading.grade, grading.run = grade, test_classroom_grading.run_here
app(["classroom", "grade", {name!r}, {handed!r}, "--course", {course!r}, "--trust"])
"""


def grade(handed, course, last=0):
    """(exit code, what was said)."""
    paths = {"root": str(ROOT), "tests": str(ROOT / "tests"), "here": str(Path(__file__).parent)}
    script = GRADE.format(name=NAME, handed=str(handed), course=str(course), last=last, **paths)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def ends(course):
    """The table and the gradebook."""
    with api(course).gradebook as book:
        parts = [(s.student.id, n) for s in book.assignment_submissions(NAME) for n in s.notebooks]
        kept = {(person, grade.name): grade.score for person, notebook in parts for grade in notebook.grades}
    return (course / "marks" / f"{NAME}.csv").read_text("utf-8"), kept


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
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

    code, said = grade(tmp_path / "handed", once)
    assert code == 0 and "Odd:" in said, said
    total = int(said.split("TOUCHED ")[1].split()[0])
    draw, killed = random.Random(0), 0
    while killed < 20:
        code, said = grade(tmp_path / "handed", often, draw.randint(1, total // 2))
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
        killed += 1
    assert 2 <= killed < 20 and ends(often) == ends(once), killed
