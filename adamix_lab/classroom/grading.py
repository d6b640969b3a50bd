"""Grades a folder of submissions with nbgrader: each runs by itself (`sandbox`), each fault is told in words.

Marks stand in nbgrader's gradebook, so that a person's own corrections in its form grader count and stay. A second run
grades what is new or changed; `again` grades everything.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adamix_lab.classroom.course import FOLDERS, SOURCES, api, done, needs_nbgrader
from adamix_lab.classroom.marks import Marked
from adamix_lab.classroom.sandbox import Limits, NotStarted, run
from adamix_lab.classroom.submissions import Submission
from adamix_lab.core.files import write_text

HIDDEN_SOURCES = Path(__file__).resolve().parents[2] / SOURCES.parent


def grade(
    submissions: Sequence[Submission],
    assignment: str,
    course: Path,
    limits: Limits,
    again: bool = False,
    tell: Callable[[str], None] = print,
) -> list[Marked]:
    """Grades one submission a person; a line of progress each goes to `tell`.

    Raises FileNotFoundError where the assignment has not been released in this course.
    """
    needs_nbgrader()
    course = course.resolve()
    if not (course / "release" / assignment).is_dir():
        raise FileNotFoundError(
            f"{course} has no release of {assignment!r}: expected the course that students got theirs from. Run "
            f"`adamix-lab classroom release {assignment} --course {course.name}` first."
        )
    ran: dict[str, Any] = {}
    grader = api(course, _settings(limits, course, ran))
    state = _State(course, assignment)
    marked, maximum = [], checks_of(course, assignment)
    for n, submission in enumerate(submissions, 1):
        start = time.perf_counter()
        seen = None if again else state.remarks_of(submission)
        try:
            remarks = tuple(seen) if seen is not None else _grade_one(grader, submission, assignment, course, ran)
        except NotStarted as trouble:
            state.forget(submission)
            raise OSError(
                f"{submission.name} was not graded: Python did not start on this machine ({trouble}). "
                f"{n - 1} of {len(submissions)} are graded and kept: run the same command again, with less beside it."
            ) from trouble
        seconds = 0.0 if seen is not None else time.perf_counter() - start
        points = _points(grader, submission.person, assignment, maximum)
        state.keep(submission, remarks)
        marked.append(Marked(submission, points, maximum, remarks, seconds))
        how = "unchanged" if seen is not None else f"{seconds:.1f} s"
        tell(f"{n:3d}/{len(submissions)}  {submission.name}: {marked[-1].total:g} of {marked[-1].best:g} ({how})")
    return marked


def _settings(limits: Limits, course: Path, ran: dict[str, Any]) -> Any:
    """Nbgrader's own steps, but for the one that executes: that is done apart."""
    from nbgrader import preprocessors as own
    from traitlets.config import Config

    hidden = [*(course / folder for folder in FOLDERS), course / "marks", HIDDEN_SOURCES]

    class RunApart(own.NbGraderPreprocessor):  # type: ignore[name-defined,misc]
        """Executes the notebook in a process of its own."""

        def preprocess(self, nb: Any, resources: Any) -> Any:
            """The executed notebook; what happened is put first, in words."""
            try:
                executed, remarks, seconds = run(nb, limits, hidden)
            except NotStarted as trouble:
                ran["not started"] = trouble
                raise
            ran["remarks"], ran["seconds"] = remarks, seconds
            return executed, resources

    config = Config()
    config.Autograde.autograde_preprocessors = [RunApart, own.LimitOutput, own.SaveAutoGrades, own.CheckCellMetadata]
    return config


def _grade_one(
    grader: Any, submission: Submission, assignment: str, course: Path, ran: dict[str, Any]
) -> tuple[str, ...]:
    """Grades one; the remarks."""
    folder = course / "submitted" / submission.person / assignment
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebook, trouble = read_notebook(submission, course, assignment)
    remarks = [*submission.remarks, *trouble]
    if notebook is None:
        _clear(grader, submission.person, assignment)
        shutil.rmtree(course / "autograded" / submission.person / assignment, ignore_errors=True)
        return tuple(remarks)
    write_text(folder / f"{assignment}.ipynb", notebook)
    ran.clear()
    answer = grader.autograde(assignment, submission.person, force=True)
    if "not started" in ran:
        raise ran["not started"]
    if not answer["success"] and "remarks" not in ran:
        _clear(grader, submission.person, assignment)
        words = (answer.get("error") or "").strip().splitlines()
        return (*remarks, f"Its cells could not be read: {words[-1] if words else 'nbgrader did not say why'}.")
    done(answer, f"Grading {submission.file}")
    return (*remarks, *ran["remarks"])


