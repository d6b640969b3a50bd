"""Hand-outs: one page a lesson, with what a learner writes on, and no answers."""

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from handouts import NO_NUMBER, TERMS, glossary_terms, handout_of, in_grey, page_of, sheet_of, terms_by_lesson

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
MOST_WORDS = 400  # what leaves a third of the page to the picture


def teaching(name):
    return (ROOT / "docs" / "teaching" / f"{name}.md").read_text("utf-8")


def cells_of(path):
    return nbformat.read(path, as_version=4).cells


@pytest.fixture(scope="module")
def made():
    read = {path.stem: cells_of(path) for path in LESSONS}
    texts = {n: "\n".join(c.source for c in cells if c.cell_type == "markdown") for n, cells in read.items()}
    terms = terms_by_lesson(texts, glossary_terms(teaching("glossary")))
    return {n: handout_of(cells, sheet_of(teaching("sheets"), n[:2]), terms[n]) for n, cells in read.items()}


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_page_holds_what_a_learner_needs_and_fits_its_budget(path, made):
    handout, page = made[path.stem], page_of(path.stem, made[path.stem])
    assert handout.words() <= MOST_WORDS
    assert len(handout.abilities) == len(handout.questions) == 3 and 1 <= len(handout.terms) <= TERMS
    assert handout.prediction and handout.number and len(handout.alt) >= 40
    assert page.index("Predict, before") < page.index('class="fold"') < page.index("<img")
    assert page.count('class="line"') == 5 and "<script" not in page and "http" not in page
    answers = re.search(
        r"<details><summary>Answers</summary>(.+?)</details>", "".join(c.source for c in cells_of(path)), re.S
    )
    assert " ".join(answers[1].split())[3:40] not in " ".join(page.split())


def test_a_number_to_reach_stands_on_the_sheets(made):
    assert made["03_merging"].number != NO_NUMBER
    assert "ensemble" in made["03_merging"].number


def test_terms_are_those_a_lesson_uses_most():
    glossary = glossary_terms(
        "# G\n\n**Route.** Which expert.\n\n**Head.** The last\nlayer.\n\n**KL divergence.** Nats.\n"
    )
    assert glossary["Head"] == "The last layer."
    found = terms_by_lesson({"a": "routes and a route, a head", "b": "a head"}, glossary)
    assert found["b"] == [("Head", "The last layer.")] and found["a"][-1][0] == "Head"


def test_a_notebook_that_is_no_lesson_is_refused_and_a_sheet_may_be_missing():
    cell = nbformat.v4.new_markdown_cell("# Other things\n\nNothing to predict.")
    with pytest.raises(ValueError, match=r"no executed lesson: expected a title, three abilities"):
        handout_of([cell], "", ())
    assert sheet_of("## 00 · A\n\ntext\n\n## 01 · B\n\nmore", "00") == "## 00 · A\n\ntext\n\n"
    assert sheet_of("## 00 · A", "05") == ""


def test_pictures_are_grey(made):
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(in_grey(next(iter(made.values())).picture))))
    assert picture.mode == "L"


@pytest.mark.browser
@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_it_prints_on_one_page(path, made, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium")
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(page_of(path.stem, made[path.stem]), "utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    subprocess.run([*command, f"--print-to-pdf={printed}", page.as_uri()], check=True, timeout=200, capture_output=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())) == 1
