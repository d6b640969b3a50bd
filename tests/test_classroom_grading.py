"""Grading in one command: right marks, each trouble told in words, nothing of the course in a submission's reach."""

import csv
import io
import json
import zipfile

import pytest

pytest.importorskip("nbgrader", reason="the instructor extra is not installed")

from classroom_helpers import CHATTY, TROUBLES, mutants, points_of, reference, submission, tagged, without

NAME = "01_routing"
FULL = 10


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    from adamix_lab.classroom.course import release

    folder = tmp_path_factory.mktemp("course")
    release(NAME, folder)
    return folder


@pytest.fixture(scope="module")
def released(course):
    return course / "release" / NAME / f"{NAME}.ipynb"


def test_a_release_has_stubs_and_neither_solutions_nor_hidden_tests(course, released):
    text, solution = released.read_text("utf-8"), (course / "solution" / NAME / f"{NAME}.ipynb").read_text("utf-8")
    assert text.count("raise NotImplementedError()") >= 3
    for secret in ("hashlib.sha256", "refuse_library", "HIDDEN", "SOLUTION", "4 routes in each", "16**12"):
        assert secret not in text
    assert "BEGIN SOLUTION" in solution and "BEGIN HIDDEN TESTS" in solution
    assert sum(points_of(NAME).values()) == FULL


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_people_of_two_platforms_are_graded_in_one_command(course, released, tmp_path, capsys):
    from typer.testing import CliRunner

    from adamix_lab.cli import app

    right = reference(NAME)
    wrong = next(m for m in mutants(NAME) if m.name == "choices of layers are added")
    people = {
        "Ada Full_101": (submission(released, right), FULL, ""),
        "Bo Mutant_102": (submission(released, right | {"number": wrong.source}), FULL - 2, ""),
        "Cy Deleted_103": (submission(released, right, without("number-many")), FULL, "it was put back and run"),
        "Di Tagged_104": (
            submission(released, right | {"number": "x = 1"}, tagged("number-many", "skip-execution")), FULL - 3, "",
        ),
        "Ed Chatty_105": (submission(released, right | {"number": CHATTY}), FULL, "stderr"),
        "Fo Word_106": ("PK, a text document", 0, "is not a notebook"),
        "Gi Loop_107": (submission(released, right | {"number": TROUBLES["an endless loop"][0]}), None, "did not end"),
        "Ho Crash_108": (submission(released, right | {"number": TROUBLES["a crash"][0]}), 4, "Python ended"),
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "moodle.zip", "w") as archive:
        for person, (text, _, _) in people.items():
            archive.writestr(f"{person}_assignsubmission_file_/{NAME}.ipynb", text)
    blank = submission(released, {})
    (tmp_path / f"late_LATE_201_999_{NAME}.ipynb").write_text(blank, encoding="utf-8")
    (tmp_path / f"twice_202_997_{NAME}.ipynb").write_text(blank, encoding="utf-8")
    (tmp_path / f"twice_202_998_{NAME}-1.ipynb").write_text(submission(released, right), encoding="utf-8")
    command = ["classroom", "grade", NAME, str(tmp_path), "--course", str(course), "--cell-seconds", "15"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = {
        row["name"]: row for row in csv.DictReader(io.StringIO((course / "marks" / f"{NAME}.csv").read_text("utf-8")))
    }
    for person, (_, points, sign) in people.items():
        row = rows[person.split("_")[0]]
        assert points is None or float(row["points"]) == points, (person, row)
        assert sign in row["remarks"]
    assert float(rows["late"]["points"]) == 0 and rows["late"]["late"] == "late"
    assert float(rows["twice"]["points"]) == FULL and "left aside" in rows["twice"]["remarks"]
    moodle = (course / "marks" / f"{NAME}-moodle.csv").read_text("utf-8").splitlines()
    assert moodle[1].startswith("Participant 101,Ada Full,10,10") and len(moodle) == 1 + len(people)
    assert (course / "marks" / f"{NAME}-canvas.csv").read_text("utf-8").splitlines()[1].endswith(",10")
    assert "Histogram of 10 people" in (course / "marks" / f"{NAME}.txt").read_text("utf-8")

    again = CliRunner().invoke(app, command)
    assert again.output.count("(unchanged)") == 10

    assert CliRunner().invoke(app, ["classroom", "feedback", NAME, "--course", str(course)]).exit_code == 0
    pages = course / "feedback" / "pages"
    assert "is not a notebook" in (pages / "Fo Word_106_assignsubmission_file_" / f"{NAME}.html").read_text("utf-8")
    assert "hashlib.sha256" not in blank
    page = (pages / "Gi Loop_107_assignsubmission_file_" / f"{NAME}.html").read_text("utf-8")
    assert "is there a loop without an end?" in page and "What happened when" in page
    assert 'src="http' not in page
    state = json.loads((course / "marks" / f"{NAME}.json").read_text("utf-8"))
    assert state["201"]["late"] is True
