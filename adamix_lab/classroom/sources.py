"""Exercises from one source: py:percent files with answers and checks, as notebooks that nbgrader takes.

Cells are marked by metadata in their `# %%` line:

    # %% answer="count" minutes=8 difficulty=1 aims="M experts cost M times as much at inference"
    # %% check="count-one" points=1

An answer holds its reference solution between nbgrader's marks (`### BEGIN SOLUTION`); a check belongs to the answer
that its name begins with, and may hide tests (`### BEGIN HIDDEN TESTS`). Every other cell is locked. `aims` names the
misconception that the exercise is for; it stays in the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import unknown

STUB = "raise NotImplementedError()"
SOURCES = Path("notebooks") / "exercises" / "src"


@dataclass(frozen=True)
class Exercise:
    """One exercise of an assignment: what its source says about it, and its checks with their points."""

    name: str
    minutes: int
    difficulty: int
    aims: str
    checks: dict[str, float]


def sources_folder() -> Path:
    """Where the sources lie. Raises FileNotFoundError outside of a checkout: the installed package has no solutions."""
    folder = Path(__file__).resolve().parents[2] / SOURCES
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not there: expected a checkout of the repository. Clone it; an installed package has no "
            "exercises, for they hold the solutions."
        )
    return folder


def assignments() -> list[str]:
    """Names of the assignments, in the lessons' order."""
    return sorted(path.stem for path in sources_folder().glob("*.py"))


def read_source(name: str) -> Any:
    """The source of an assignment as a notebook, marks as they stand. Raises ValueError for an unknown name."""
    import jupytext

    if name not in assignments():
        raise unknown("Assignment", name, assignments())
    return jupytext.read(sources_folder() / f"{name}.py", fmt="py:percent")


def exercises(name: str) -> list[Exercise]:
    """The exercises of an assignment. Raises ValueError where a mark is missing or a check belongs to no answer."""
    found: dict[str, Exercise] = {}
    for cell in read_source(name).cells:
        if "answer" in cell.metadata:
            marks = {key: cell.metadata.get(key) for key in ("minutes", "difficulty", "aims")}
            if None in marks.values():
                missing = next(key for key, value in marks.items() if value is None)
                raise ValueError(f"{name}: an answer has no {missing}: expected minutes, difficulty and aims.")
            found[cell.metadata["answer"]] = Exercise(cell.metadata["answer"], **marks, checks={})
        elif "check" in cell.metadata:
            check = cell.metadata["check"]
            owner = check.split("-")[0]
            if owner not in found or "points" not in cell.metadata:
                raise ValueError(f"{name}: check {check!r} needs points and an answer {owner!r} above it.")
            found[owner].checks[check] = float(cell.metadata["points"])
    return list(found.values())


def build(name: str) -> Any:
    """The notebook that nbgrader makes both versions from: its metadata, ids by place, minutes and difficulty told."""
    import nbformat

    about = {exercise.name: exercise for exercise in exercises(name)}
    notebook = read_source(name)
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
            exercise = about[cell.metadata["answer"]]
            points = sum(exercise.checks.values())
            notebook.cells[
                n - 1
            ].source += f"\n\n*{exercise.minutes} minutes, difficulty {exercise.difficulty} of 3, {points:g} points.*"
        elif "check" in cell.metadata:
            marks |= {"grade": True, "grade_id": cell.metadata["check"], "points": cell.metadata["points"]}
        else:
            marks |= {"grade_id": f"cell-{n:02d}"}
        cell.metadata = nbformat.from_dict({"nbgrader": marks})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook
