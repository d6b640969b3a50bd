"""A course's folder, as nbgrader lays it out, and the two versions of an assignment.

COURSE/source      with solutions and hidden tests, from notebooks/exercises/src
COURSE/release     for students
COURSE/solution    for instructors: the source, executed by nobody
COURSE/submitted, autograded, feedback, marks
COURSE/gradebook   nbgrader's database
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from adamix_lab.classroom.sources import STUB, build

FOLDERS = ("source", "release", "solution", "submitted", "autograded", "feedback", "gradebook")


def needs_nbgrader() -> None:
    """Raises ImportError, with the remedy, where nbgrader is missing."""
    if importlib.util.find_spec("nbgrader") is None:
        raise ImportError(
            "nbgrader is not installed: it makes the exercises' versions and marks them. pip install "
            "'adamix-lab[instructor]', or python bootstrap.py --extras all,dev,instructor. Students do not need it."
        )


def api(course: Path, settings: Any = None) -> Any:
    """The API of nbgrader on a course's folder, made where it is missing. settings: more of nbgrader's Config."""
    needs_nbgrader()
    import logging
    import warnings

    from traitlets.config import Config

    warnings.filterwarnings("ignore", module="sqlalchemy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy 2.1 about nbgrader's models
        from nbgrader.apps import NbGraderAPI

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
    if settings is not None:
        config.merge(settings)
    made = NbGraderAPI(config=config)
    made.log.handlers, made.log.propagate = [logging.NullHandler()], False  # its words come back with each answer
    made.log.setLevel(logging.INFO)
    return made


def done(answer: dict[str, Any], what: str) -> None:
    """Raises ValueError with nbgrader's own words where one of its steps failed."""
    if not answer["success"]:
        words = (answer.get("log") or answer.get("error") or "").strip().splitlines()
        raise ValueError(f"{what} failed in nbgrader: {words[-1] if words else 'it did not say why'}.")


def release(name: str, course: Path) -> tuple[Path, Path]:
    """Makes the student's and the instructor's version of an assignment: the two files.

    Raises ValueError where submissions of an older version with other cells are in the gradebook.
    """
    import nbformat

    needs_nbgrader()
    source = course / "source" / name / f"{name}.ipynb"
    source.parent.mkdir(parents=True, exist_ok=True)
    notebook = build(name)
    nbformat.write(notebook, source)
    answer = api(course).generate_assignment(name, force=True)
    if not answer["success"] and "submissions associated" in (answer.get("error") or ""):
        raise ValueError(
            f"{name} has submissions in {course / 'gradebook'} and its cells have changed since: expected the cells "
            "that students were given. Give a new --course folder for the new version."
        )
    done(answer, f"The release of {name}")
    solution = course / "solution" / name / f"{name}.ipynb"
    solution.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, solution)
    return course / "release" / name / f"{name}.ipynb", solution
