"""Grading in one command: right marks, each trouble told in words, platforms' files, grading again."""

import contextlib
import copy
import csv
import io
import json
import re
import shutil
import zipfile

import pytest

pytest.importorskip("nbgrader", reason="the instructor extra is not installed")

from classroom_helpers import CHATTY, TROUBLES, mutants, points_of, reference, submission, tagged, without
from typer.testing import CliRunner

from adamix_lab.classroom import grading
from adamix_lab.classroom.marks import clean_html
from adamix_lab.classroom.sandbox import NotStarted
from adamix_lab.cli.main import app

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


def run_here(notebook, limits, files):
    """In the place of the sandbox: the cells run in this process, for what is tested is what surrounds them."""
    from nbformat.v4 import new_output

    done, space = copy.deepcopy(notebook), {"__name__": "__main__"}
    for cell in done.cells:
        if cell.cell_type == "code":
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(cell.source, space)
            except Exception as error:
                cell.outputs = [
                    new_output("error", ename=type(error).__name__, evalue=str(error), traceback=[str(error)])
                ]
    return done, [], 0.1


def grade(course, handed, *more):
    return CliRunner().invoke(app, ["classroom", "grade", NAME, str(handed), "--course", str(course), "--trust", *more])


def rows(course):
    table = (course / "marks" / f"{NAME}.csv").read_text("utf-8")
    return {row["name"]: row for row in csv.DictReader(io.StringIO(table))}


def moodle(path, people, root=""):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, (person, (text, *_)) in enumerate(people.items(), 101):
            archive.writestr(f"{root}{person}_{number}_assignsubmission_file_/{NAME}.ipynb", text)


def test_feedback_holds_no_script_and_nothing_from_elsewhere():
    from adamix_lab.classroom.marks import with_remarks, without_scripts

    page = (
        '<html><head><script src="https://cdn.example/x.js"> </script><link rel="css" href="//cdn.example/x.css">'
        '<link href="own.css"></head><body class="b"><script type="module">\nimport "x";\n</script>kept</body></html>'
    )
    left = without_scripts(page)
    assert "<script" not in left and "cdn.example" not in left and "own.css" in left and "kept" in left
    assert left.index("Content-Security-Policy") < left.index("own.css") and "default-src 'none'" in left
    told = with_remarks(left, ["<b> & co"])
    assert "&lt;b&gt; &amp; co" in told and told.index("What happened") < told.index("kept")


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ('<img src="x" onerror="steal()">', "<img>"),
        ('<img src="https://elsewhere/x.png" alt="a">', '<img alt="a">'),
        ('<img src="data:image/png;base64,aa">', '<img src="data:image/png;base64,aa">'),
        ('<iframe src="javascript:steal()"></iframe>', ""),
        ("<scr<script></script>ipt>steal()</script>", "ipt&gt;steal()"),
        ('<a href="javascript:steal()">b</a>', "<a>b</a>"),
        ('<a href="data:text/html,x">b</a>', "<a>b</a>"),
        ('<meta http-equiv="refresh" content="0;url=https://elsewhere">', ""),
        ('<form action="https://elsewhere"><button>b</button></form>', "b"),
        ("<svg onload=steal()><style>@import 'https://elsewhere'</style></svg>", "@import 'https://elsewhere'"),
        ('<p class="a" style="background:url(https://elsewhere)">b</p>', '<p class="a">b</p>'),
    ],
)
def test_what_a_submission_shows_is_sanitised(given, left):
    assert clean_html(given) == left


