"""Grades a folder of submissions with nbgrader: each runs by itself (`sandbox`), each fault is told in words.

Marks stand in nbgrader's gradebook, so that a person's own corrections in its form grader count and stay. A second run
grades what is new or changed; `again` grades everything.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import symtable
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adamix_lab.classroom.course import api, done, needs_nbgrader
from adamix_lab.classroom.marks import Marked
from adamix_lab.classroom.sandbox import Limits, NotStarted, run
from adamix_lab.classroom.submissions import Submission
from adamix_lab.core.errors import LabError
from adamix_lab.core.files import read_json, write_text


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
    import nbformat

    course = course.resolve()
    if not (course / "release" / assignment).is_dir():
        raise FileNotFoundError(
            f"{course} has no release of {assignment!r}: expected the course that students got theirs from. Run "
            f"`adamix-lab classroom release {assignment} --course {course.name}` first."
        )
    ran: dict[str, Any] = {}
    released = nbformat.read(course / "release" / assignment / f"{assignment}.ipynb", as_version=4)
    grader = api(course, _settings(limits, ran))
    state = _State(course, assignment)
    marked, maximum = [], checks_of(course, assignment)
    for n, submission in enumerate(submissions, 1):
        start = time.perf_counter()
        files, trouble = _read(submission)
        digest = hashlib.sha256(repr((submission.file, files, trouble)).encode()).hexdigest()
        seen = None if again else state.remarks_of(submission, digest)
        try:
            if seen is None:
                remarks = (*trouble, *_grade_one(grader, submission.person, files, assignment, course, released, ran))
            else:
                remarks = tuple(seen)
        except NotStarted as problem:
            state.forget(submission)
            raise OSError(
                f"{submission.name} was not graded: Python did not start on this machine ({problem}). "
                f"{n - 1} of {len(submissions)} are graded and kept: run the same command again, with less beside it."
            ) from problem
        seconds = 0.0 if seen is not None else time.perf_counter() - start
        points = _points(grader, submission.person, assignment, maximum)
        state.keep(submission, digest, remarks)
        marked.append(Marked(submission, points, maximum, remarks, seconds))
        how = "unchanged" if seen is not None else f"{seconds:.1f} s"
        tell(f"{n:3d}/{len(submissions)}  {submission.name}: {marked[-1].total:g} of {marked[-1].best:g} ({how})")
    return marked


def _bound(source: str) -> set[str]:
    """The names that a cell binds; none where it is no Python."""
    try:
        return {s.get_name() for s in symtable.symtable(source, "cell", "exec").get_symbols() if s.is_assigned()}
    except (SyntaxError, ValueError):
        return set()


def _read(submission: Submission) -> tuple[dict[str, bytes], list[str]]:
    """The files, none where one cannot be read; remarks, in words."""
    try:
        return submission.read(), [*submission.remarks]
    except LabError as error:
        return {}, [*submission.remarks, f"{error} No points."]


def _settings(limits: Limits, ran: dict[str, Any]) -> Any:
    """Nbgrader's own steps, but for the one that executes: that is done apart."""
    from nbgrader import preprocessors as own
    from traitlets.config import Config

    class RunApart(own.NbGraderPreprocessor):  # type: ignore[name-defined,misc]
        """Executes the notebook in a process of its own."""

        def preprocess(self, nb: Any, resources: Any) -> Any:
            """The executed notebook; what happened is put first, in words."""
            try:
                executed, remarks, seconds = run(nb, limits, ran["files"])
            except NotStarted as trouble:
                ran["not started"] = trouble
                raise
            ran["remarks"], ran["seconds"] = remarks, seconds
            return executed, resources

    config = Config()
    config.Autograde.autograde_preprocessors = [RunApart, own.LimitOutput, own.SaveAutoGrades, own.CheckCellMetadata]
    return config


def _grade_one(
    grader: Any,
    person: str,
    files: Mapping[str, bytes],
    assignment: str,
    course: Path,
    released: Any,
    ran: dict[str, Any],
) -> list[str]:
    """Grades one; the remarks."""
    folder = course / "submitted" / person / assignment
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebook, remarks = None, []
    for name, data in files.items():
        if notebook is None:
            notebook, remarks = read_notebook(name, data, released, assignment)
            if notebook is None:
                break
            write_text(folder / f"{assignment}.ipynb", notebook)
        else:
            (folder / name).write_bytes(data)
    if notebook is None:
        _clear(grader, person, assignment)
        shutil.rmtree(course / "autograded" / person / assignment, ignore_errors=True)
        return remarks
    ran.clear()
    ran["files"] = {name: data.decode("utf-8-sig", "replace") for name, data in list(files.items())[1:]}
    answer = grader.autograde(assignment, person, force=True)
    if "not started" in ran:
        raise ran["not started"]
    if not answer["success"] and "remarks" not in ran:
        _clear(grader, person, assignment)
        words = (answer.get("error") or "").strip().splitlines()
        return [*remarks, f"Its cells could not be read: {words[-1] if words else 'nbgrader did not say why'}."]
    done(answer, f"Grading {person}")
    return [*remarks, *ran["remarks"]]


