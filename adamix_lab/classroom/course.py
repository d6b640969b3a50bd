"""A course's folder, as nbgrader lays it out, and the two versions of an assignment.

COURSE/source      with solutions and hidden tests, from notebooks/exercises/src
COURSE/release     for students
COURSE/solution    for instructors: the source, executed by nobody
COURSE/submitted, autograded, feedback, marks
COURSE/gradebook   nbgrader's database
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import LabError, extra, unknown
from adamix_lab.tasks.tasks import shipped_folder


def api(course: Path, settings: Any = None) -> Any:
    """The API of nbgrader on a course's folder, made where it is missing. settings: more of nbgrader's Config."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module="sqlalchemy")
    with extra("instructor"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy 2.1 about nbgrader's models
        from nbgrader.apps import NbGraderAPI
        from traitlets.config import Config

    programs = str(Path(sys.executable).parent)  # nbgrader calls alembic by its name, venv active or not
    if programs not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = programs + os.pathsep + os.environ.get("PATH", "")
    course = course.resolve()
    (course / "gradebook").mkdir(parents=True, exist_ok=True)
    config = Config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.course_id = "adamix"
    config.CourseDirectory.db_url = f"sqlite:///{course / 'gradebook' / 'gradebook.db'}"
    config.Exchange.root = str(course / "gradebook")  # none is used, but it must be writable
    config.ClearSolutions.code_stub = {"python": STUB}
    config.OverwriteCells.add_missing_cells = True  # a deleted test runs all the same
    config.HTMLExporter.mathjax_url = config.HTMLExporter.require_js_url = ""  # nothing from outside
    config.merge(settings or {})
    made = NbGraderAPI(config=config)
    made.log.handlers, made.log.propagate = [logging.NullHandler()], False  # its words come back with each answer
    made.log.setLevel(logging.INFO)
    return made


def done(answer: dict[str, Any], what: str) -> None:
    """Raises ValueError with nbgrader's own words where one of its steps failed."""
    if not answer["success"]:
        words = (answer.get("log") or answer.get("error") or "").strip().splitlines()
        raise LabError(f"{what} failed in nbgrader: {words[-1] if words else 'it did not say why'}.")


def cell_names(notebook: Any) -> set[str]:
    """What nbgrader calls the cells of a built notebook."""
    return {cell.metadata.nbgrader.grade_id for cell in notebook.cells}


def release(name: str, course: Path, folder: Path | None = None) -> tuple[Path, Path]:
    """Makes the student's and the instructor's version of an assignment: the two files.

    folder: of the exercises' sources, as `sources_folder` takes it.

    Raises ValueError where submissions of an older version with other cells are in the gradebook.
    """
    import nbformat

    notebook, maker = build(name, folder), api(course)
    source, solution = (course / part / name / f"{name}.ipynb" for part in ("source", "solution"))
    with maker.gradebook as book:
        handed_in = book.assignment_submissions(name)
    # before anything changes: nbgrader refuses it, too, but first removes the version that students have
    if handed_in and source.is_file() and cell_names(notebook) != cell_names(nbformat.read(source, as_version=4)):
        raise LabError(
            f"{name} has submissions in {course / 'gradebook'} and its cells have changed since: expected the cells "
            "that students were given. Give a new --course folder for the new version."
        )
    source.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, source)
    answer = maker.generate_assignment(name, force=True)
    done(answer, f"The release of {name}")
    solution.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, solution)
    return course / "release" / name / f"{name}.ipynb", solution


# -- exercises from one source: py:percent files with answers and checks, as notebooks that nbgrader takes -------------
# Cells are marked by metadata in their `# %%` line:
#
#     # %% answer="count" minutes=8 difficulty=1 aims="M experts cost M times as much at inference"
#     # %% check="count-one" points=1
#
# An answer holds its reference solution between nbgrader's marks (`### BEGIN SOLUTION`); a check belongs to the answer
# that its name begins with, and may hide tests (`### BEGIN HIDDEN TESTS`). Every other cell is locked. `aims` names the
# misconception that the exercise is for; it stays in the source.