def test_outputs_and_markdown_are_sanitised_on_the_page(course, released, tmp_path, monkeypatch):
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell

    bad = '<img src=x onerror="steal()"><iframe src="javascript:steal()"></iframe><scr<script></script>ipt>1</script>'

    def shows(notebook, limits, files):
        done, *rest = run_here(notebook, limits, files)
        done.cells[-1].outputs = [new_output("display_data", {"text/html": bad, "application/javascript": "steal()"})]
        return done, *rest

    monkeypatch.setattr(grading, "run", shows)
    extra = [new_markdown_cell(f"## A title\n\n{bad} and `code`"), new_raw_cell(bad), new_code_cell("1")]
    text = submission(released, reference(NAME), lambda cells: [*cells, *extra])
    (tmp_path / "mal.ipynb").write_text(text, encoding="utf-8")
    assert grade(course, tmp_path).exit_code == 0
    assert CliRunner().invoke(app, ["classroom", "feedback", NAME, "--course", str(course)]).exit_code == 0
    page = (course / "feedback" / "pages" / "mal" / f"{NAME}.html").read_text("utf-8")
    assert not re.search(r"<(script|iframe)|onerror=|javascript:steal|<img src=.?x", page) and re.search(
        r"<h2[^>]*>A title", page
    )
    assert "<code>code</code>" in page and "Content-Security-Policy" in page and '<span class="k">def</span>' in page


@pytest.mark.parametrize("damaged", ["{", "[]", '{"ada": {"name": "Ada"}}', "\x00"])
def test_damaged_marks_are_named_with_the_remedy(course, released, tmp_path, damaged):
    other = tmp_path / "course"
    shutil.copytree(course, other)
    (other / "marks").mkdir(exist_ok=True)
    (other / "marks" / f"{NAME}.json").write_text(damaged)
    handed = tmp_path / "handed"
    handed.mkdir()
    (handed / "ada.ipynb").write_text(submission(released, {}), encoding="utf-8")
    for done in (
        grade(other, handed),
        CliRunner().invoke(app, ["classroom", "feedback", NAME, "--course", str(other)]),
    ):
        assert done.exit_code == 2 and "Delete it and grade again" in done.output, done.output


def test_a_release_has_stubs_and_neither_solutions_nor_hidden_tests(course, released):
    text, solution = released.read_text("utf-8"), (course / "solution" / NAME / f"{NAME}.ipynb").read_text("utf-8")
    assert text.count("raise NotImplementedError()") >= 3
    for secret in ("hashlib.sha256", "refuse_library", "HIDDEN", "SOLUTION"):
        assert secret not in text
    assert "BEGIN SOLUTION" in solution and "BEGIN HIDDEN TESTS" in solution
    assert sum(points_of(NAME).values()) == FULL


OWN = """# %% [markdown]
# Count.

# %% answer="count" minutes=1 difficulty=1 aims="x"
def count():
    ### BEGIN SOLUTION
    return 3
    ### END SOLUTION

# %% check="count-one" points=1
assert count() == 3
"""


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ('\n# %% check="count-two" points=2\nassert count() < 4\n', True),
        ("\n# %% [markdown]\n# More text.\n", True),
        ("assert count() != 4\n", False),  # the same cells with another test: everyone is graded anew
    ],
)
def test_a_release_with_other_cells_is_refused_before_anything_is_lost(tmp_path, monkeypatch, more, refused):
    from adamix_lab.classroom.course import release

    monkeypatch.setattr(grading, "run", run_here)
    sources, own, handed = tmp_path / "src", tmp_path / "own", tmp_path / "handed"
    sources.mkdir()
    (sources / f"{NAME}.py").write_text(OWN)
    _, solution = release(NAME, own, sources)
    handed.mkdir()
    shutil.copyfile(solution, handed / "ada.ipynb")
    assert grade(own, handed).exit_code == 0 and rows(own)["ada"]["points"] == "1"
    files = {
        path: path.read_bytes() for part in ("source", "release", "solution") for path in (own / part).rglob("*.*")
    }
    (sources / f"{NAME}.py").write_text(OWN + more)
    if not refused:
        release(NAME, own, sources)
        assert "unchanged" not in grade(own, handed).output
        return
    with pytest.raises(ValueError, match=r"has submissions in .* new --course folder"):
        release(NAME, own, sources)
    assert {path: path.read_bytes() for path in files} == files
    assert "(unchanged)" in grade(own, handed).output and rows(own)["ada"]["points"] == "1"


