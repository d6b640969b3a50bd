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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamix_lab.classroom.course import api, done
from adamix_lab.classroom.sandbox import Ended, Limits, NotStarted, run
from adamix_lab.classroom.submissions import Submission
from adamix_lab.core.errors import LabError, extra
from adamix_lab.core.files import alone, read_json, write_text

ABOUT = ("name", "platform", "number", "late")  # what is kept of a submission, and stands in the tables


@dataclass(frozen=True)
class Marked:
    """One person's result.

    Attributes:
        person, name, platform, number, late: as in `Submission`.
        points: by check.
        maximum: of each check.
        remarks: what happened, in words.
        seconds: that grading took; 0 where nothing had changed, None where nothing was handed in this time.
    """

    person: str
    name: str
    platform: str
    number: str
    late: bool
    points: dict[str, float]
    maximum: dict[str, float]
    remarks: tuple[str, ...]
    seconds: float | None = None

    @property
    def total(self) -> float:
        """Points in all."""
        return sum(self.points.values())

    @property
    def best(self) -> float:
        """Points to be had."""
        return sum(self.maximum.values())


@alone("course")
def grade(
    submissions: Sequence[Submission], assignment: str, course: Path, limits: Limits, again: bool = False
) -> list[Marked]:
    """Grades one submission a person, and prints a line of progress each.

    Returns the results of everyone who has been graded in this course, now or before, in the order of their ids.

    Raises FileNotFoundError where the assignment has not been released in this course.
    """
    with extra("instructor"):
        import nbformat
        import nbgrader  # noqa: F401

    course = course.resolve()
    if not (course / "release" / assignment).is_dir():
        raise FileNotFoundError(
            f"{course} has no release of {assignment!r}: expected the course that students got theirs from. Run "
            f"`adamix-lab classroom release {assignment} --course {course.name}` first."
        )
    released = nbformat.read(course / "release" / assignment / f"{assignment}.ipynb", as_version=4)
    ran: dict[str, Any] = {"released": released}
    grader = api(course, _settings(limits, ran))
    # with other tests, everyone is graded anew
    version = hashlib.sha256((course / "source" / assignment / f"{assignment}.ipynb").read_bytes()).hexdigest()
    kept = course / "marks" / f"{assignment}.json"
    graded = read_graded(kept) if kept.is_file() else {}
    tests = [cell.metadata.nbgrader for cell in released.cells if cell.metadata.nbgrader.grade]
    maximum, took = {test.grade_id: float(test.points) for test in tests}, dict[str, float]()
    for n, submission in enumerate(submissions, 1):
        start = time.perf_counter()
        try:
            files, why = submission.read(), ""
        except LabError as problem:
            files, why = {}, f"{problem} No points."
        handed = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        digest = hashlib.sha256(repr((version, handed, submission.remarks, why)).encode()).hexdigest()
        before = graded.pop(submission.person, {})
        remarks, seconds = before.get("remarks", ()), 0.0
        if again or before.get("digest") != digest:
            write_graded(kept, graded)  # without this person: whatever happens now, the next run grades them
            told = _grade_one(grader, submission, files, why, assignment, course, released, ran)
            remarks, seconds = (*submission.remarks, *told), time.perf_counter() - start
        about = {name: getattr(submission, name) for name in (*ABOUT, "file")}
        graded[submission.person] = {**about, "digest": digest, "remarks": remarks}
        write_graded(kept, graded)  # a killed run goes on from here
        took[submission.person] = seconds
        with grader.gradebook as book:
            total = sum(_points(book, submission.person, assignment, maximum).values())
        how = f"{seconds:.1f} s" if seconds else "unchanged"
        print(f"{n:3d}/{len(submissions)}  {submission.name}: {total:g} of {sum(maximum.values()):g} ({how})")
    with grader.gradebook as book:
        return [
            Marked(
                person, **{name: entry[name] for name in ABOUT}, points=_points(book, person, assignment, maximum),
                maximum=maximum, remarks=tuple(entry["remarks"]), seconds=took.get(person),
            )
            for person, entry in sorted(graded.items())
        ]  # fmt: skip


def _bound(source: str) -> set[str]:
    """The names that a cell binds; none where it is no Python."""
    try:
        return {s.get_name() for s in symtable.symtable(source, "cell", "exec").get_symbols() if s.is_assigned()}
    except (SyntaxError, ValueError):
        return set()


def _settings(limits: Limits, ran: dict[str, Any]) -> Any:
    """Nbgrader's own steps, but for the one that executes: that is done apart."""
    from nbformat.v4 import new_output
    from nbgrader import preprocessors as own
    from traitlets.config import Config

    class RunApart(own.NbGraderPreprocessor):  # type: ignore[name-defined,misc]
        """Executes the notebook in a process of its own; each cell of what cannot be run says why, for no points."""

        def preprocess(self, nb: Any, resources: Any) -> Any:
            """The executed notebook."""
            try:
                if ran["why"]:
                    nb = copy.deepcopy(ran["released"])  # nbgrader has put the hidden tests into nb
                    raise Ended(ran["why"])
                nb, ran["remarks"], _ = run(nb, limits, ran["files"])
            except Ended as end:
                ran["remarks"], words = [str(end)], f"NotRun: this cell was not run. {end}"
                for cell in nb.cells:
                    if cell.cell_type == "code":
                        cell.outputs = [new_output("error", ename="NotRun", evalue=words, traceback=[words])]
            except NotStarted as trouble:
                ran["trouble"] = trouble
                raise
            return nb, resources

    config = Config()
    config.Autograde.autograde_preprocessors = [RunApart, own.LimitOutput, own.SaveAutoGrades, own.CheckCellMetadata]
    return config


def _grade_one(
    grader: Any,
    submission: Submission,
    files: Mapping[str, bytes],
    why: str,
    assignment: str,
    course: Path,
    released: Any,
    ran: dict[str, Any],
) -> list[str]:
    """Grades one; the remarks. Why not: in the place of what cannot be read stands the released notebook, not run."""
    import nbformat

    person = submission.person
    folder = course / "submitted" / person / assignment
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebook, remarks = released, list[str]()
    if not why:
        (name, data), *others = files.items()
        for other, text in others:
            (folder / other).write_bytes(text)
        ran["files"] = {other: text.decode("utf-8-sig", "replace") for other, text in others}
        try:
            notebook = read_notebook(name, data, released, assignment)
            remarks = mend(notebook, {_grade_id(cell): cell for cell in released.cells})
        except LabError as problem:
            why = f"{problem} No points."
    write_text(folder / f"{assignment}.ipynb", nbformat.writes(notebook))
    ran |= {"why": why, "trouble": None}
    answer = grader.autograde(assignment, person, force=True)
    if ran["trouble"]:
        raise OSError(
            f"{submission.name} was not graded: Python did not start on this machine ({ran['trouble']}). Whoever came "
            "before is graded and kept: run the same command again, with less beside it."
        )
    if not answer["success"] and not why:
        words = (answer.get("error") or "nbgrader did not say why").strip().splitlines()
        why = f"Its cells could not be read: {words[-1]}."
        return [*remarks, *_grade_one(grader, submission, files, why, assignment, course, released, ran)]
    done(answer, f"Grading {person}")
    return [*remarks, *ran["remarks"]]