STUB = "raise NotImplementedError()"


@dataclass(frozen=True)
class Exercise:
    """One exercise of an assignment: what its source says about it, and its checks with their points."""

    name: str
    minutes: int
    difficulty: int
    aims: str
    checks: dict[str, float]


def sources_folder(exercises: Path | None = None) -> Path:
    """Where the sources lie, which hold the solutions: `src` in `notebooks/exercises` of a checkout or sdist.

    Args:
        exercises: that folder, or its `src`; None takes the checkout's that this package is part of.

    Raises FileNotFoundError where there are none, as in an installed package.
    """
    folder = exercises or shipped_folder("notebooks") / "exercises"
    found = next((place for place in (folder / "src", folder) if any(place.glob("*.py"))), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder} holds no sources of exercises: give --exercises PATH, the folder notebooks/exercises of a "
            "checkout or an unpacked sdist (with their solutions they are no part of an installed package)."
        )
    return found


def assignments(folder: Path | None = None) -> list[str]:
    """Names of the assignments, in the lessons' order. folder: as `sources_folder` takes it."""
    return sorted(path.stem for path in sources_folder(folder).glob("*.py"))


def read_source(name: str, folder: Path | None = None) -> Any:
    """The source of an assignment as a notebook, marks as they stand. Raises ValueError for an unknown name."""
    import jupytext

    if name not in assignments(folder):
        raise unknown("Assignment", name, assignments(folder))
    return jupytext.read(sources_folder(folder) / f"{name}.py", fmt="py:percent")


def exercises(name: str, folder: Path | None = None) -> list[Exercise]:
    """The exercises of an assignment. Raises ValueError where a mark is missing or a check belongs to no answer."""
    found: dict[str, Exercise] = {}
    for cell in read_source(name, folder).cells:
        if "answer" in cell.metadata:
            marks = {key: cell.metadata.get(key) for key in ("minutes", "difficulty", "aims")}
            if None in marks.values():
                missing = next(key for key, value in marks.items() if value is None)
                raise LabError(f"{name}: an answer has no {missing}: expected minutes, difficulty and aims.")
            found[cell.metadata["answer"]] = Exercise(cell.metadata["answer"], **marks, checks={})
        elif "check" in cell.metadata:
            check = cell.metadata["check"]
            owner = check.split("-")[0]
            if owner not in found or "points" not in cell.metadata:
                raise LabError(f"{name}: check {check!r} needs points and an answer {owner!r} above it.")
            found[owner].checks[check] = float(cell.metadata["points"])
    return list(found.values())


def build(name: str, folder: Path | None = None) -> Any:
    """The notebook that nbgrader makes both versions from: its metadata, ids by place, minutes and difficulty told."""
    import nbformat

    about = {exercise.name: exercise for exercise in exercises(name, folder)}
    notebook = read_source(name, folder)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for n, cell in enumerate(notebook.cells):
        cell["id"] = f"{name}-{n:02d}"
        marks: dict[str, Any] = {"schema_version": 3, "grade": False, "solution": False, "task": False, "locked": True}
        if "answer" in cell.metadata:
            marks |= {"solution": True, "locked": False, "grade_id": cell.metadata["answer"]}
            e = about[cell.metadata["answer"]]
            told = f"{e.minutes} minutes, difficulty {e.difficulty} of 3, {sum(e.checks.values()):g} points."
            notebook.cells[n - 1].source += f"\n\n*{told}*"
        elif "check" in cell.metadata:
            marks |= {"grade": True, "grade_id": cell.metadata["check"], "points": cell.metadata["points"]}
        else:
            marks |= {"grade_id": f"cell-{n:02d}"}
        cell.metadata = nbformat.from_dict({"nbgrader": marks})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook
