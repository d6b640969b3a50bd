"""Every lesson in a real JupyterLab, in headless Chromium, driven by keyboard: no sleeps, no pixels."""

from pathlib import Path

import lab_server
import learner
import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),  # a free machine needs half a minute for the longest
    pytest.mark.skipif(lab_server.missing() is not None, reason=str(lab_server.missing())),
]

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SECONDS = 60  # until a new picture must stand; how long it takes is tests/benchmarks/latency.py's business

FRAME = """
from adamix_lab.analysis.plots import Picture, new_figure
from adamix_lab.lessons.controls import Number, Steps, Words
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.widgets import Prediction

def draw(state):
    number, step, words = state
    figure, ax = new_figure(3, 2)
    ax.plot([number, step])
    return View(f"number {number}, step {step}, {words}", Picture(figure, f"A line from {number} to {step}."))

controls = [Number("number", "the number", 0, 10, 1, 2), Steps("step", "the step", (0, 1, 10), 1),
            Words("words", "sentence", "hello")]
Explorer("A title", "A goal.", controls, lambda number, step, words: (number, step, words), draw, {"number": 5})
"""
ASKING = 'Prediction("How many?", ("few", "many"))'


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    import nbformat

    with lab_server.serve(tmp_path_factory.mktemp("lab")) as running:
        cells = [nbformat.v4.new_code_cell(source) for source in (FRAME, ASKING)]
        kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), running.folder / "frame.ipynb")
        yield running


@pytest.fixture(scope="module")
def browser():
    with lab_server.chromium() as running:
        yield running


@pytest.fixture
def visit(browser):
    """A page that must stay without troubles, and its troubles."""
    with lab_server.page_of(browser) as (page, troubles):
        yield page, troubles
        assert not troubles.errors and not troubles.console and not troubles.outside, troubles


@pytest.fixture
def page(visit):
    return visit[0]


def see(locator):
    from playwright.sync_api import expect

    return expect(locator)


def opened(page, lab, name):
    """The notebook, run; its code cells must have run without errors but for those that are meant."""
    lab_server.open_notebook(page, lab, name)
    cells = lab_server.run_all(page)
    assert cells and [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [cell for cell in cells if cell["errors"] and "raises-exception" not in cell["tags"]]


def changes(page, widget, act):
    """Does something to a widget; its readout and its picture must then be others."""
    readout, picture = learner.readout(widget), learner.picture(widget)
    text, alt = readout.inner_text(), picture.get_attribute("alt")
    act()
    see(readout).not_to_have_text(text, timeout=1000 * SECONDS)
    see(picture).not_to_have_attribute("alt", alt, timeout=1000 * SECONDS)


def shown(page, widget):
    """Presses "Show me"; the alt text of what it leads to."""
    learner.show_me(widget)
    lab_server.settle(page)
    assert learner.FAULT not in learner.readout(widget).inner_text()
    return learner.picture(widget).get_attribute("alt")


def drive(page, widget):
    """All that every widget must take."""
    alt = shown(page, widget)
    handles, boxes = learner.sliders(widget), learner.named_boxes(widget)
    assert len(boxes) >= len(handles)  # each slider has a box with a name
    if not handles:  # texts only: its first button leads elsewhere
        changes(page, widget, lambda: learner.buttons(widget)[0].press("Enter"))
    for handle in handles[:1]:
        changes(page, widget, lambda handle=handle: learner.press_arrow(handle))
    for box in boxes[:1]:
        changes(page, widget, lambda box=box: learner.change_box(box))
    learner.show_me(widget)
    see(learner.picture(widget)).to_have_attribute("alt", alt, timeout=1000 * SECONDS)
    for handle in handles:
        to_its_ends(page, widget, handle)
    for box in learner.words_boxes(widget):
        shown(page, widget)  # only one text is bad at a time: the first bad one is told
        bad_texts(page, widget, box)
    learner.show_me(widget)
    see(learner.picture(widget)).to_have_attribute("alt", alt, timeout=1000 * SECONDS)


def to_its_ends(page, widget, handle):
    _, lowest, highest = learner.at(handle)
    for key, end in (("Home", lowest), ("End", highest)):
        learner.press_end(handle, key)
        lab_server.settle(page)
        assert learner.at(handle)[0] == end
        assert learner.readout(widget).inner_text() and learner.FAULT not in learner.readout(widget).inner_text()
        assert learner.picture(widget).get_attribute("alt")


def bad_texts(page, widget, box):
    """Texts that cannot be used are told, and the last picture stays."""
    alt = learner.picture(widget).get_attribute("alt")
    for text, told in (("", "is empty"), ("   ", "is empty"), ("word " * 2000, "at most")):
        learner.type_into(box, text)
        see(learner.readout(widget)).to_contain_text(told, timeout=1000 * SECONDS)
        assert learner.picture(widget).get_attribute("alt") == alt


def predict(page):
    """No number is told so; an answer is taken with a number. Results then open."""
    for box in page.locator(".adamix-prediction").all():
        field, told, answers = box.locator("input"), box.locator("[role=status]"), box.locator("select")
        learner.type_into(field, "ninety")
        see(told).to_contain_text("is no number", timeout=1000 * SECONDS)
        answers.select_option(index=1)
        learner.type_into(field, field.get_attribute("placeholder").split(" to ")[1])
        see(told).to_contain_text("You predict", timeout=1000 * SECONDS)
    lab_server.settle(page)


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_and_its_widgets_answer_to_the_keyboard(page, lab, name):
    opened(page, lab, f"{name}.ipynb")
    predict(page)  # some widgets are results, which wait for it
    widgets = learner.explorers(page)
    assert widgets and all(learner.sliders(widget) or learner.words_boxes(widget) for widget in widgets)
    for widget in widgets:
        drive(page, widget)
    lab_server.shut_kernel(page)


def test_a_widget_whose_kernel_was_restarted_says_what_to_do(visit, lab):
    page, troubles = visit
    opened(page, lab, "frame.ipynb")
    (widget,) = learner.explorers(page)
    drive(page, widget)
    predict(page)
    lost = page.locator(".adamix-lost")
    assert lost.count() == 2 and not lost.filter(visible=True).count()
    lab_server.restart_kernel(page)
    for place in lost.all():
        see(place).to_be_visible()
        see(place).to_contain_text("Run All Cells")
    text = learner.readout(widget).inner_text()
    learner.press_arrow(learner.sliders(widget)[0])
    learner.show_me(widget)
    assert learner.readout(widget).inner_text() == text  # it stands still, and nothing breaks
    lab_server.run_all(page)
    (widget,) = learner.explorers(page)
    see(lost.first).to_be_hidden()
    changes(page, widget, lambda: learner.press_arrow(learner.sliders(widget)[0]))
    lab_server.shut_kernel(page)
    # what JupyterLab says on the console when a control is moved that has no kernel; no other error is let through
    troubles.errors[:] = [error for error in troubles.errors if error != "Cannot send"]


def test_the_lab_opens_on_the_tour(browser, tmp_path):
    from adamix_lab.cli.main import FIRST

    with lab_server.serve(tmp_path, FIRST) as lab, lab_server.page_of(browser) as (page, troubles):
        page.goto(f"{lab.url}/?token={lab.token}")
        page.wait_for_url("**/lab/tree/00_tour.ipynb*")
        see(page.get_by_role("heading", name="00 · Four adapters")).to_be_visible(timeout=1000 * SECONDS)
        assert not troubles.outside