def test_people_of_two_platforms_are_graded_in_one_command(course, released, tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "run", run_here)
    right = reference(NAME)
    wrong = next(m for m in mutants(NAME) if m.name == "choices of layers are added")
    people = {
        "Ada Full": (submission(released, right), FULL, ""),
        "Bo Mutant": (submission(released, right | {"number": wrong.source}), FULL - 2, ""),
        "Cy Deleted": (submission(released, right, without("number-many")), FULL, "it was put back and run"),
        "Di Emptied": (submission(released, right, without("number")), FULL - 3, "its tests find no answer"),
        "Ed Word": ("PK, a text document", 0, "is not a notebook"),
        "Fo Other": ('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', 0, "another notebook?"),
    }
    moodle(tmp_path / "moodle.zip", people)
    blank = submission(released, {})
    (tmp_path / f"late_LATE_201_999_{NAME}.ipynb").write_text(blank, encoding="utf-8")
    (tmp_path / f"twice_202_997_{NAME}.ipynb").write_text(blank, encoding="utf-8")
    (tmp_path / f"twice_202_998_{NAME}-1.ipynb").write_text(submission(released, right), encoding="utf-8")

    done = grade(course, tmp_path)
    assert done.exit_code == 0, done.output
    assert "Nowhere enforced" in done.output
    found = rows(course)
    for person, (_, points, sign) in people.items():
        assert float(found[person]["points"]) == points and sign in found[person]["remarks"], found[person]
    assert float(found["late"]["points"]) == 0 and found["late"]["late"] == "late"
    assert float(found["twice"]["points"]) == FULL and "left aside" in found["twice"]["remarks"]
    assert "Participant 101,Ada Full,10,10" in (course / "marks" / f"{NAME}-moodle.csv").read_text("utf-8")
    assert (course / "marks" / f"{NAME}-canvas.csv").read_text("utf-8").splitlines()[1].endswith(",10")

    assert grade(course, tmp_path).output.count("(unchanged)") == 8
    people["Bo Mutant"] = (submission(released, right), FULL, "")
    moodle(tmp_path / "moodle.zip", people)
    again = grade(course, tmp_path)
    assert again.output.count("(unchanged)") == 7 and float(rows(course)["Bo Mutant"]["points"]) == FULL

    done = CliRunner().invoke(app, ["classroom", "feedback", NAME, "--course", str(course)])
    assert done.exit_code == 0, done.output
    pages = course / "feedback" / "pages"
    assert "is not a notebook" in (pages / "Ed Word_105_assignsubmission_file_" / f"{NAME}.html").read_text("utf-8")
    for person in ("Ed Word_105", "Fo Other_106"):  # the student's version, without what it hides
        page = (pages / f"{person}_assignsubmission_file_" / f"{NAME}.html").read_text("utf-8")
        assert "was not run" in page and "HIDDEN" not in page and "refuse_library" not in page
        assert "hashlib" not in page and "NotImplementedError" in page
    page = (pages / "Cy Deleted_103_assignsubmission_file_" / f"{NAME}.html").read_text("utf-8")
    assert "What happened when" in page and "it was put back and run" in page
    assert 'src="http' not in page and "cdnjs" not in page