def read_notebook(name: str, data: bytes, released: Any, assignment: str) -> Any:
    """The submitted notebook. Raises LabError where it is none, or another one."""
    import nbformat

    if not data:
        raise LabError(f"{name} is empty: expected a notebook (.ipynb).")
    try:
        notebook = nbformat.reads(data.decode("utf-8-sig"), as_version=4)
        nbformat.validate(notebook)
        notebook = nbformat.v4.upgrade(notebook)
    except Exception as error:  # nbformat raises many kinds
        why = str(error).strip().splitlines()[0][:160]
        raise LabError(f"{name} is not a notebook ({why}): expected the .ipynb file that JupyterLab saves.") from error
    if not {_grade_id(cell) for cell in notebook.cells} & {_grade_id(cell) for cell in released.cells} - {""}:
        raise LabError(f"{name} has none of the cells of {assignment}: is it another notebook?")
    return notebook


def mend(notebook: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Each released cell stands once in the notebook, with its own marks, and no other has any; remarks, in words.

    Jupyter copies a cell's marks with the cell: of several, the first counts that follows those before it, and of
    answers the first that was written. A part of an answer in a cell of its own is run as it is; other copies are not.
    """
    cells, trouble, at = notebook.cells, [], 0
    for cell in cells:
        if _grade_id(cell) not in wanted:
            cell.metadata.pop("nbgrader", None)
    for name, mine in wanted.items():
        marks, here = mine.metadata.nbgrader, [n for n, cell in enumerate(cells) if _grade_id(cell) == name]
        changed = [n for n in here if cells[n].source.strip() != mine.source.strip()]
        choice = (changed if marks.solution else []) or here
        kept = next((n for n in choice if n >= at), choice[0] if choice else -1)
        for n in here:
            cell, bound = cells[n], _bound(cells[n].source)
            cell.metadata.nbgrader = copy.deepcopy(marks)
            if n == kept:
                continue
            del cell.metadata["nbgrader"]
            if marks.solution and bound and not bound & _bound(cells[kept].source):
                trouble.append(f"The answer {name!r} stands in two cells: both were run.")
            elif marks.solution or marks.grade:
                cell.update(cell_type="raw", outputs=None, execution_count=None)
                del cell["outputs"], cell["execution_count"]
                trouble.append(f"The cell {name!r} stands there more than once: one counts, the copy was set aside.")
        if marks.grade and kept in changed:
            trouble.append(f"The text of the test {name!r} had been changed: the original was run.")
        if not here and marks.solution:
            trouble.append(f"The cell {name!r}, where the answer goes, had been deleted: its tests find no answer.")
        elif not here and mine.cell_type == "code":
            kept = at
            cells.insert(at, copy.deepcopy(mine))
            trouble.append(
                f"The {'test' if marks.grade else 'cell'} {name!r} had been deleted: it was put back and run."
            )
        at = max(at, kept + 1)
    return list(dict.fromkeys(trouble))


def _grade_id(cell: Any) -> str:
    marks = cell.metadata.get("nbgrader")
    return str(marks.get("grade_id", "")) if isinstance(marks, dict) else ""


def _points(book: Any, person: str, assignment: str, maximum: dict[str, float]) -> dict[str, float]:
    grades = book.find_submission_notebook(assignment, assignment, person).grades
    found = {grade.name: float(grade.score or 0) for grade in grades}
    return {name: found.get(name, 0.0) for name in maximum}


def write_graded(path: Path, graded: Mapping[str, Any]) -> None:
    """What was graded so far, by person: where it came from, digests and remarks."""
    write_text(path, json.dumps(graded, indent=1, ensure_ascii=False) + "\n")


def read_graded(path: Path) -> dict[str, Any]:
    """What `write_graded` wrote. Raises LabError for a damaged file."""
    expected = "what `grade` wrote. Delete it and grade again; points given by hand stay in the gradebook."
    known = read_json(path, expected)
    needed = {"name", "file", "platform", "remarks"}
    if not isinstance(known, dict) or not all(isinstance(e, dict) and needed <= e.keys() for e in known.values()):
        raise LabError(f"{path} holds something else: expected {expected}")
    # earlier versions kept neither: an id begins with the platform's, and that someone was late stands in a remark
    return {person: {"number": person.partition("-")[0], "late": False, **entry} for person, entry in known.items()}