def read_notebook(name: str, data: bytes, released: Any, assignment: str) -> tuple[str | None, list[str]]:
    """(the submitted notebook as text, mended; what is wrong with it in words); None where it is no notebook."""
    import nbformat

    if not data:
        return None, [f"{name} is empty: expected a notebook (.ipynb). No points."]
    try:
        notebook = nbformat.reads(data.decode("utf-8-sig"), as_version=4)
        nbformat.validate(notebook)
        notebook = nbformat.v4.upgrade(notebook)
    except Exception as error:  # nbformat raises many kinds
        why = str(error).strip().splitlines()[0][:160]
        return None, [f"{name} is not a notebook ({why}): expected the .ipynb file that JupyterLab saves. No points."]
    wanted = {_grade_id(cell): cell for cell in released.cells if _grade_id(cell)}
    if not {_grade_id(cell) for cell in notebook.cells} & wanted.keys():
        return None, [f"{name} has none of the cells of {assignment}: is it another notebook? No points."]
    trouble = mend(notebook, wanted)
    return nbformat.writes(notebook), trouble


def mend(notebook: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Each released cell stands once in the notebook, with its own marks, and no other has any; remarks, in words.

    Jupyter copies a cell's marks with the cell: of several, the first counts that follows those before it, and of
    answers the first that was written. A part of an answer in a cell of its own is run as it is; other copies are not.
    """
    places: dict[str, list[int]] = {name: [] for name in wanted}
    for n, cell in enumerate(notebook.cells):
        places.get(_grade_id(cell), []).append(n)
    trouble, counts, last = [], {}, -1
    for name, cell in wanted.items():
        written = [n for n in places[name] if notebook.cells[n].source.strip() != cell.source.strip()]
        choice = written if written and cell.metadata.nbgrader.solution else places[name]
        if choice:
            counts[name] = next((n for n in choice if n > last), choice[0])
            last = max(last, counts[name])
    cells = list(notebook.cells)
    for n, cell in enumerate(cells):
        name = _grade_id(cell)
        mine, first = wanted.get(name), counts.get(name)
        if mine is None or n == first:
            cell.metadata.pop("nbgrader", None)
            if mine is not None:
                cell.metadata["nbgrader"] = copy.deepcopy(mine.metadata.nbgrader)
                if mine.metadata.nbgrader.grade and cell.source.strip() != mine.source.strip():
                    trouble.append(f"The text of the test {name!r} had been changed: the original was run.")
            continue
        del cell.metadata["nbgrader"]
        bound = _bound(cell.source)
        if bound and mine.metadata.nbgrader.solution and not bound & _bound(cells[first].source):
            trouble.append(f"The answer {name!r} stands in two cells: both were run.")
        elif mine.metadata.nbgrader.solution or mine.metadata.nbgrader.grade:
            cell["cell_type"] = "raw"
            cell.pop("outputs", None), cell.pop("execution_count", None)
            trouble.append(f"The cell {name!r} stands there more than once: one counts, the copy was set aside.")
    at = 0
    for name, mine in wanted.items():
        if name in counts:
            at = next(n for n, cell in enumerate(notebook.cells) if cell is cells[counts[name]]) + 1
        elif mine.metadata.nbgrader.solution:
            trouble.append(f"The cell {name!r}, where the answer goes, had been deleted: its tests find no answer.")
        elif mine.cell_type == "code":
            notebook.cells.insert(at, copy.deepcopy(mine))
            at += 1
            what = "test" if mine.metadata.nbgrader.grade else "cell"
            trouble.append(f"The {what} {name!r} had been deleted: it was put back and run.")
    return list(dict.fromkeys(trouble))


def _grade_id(cell: Any) -> str:
    marks = cell.metadata.get("nbgrader")
    return str(marks.get("grade_id", "")) if isinstance(marks, dict) else ""


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
        self.known = read_graded(self.path) if self.path.is_file() else {}

    def remarks_of(self, submission: Submission, digest: str) -> list[str] | None:
        """Of the same bytes and the same lateness; None where they have to be graded."""
        entry = self.known.get(submission.person, {})
        now = (digest, submission.late, self.version)
        same = tuple(entry.get(key) for key in ("digest", "late", "version")) == now
        return entry["remarks"] if same else None

    def forget(self, submission: Submission) -> None:
        """The next run grades it."""
        self.known.pop(submission.person, None)

    def keep(self, submission: Submission, digest: str, remarks: Sequence[str]) -> None:
        """Written after each person: a killed run goes on where it was."""
        entry = {key: getattr(submission, key) for key in ("name", "file", "platform", "number", "late")}
        entry |= {"digest": digest, "version": self.version, "remarks": list(remarks)}
        self.known[submission.person] = entry
        write_text(self.path, json.dumps(self.known, indent=1, ensure_ascii=False) + "\n")


def read_graded(path: Path) -> dict[str, Any]:
    """What was graded, by person. Raises LabError for a damaged file."""
    expected = "what `grade` wrote. Delete it and grade again; points given by hand stay in the gradebook."
    known = read_json(path, expected)
    needed = {"name", "file", "platform", "remarks"}
    if not isinstance(known, dict) or not all(isinstance(e, dict) and needed <= e.keys() for e in known.values()):
        raise LabError(f"{path} holds something else: expected {expected}")
    return known
