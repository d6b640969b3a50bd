"""Marks of an assignment's answers, computed in this process: quick, and the same rule as nbgrader's."""

import contextlib
import functools
import io
from dataclasses import dataclass
from pathlib import Path

MUTANTS = Path(__file__).resolve().parent / "mutants"
BLANK = "raise NotImplementedError()"


@dataclass(frozen=True)
class Mutant:
    """A wrong answer with the misconception's name, and the checks that it must lose, no more and no fewer."""

    answer: str
    name: str
    loses: tuple[str, ...]
    source: str


@functools.cache
def notebook(assignment):
    from adamix_lab.classroom.course import build

    return build(assignment)


def mutants(assignment):
    import jupytext

    path = MUTANTS / f"{assignment}.py"
    cells = jupytext.read(path, fmt="py:percent").cells if path.is_file() else []
    return [
        Mutant(c.metadata["answer"], c.metadata["name"], tuple(sorted(c.metadata["loses"].split())), c.source)
        for c in cells
    ]


def mark(cell, kind):
    return cell.metadata["nbgrader"].get("grade_id") if cell.metadata["nbgrader"][kind] else None


def points_of(assignment):
    return {
        name: cell.metadata["nbgrader"]["points"]
        for cell in notebook(assignment).cells
        if (name := mark(cell, "grade"))
    }


def lost(assignment, answers=None, everything=None):
    """Names of the checks that fail, sorted, where answers replace the reference's; everything: one text for all."""
    space, failed = {"__name__": "__main__"}, []
    for cell in notebook(assignment).cells:
        if cell.cell_type != "code":
            continue
        answer, check = mark(cell, "solution"), mark(cell, "grade")
        source = cell.source if not answer else everything or (answers or {}).get(answer, cell.source)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, f"{assignment}:{check or answer or 'cell'}", "exec"), space)
        except Exception:
            if check:
                failed.append(check)
            elif not answer:
                raise
    return tuple(sorted(failed))


# -- submissions ---------------------------------------------------------------------------------------------


def reference(assignment):
    """The reference answers by name."""
    return {name: cell.source for cell in notebook(assignment).cells if (name := mark(cell, "solution"))}


def submission(release, answers, edit=None):
    """What a person hands in: the student's version with answers put in, and an edit of the cells; as text."""
    import nbformat

    made = nbformat.read(release, as_version=4)
    for cell in made.cells:
        if (name := mark(cell, "solution")) in answers:
            cell.source = answers[name]
    if edit is not None:
        made.cells = edit(made.cells)
    return nbformat.writes(made)


def hand_in(assignment, folder):
    """A person's folder with the reference answers in the committed student version."""
    released = Path(__file__).resolve().parent.parent / "notebooks" / "exercises" / f"{assignment}.ipynb"
    folder.mkdir(parents=True)
    text = submission(released, reference(assignment))
    (folder / released.name).write_text(text, encoding="utf-8")


def without(name):
    """An edit that deletes the cell of a name."""
    return lambda cells: [cell for cell in cells if cell.metadata["nbgrader"].get("grade_id") != name]


def tagged(name, tag):
    """An edit that puts a tag on a cell."""

    def edit(cells):
        for cell in cells:
            if cell.metadata["nbgrader"].get("grade_id") == name:
                cell.metadata["tags"] = [tag]
        return cells

    return edit


# Troubles with 01_routing's exercise `number` (3 points of 10), each with a sign in the remarks.
TROUBLES = {
    "an endless loop": (
        "def number_of_routes(counts, tied=False):\n    while True:\n        pass",
        "did not end within",
    ),
    "a memory hog": ("hog = bytearray(8 << 30)", "more memory than"),
    "a crash": ("import os\n\nos._exit(3)", "Python ended"),
    "an exit": ("def number_of_routes(counts, tied=False):\n    raise SystemExit(0)", "stderr"),
    "huge output": ("while True:\n    print('x' * 1000)", "printed more than"),
    "the network": ("import urllib.request\n\nurllib.request.urlopen('http://127.0.0.1:9')", ""),
}
CHATTY = (
    "import sys\n\n\ndef number_of_routes(counts, tied=False):\n    print('thinking', file=sys.stderr)\n"
    "    number = 1\n"
    "    for down, up in counts:\n        number *= max(down, up) if tied else down * up\n    return number"
)
