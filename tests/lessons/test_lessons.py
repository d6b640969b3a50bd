"""Lessons hold what a lesson needs: abilities, minutes, a widget with a static picture, a check, a quiz, budgets."""

import re
from importlib import import_module
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")

ROOT = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(path.stem for path in (ROOT / "src").glob("[0-9]*.py"))


@pytest.fixture(params=LESSONS)
def lesson(request):
    return request.param, nbformat.read(ROOT / f"{request.param}.ipynb", as_version=4).cells


def core(cells):
    """The cells before the first section marked Further."""
    further = [n for n, cell in enumerate(cells) if cell.source.startswith("## Further")]
    return cells[: further[0]] if further else cells


def words(cells):
    return sum(len(re.findall(r"\w+", cell.source)) for cell in cells if cell.cell_type == "markdown")


def shown(cell):
    """All that a cell's outputs say as text."""
    texts = [
        output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])
    ]
    return "\n".join(texts)


def test_the_core_fits_a_class_and_the_whole_its_budget(lesson):
    _, cells = lesson
    assert len(core(cells)) <= 25 and words(core(cells)) <= 1000
    assert len(cells) <= 45 and words(cells) <= 1500


def test_it_begins_with_abilities_minutes_and_device(lesson):
    _, cells = lesson
    first = cells[0].source
    assert "you will be able to" in first and all(f"\n{n}. " in first for n in (1, 2, 3))
    assert "minutes in class" in first and "No network, no GPU" in first


def test_the_first_screen_is_a_question_one_import_and_a_picture(lesson):
    _, cells = lesson
    assert "?" in cells[0].source and "image/png" in str(cells[1].get("outputs", ""))
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    ours = [line for line in text.splitlines() if re.match(r"\s*(from|import) adamix_lab", line)]
    assert [line for line in ours if " as lesson" in line] and len(ours) <= 2, ours
    assert all(re.match(r"from adamix_lab(\.lessons)? import", line) for line in ours)
    assert "null result" not in "".join(cell.source + shown(cell) for cell in cells).lower()


@pytest.mark.parametrize("name", LESSONS)
def test_all_that_a_notebook_asks_of_its_lesson_is_there(name):
    text = (ROOT / "src" / f"{name}.py").read_text(encoding="utf-8")
    own = re.search(r"import (\w+) as lesson", text)[1]
    module = import_module(f"adamix_lab.lessons.{own}")
    assert not [asked for asked in sorted({*re.findall(r"\blesson\.(\w+)", text)}) if not hasattr(module, asked)]


def test_results_wait_for_a_prediction_and_a_still_is_folded(lesson):
    _, cells = lesson
    text = "\n".join(cell.source for cell in cells)
    assert ".press(" not in text and "brier(" in text
    waiting = [cell for cell in cells if re.search(r"^\w+\.(then|reveal)\(", cell.source, re.M)]
    asked = re.findall(r"^(\w+) = lesson\.Prediction\(", text, re.M)
    assert asked and set(asked) == {re.findall(r"^(\w+)\.(?:then|reveal)\(", c.source, re.M)[-1] for c in waiting}
    for cell in waiting:
        (html,) = [o.data["text/html"] for o in cell.outputs if "text/html" in o.get("data", {})]
        assert html.startswith("<details><summary>") and "waits for a prediction" in shown(cell)


def test_it_breaks_something_checks_something_and_ends_with_a_quiz(lesson):
    _, cells = lesson
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for part in ("reak it", "## Exercise", "## Where the library has it", "## You can now", "**Three questions.**"):
        assert part in text, part
    assert re.search(
        r"Three questions\.\*\* 1\..+2\..+3\..+<details><summary>Answers</summary>1\..+2\..+3\.", text, re.S
    )
    checks = [cell for cell in cells if re.search(r"attempt\((lesson\.)?check_", cell.source)]
    assert checks and all("Not yet." in shown(cell) for cell in checks)  # stubs are told their mistake, in words


def test_every_effect_is_told_from_the_committed_tables(lesson):
    name, cells = lesson
    asked = [
        c for c in cells if re.search(rf'(effects_table|forest)\("{name[:2]}"', c.source) and ".then(" not in c.source
    ]
    assert asked and all(re.search("shown|alike", shown(cell)) for cell in asked)


def test_the_card_of_prerequisites_has_five_questions():
    cells = nbformat.read(ROOT / "00_tour.ipynb", as_version=4).cells
    (card,) = [cell.source for cell in cells if "a card" in cell.source]
    assert all(re.search(rf"\b{n}\. ", card) for n in range(1, 6)) and "<details>" in card
    assert all(term in card for term in ("KL", "NLL", "FFN", "LoRA", "[r, d]"))


def test_a_mixture_point_enters_in_lesson_three_only():
    for name in LESSONS:
        text = (ROOT / "src" / f"{name}.py").read_text(encoding="utf-8").lower()
        if name <= "03_merging":
            assert ("mixture point" in text) == (name == "03_merging")