def read_notebook(submission: Submission, course: Path, assignment: str) -> tuple[str | None, list[str]]:
    """(the submitted notebook as text, what is wrong with it in words); None where it is no notebook."""
    import nbformat

    name = submission.file.rpartition("/")[2]
    if not submission.data:
        return None, [f"{name} is empty, or larger than 20 MB: expected a notebook (.ipynb). No points."]
    try:
        notebook = nbformat.reads(submission.data.decode("utf-8-sig"), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises many kinds
        why = str(error).strip().splitlines()[0][:160]
        return None, [f"{name} is not a notebook ({why}): expected the .ipynb file that JupyterLab saves. No points."]
    released = nbformat.read(course / "release" / assignment / f"{assignment}.ipynb", as_version=4)
    wanted = {_grade_id(cell): cell for cell in released.cells if cell.metadata.nbgrader.get("grade_id")}
    there = {_grade_id(cell) for cell in notebook.cells}
    if not there & wanted.keys():
        return None, [f"{name} has none of the cells of {assignment}: is it another notebook? No points."]
    trouble = []
    for name, cell in wanted.items():
        if name not in there and cell.metadata.nbgrader.grade:
            trouble.append(f"The test {name!r} had been deleted: it was put back and run.")
        elif name not in there and cell.metadata.nbgrader.solution:
            trouble.append(f"The cell {name!r}, where the answer goes, had been deleted: its tests find no answer.")
    return nbformat.writes(notebook), trouble


def _grade_id(cell: Any) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def _clear(grader: Any, person: str, assignment: str) -> None:
    """Nothing of an older submission's points is left: zero each."""
    with grader.gradebook as book:
        book.update_or_create_student(person)
        book.update_or_create_submission(assignment, person)
        for part in book.find_submission_notebook(assignment, assignment, person).grades:
            part.auto_score, part.needs_manual_grade = 0, False
        book.db.commit()


def checks_of(course: Path, assignment: str) -> dict[str, float]:
    """Points by check, in the notebook's order."""
    import nbformat

    cells = nbformat.read(course / "release" / assignment / f"{assignment}.ipynb", as_version=4).cells
    return {_grade_id(cell): float(cell.metadata.nbgrader.points) for cell in cells if cell.metadata.nbgrader.grade}


def _points(grader: Any, person: str, assignment: str, maximum: dict[str, float]) -> dict[str, float]:
    with grader.gradebook as book:
        grades = book.find_submission_notebook(assignment, assignment, person).grades
        found = {grade.name: float(grade.score or 0) for grade in grades}
    return {name: found.get(name, 0.0) for name in maximum}


class _State:
    """What was graded before: digests and remarks, in `marks/ASSIGNMENT.json`."""

    def __init__(self, course: Path, assignment: str) -> None:
        self.path = course / "marks" / f"{assignment}.json"
        version = (course / "source" / assignment / f"{assignment}.ipynb").read_bytes()
        self.version = hashlib.sha256(version).hexdigest()  # other tests: everyone is graded anew
        self.known: dict[str, Any] = json.loads(self.path.read_text("utf-8")) if self.path.is_file() else {}

    def remarks_of(self, submission: Submission) -> list[str] | None:
        """Of the same bytes and the same lateness; None where they have to be graded."""
        entry = self.known.get(submission.person, {})
        now = (submission.digest, submission.late, self.version)
        same = tuple(entry.get(key) for key in ("digest", "late", "version")) == now
        return entry["remarks"] if same else None

    def forget(self, submission: Submission) -> None:
        """The next run grades it."""
        self.known.pop(submission.person, None)

    def keep(self, submission: Submission, remarks: Sequence[str]) -> None:
        """Written after each person: a killed run goes on where it was."""
        entry = {key: getattr(submission, key) for key in ("name", "file", "platform", "number", "late", "digest")}
        self.known[submission.person] = {**entry, "version": self.version, "remarks": list(remarks)}
        write_text(self.path, json.dumps(self.known, indent=1, ensure_ascii=False) + "\n")
