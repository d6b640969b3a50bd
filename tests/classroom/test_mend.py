"""Notebooks as students leave them: which cell counts, what is put back, what is set aside."""

import copy

import pytest

pytest.importorskip("nbformat", reason="the notebooks extra is not installed")

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from adamix_lab.classroom.grading import mend


def cell(name, source, grade=False, solution=False, made=new_code_cell):
    mark = {"grade_id": name, "grade": grade, "solution": solution, "locked": not solution, "schema_version": 3}
    return made(source, metadata={"nbgrader": {**mark, "task": False, **({"points": 1} if grade else {})}})


def released():
    cells = [
        cell("text", "Do it.", made=new_markdown_cell),
        cell("first", "import math"),
        cell("f", "def f():\n    raise NotImplementedError()", solution=True),
        cell("f-one", "assert f() == 1", grade=True),
        cell("f-two", "assert f() < 2", grade=True),
    ]
    return {c.metadata.nbgrader.grade_id: c for c in cells}


ANSWER = "def f():\n    return 1"


def mended(change):
    """(what is run, in order: name or text; remarks) after a change to an answered notebook."""
    wanted = released()
    cells = copy.deepcopy(list(wanted.values()))
    cells[2].source = ANSWER
    notebook = new_notebook(cells=change(cells))
    remarks = mend(notebook, wanted)
    nbformat.validate(notebook)
    names = [c.metadata.get("nbgrader", {}).get("grade_id", c.source) for c in notebook.cells if c.cell_type == "code"]
    assert all(c.metadata.nbgrader == wanted[c.metadata.nbgrader.grade_id].metadata.nbgrader
               for c in notebook.cells if "nbgrader" in c.metadata)  # fmt: skip
    return names, " ".join(remarks)


ORDER = ["first", "f", "f-one", "f-two"]


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        (lambda c: c, ""),
        (lambda c: [*c, copy.deepcopy(c[3])], "'f-one' stands there more than once"),
        (lambda c: [copy.deepcopy(c[3]), *c], "'f-one' stands there more than once"),
        (lambda c: [*c[:3], copy.deepcopy(c[2]), *c[3:]], "'f' stands there more than once"),
        (lambda c: [*c[:2], copy.deepcopy(released()["f"]), *c[2:]], "'f' stands there more than once"),
        (lambda c: [*c, copy.deepcopy(released()["f"])], "'f' stands there more than once"),
        (lambda c: c[:3] + c[4:], "test 'f-one' had been deleted"),
        (lambda c: c[:3], "test 'f-two' had been deleted"),
        (lambda c: [c[0], *c[2:]], "cell 'first' had been deleted"),
        (lambda c: c[1:], ""),
        (lambda c: [*c[:3], cell("f-one", "print('fine')", grade=True), c[4]], "'f-one' had been changed"),
        (lambda c: [*c[:3], cell("f-one", "assert f() == 1", solution=True), c[4]], ""),  # other marks: put right
    ],
)
def test_each_released_cell_counts_once(change, sign):
    names, told = mended(change)
    assert names == ORDER and (sign in told if sign else not told), (names, told)


def test_an_answer_in_two_cells_is_run_in_both():
    helper = cell("f", "def helper():\n    return 1", solution=True)
    names, told = mended(lambda c: [*c[:2], helper, *c[2:]])
    assert sorted(names) == sorted([*ORDER, ANSWER]) and "stands in two cells" in told


def test_marks_of_ones_own_are_taken_off():
    own = [cell("mine", "1", grade=True), new_code_cell("2", metadata={"nbgrader": "x"}), new_code_cell("3")]
    names, told = mended(lambda c: [*c, *own])
    assert names == [*ORDER, "1", "2", "3"] and not told


def test_a_deleted_answer_is_told_and_nothing_is_put_there():
    names, told = mended(lambda c: c[:2] + c[3:])
    assert names == ["first", "f-one", "f-two"] and "its tests find no answer" in told