def test_late_submissions_join_the_marks_of_those_before(course, released, tmp_path, monkeypatch):
    """Each file holds everybody, with the points that stand in the gradebook, and says how many were graded now."""
    from adamix_lab.classroom.course import api

    monkeypatch.setattr(grading, "run", run_here)
    own, first, late = (tmp_path / name for name in ("own", "first", "late"))
    shutil.copytree(course, own)
    shutil.rmtree(own / "marks", ignore_errors=True)
    blank, full = submission(released, {}), submission(released, reference(NAME))
    moodle(first / "moodle.zip", {"Ada Early": (blank,), "Bo Early": (blank, "")})
    (first / f"cylate_LATE_201_999_{NAME}.ipynb").write_text(blank, encoding="utf-8")
    (first / "di.ipynb").write_text(blank, encoding="utf-8")
    assert "Graded now: 4; in the table: 4." in grade(own, first).output
    head = (own / "marks" / f"{NAME}.csv").read_text("utf-8").splitlines()[0]
    with api(own).gradebook as book:
        book.find_grade("number-one", NAME, NAME, "101").manual_score = 1
        book.db.commit()

    late.mkdir()
    (late / f"Ed Late_107_assignsubmission_file_{NAME}.ipynb").write_text(full, encoding="utf-8")
    (late / f"Bo Early_102_assignsubmission_file_{NAME}.ipynb").write_text(full, encoding="utf-8")
    done = grade(own, late, "--due", "2001-01-01")
    assert done.exit_code == 0 and "Graded now: 2; in the table: 5." in done.output
    assert "Graded now: 0; in the table: 5." in grade(own, late, "--due", "2001-01-01").output
    found = rows(own)
    points = {name: (float(row["points"]), row["late"]) for name, row in found.items()}
    before = {"Ada Early": (1, ""), "cylate": (0, "late"), "di": (0, "")}
    assert points == before | {"Bo Early": (FULL, "late"), "Ed Late": (FULL, "late")}
    assert (own / "marks" / f"{NAME}.csv").read_text("utf-8").splitlines()[0] == head
    numbers = [line.split(",")[0] for line in (own / "marks" / f"{NAME}-moodle.csv").read_text("utf-8").splitlines()]
    assert sorted(numbers[1:]) == ["Participant 101", "Participant 102", "Participant 107"]
    assert "cylate,201," in (own / "marks" / f"{NAME}-canvas.csv").read_text("utf-8")


def test_marks_of_an_earlier_version_keep_their_people(course, released, tmp_path, monkeypatch):
    """Neither number nor late stood there: an id begins with the number, and the remark still says who was late."""
    monkeypatch.setattr(grading, "run", run_here)
    own, handed = tmp_path / "own", tmp_path / "handed"
    shutil.copytree(course, own)
    shutil.rmtree(own / "marks", ignore_errors=True)
    moodle(handed / "moodle.zip", {"Ada Early": (submission(released, {}),)})
    (handed / f"cylate_LATE_101_999_{NAME}.ipynb").write_text(submission(released, {}), encoding="utf-8")
    assert grade(own, handed).exit_code == 0
    kept = own / "marks" / f"{NAME}.json"
    graded = json.loads(kept.read_text("utf-8"))
    assert all(re.fullmatch(r"101-[0-9a-f]{4}", person) for person in graded)  # two platforms, one number
    for entry in graded.values():
        del entry["number"], entry["late"]
    kept.write_text(json.dumps(graded), encoding="utf-8")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "di.ipynb").write_text(submission(released, {}), encoding="utf-8")
    assert "in the table: 3." in grade(own, tmp_path / "later").output
    assert "Participant 101,Ada Early" in (own / "marks" / f"{NAME}-moodle.csv").read_text("utf-8")
    assert "cylate,101," in (own / "marks" / f"{NAME}-canvas.csv").read_text("utf-8")
    assert "It came late." in rows(own)["cylate"]["remarks"]


def test_a_preview_says_who_was_found_and_runs_nothing(course, released, tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "run", lambda *_: pytest.fail("something ran"))
    people = {f"Student {n:02d}": (submission(released, {}),) for n in range(28)}
    moodle(tmp_path / "again" / "handed.zip", people, "submissions/")
    (tmp_path / "again" / "zoe.zip").write_bytes(b"PK no zip")
    (tmp_path / "again" / "readme.txt").write_text("x")
    done = grade(course, tmp_path / "again", "--preview")
    assert done.exit_code == 0 and done.output.startswith("Found 29 people (28 moodle, 1 plain):"), done.output
    assert "zoe.zip is no zip file" in done.output and "readme.txt belongs to nobody" in done.output
    assert "submissions is the folder around all submissions" in done.output


def test_oddities_are_told_at_the_end(course, released, tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "run", run_here)
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "x.ipynb").write_text(submission(released, {}, without("number")), encoding="utf-8")
    (tmp_path / "ada" / "my_adamix.py").write_text("x = 1")
    (tmp_path / "notes.txt").write_text("x")
    last = grade(course, tmp_path).output.split("Odd:")[-1]
    assert "notes.txt belongs to nobody" in last and "ada: The cell 'number', where the answer goes" in last
    assert (course / "submitted" / "ada" / NAME / "my_adamix.py").read_text() == "x = 1"


def test_points_that_a_person_gave_stay(course, released, tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "run", run_here)
    (tmp_path / "kim.ipynb").write_text(submission(released, {}), encoding="utf-8")
    assert grade(course, tmp_path).exit_code == 0 and float(rows(course)["kim"]["points"]) == 0
    from adamix_lab.classroom.course import api

    with api(course).gradebook as book:
        book.find_grade("number-one", NAME, NAME, "kim").manual_score = 1
        book.db.commit()
    grade(course, tmp_path, "--again")
    assert float(rows(course)["kim"]["points"]) == 1


def test_a_machine_that_does_not_start_python_costs_nobody_points(course, released, tmp_path, monkeypatch):
    def fails(*_):
        raise NotStarted("no answer from the kernel")

    (tmp_path / "lee.ipynb").write_text(submission(released, reference(NAME)), encoding="utf-8")
    monkeypatch.setattr(grading, "run", fails)
    with pytest.raises(OSError, match="lee was not graded: Python did not start"):
        grading.grade(grading_input(tmp_path), NAME, course, grading.Limits())
    monkeypatch.setattr(grading, "run", run_here)
    (marked,) = [m for m in grading.grade(grading_input(tmp_path), NAME, course, grading.Limits()) if m.name == "lee"]
    assert marked.total == FULL and marked.seconds > 0
    monkeypatch.setattr(grading, "run", fails)
    with pytest.raises(OSError, match="lee was not graded"):
        grading.grade(grading_input(tmp_path), NAME, course, grading.Limits(), again=True)
    monkeypatch.setattr(grading, "run", run_here)
    (marked,) = [m for m in grading.grade(grading_input(tmp_path), NAME, course, grading.Limits()) if m.name == "lee"]
    assert marked.total == FULL and marked.seconds > 0  # what failed is not taken for graded


def grading_input(folder):
    from adamix_lab.classroom.submissions import collect

    return collect(folder)


def test_an_assignment_that_was_not_released_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="classroom release 01_routing"):
        grading.grade([], NAME, tmp_path, grading.Limits())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_runs_by_itself_and_troubles_are_told(course, released, tmp_path):
    """The real thing: processes, limits, the kernel."""
    right = reference(NAME)
    off = tagged("number-many", "skip-execution")
    people = {
        "Ada Full": (submission(released, right), FULL, ""),
        "Di Tagged": (submission(released, right | {"number": "x = 1"}, off), FULL - 3, ""),
        "Ed Chatty": (submission(released, right | {"number": CHATTY}), FULL, "stderr"),
        "Gi Loop": (submission(released, right | {"number": TROUBLES["an endless loop"][0]}), FULL - 3, "did not end"),
        "Ho Crash": (submission(released, right | {"number": TROUBLES["a crash"][0]}), 5, "Python ended"),
    }
    moodle(tmp_path / "moodle.zip", people)
    done = grade(course, tmp_path / "moodle.zip", "--cell-seconds", "15", "--again")
    assert done.exit_code == 0, done.output
    found = rows(course)
    for person, (_, points, sign) in people.items():
        assert float(found[person]["points"]) == points and sign in found[person]["remarks"], found[person]
    state = json.loads((course / "marks" / f"{NAME}.json").read_text("utf-8"))
    assert state["104"]["remarks"] and state["101"]["remarks"] == []
