"""The widgets' frame: one update a change, errors in words where the learner looks, predictions."""

import pytest

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from adamix_lab.analysis.plots import Picture, new_figure
from adamix_lab.lessons.controls import Number, Steps, Words
from adamix_lab.lessons.drawing import Table
from adamix_lab.lessons.widgets import Explorer, Prediction, View, brier, html_of

CALLS = []


def compute(number, step, words):
    CALLS.append((number, step, words))
    if number == 7:
        raise ValueError("Seven was not measured: expected another number.")
    if number == 8:
        raise KeyError("a bug")
    return number, step, words


def draw(result):
    figure, ax = new_figure(2, 1)
    ax.plot([result[0]])
    return View(f"number {result[0]}, step {result[1]}, “{result[2]}”", Picture(figure, f"A line at {result[0]}."))


@pytest.fixture
def widget():
    controls = [Number("number", "the number", 0, 10, 1, 2), Steps("step", "the step", (0, 1, 10), 1),
                Words("words", "sentence", "hello <b>")]  # fmt: skip
    made = Explorer("A title", "Reach 5.", controls, compute, draw, {"number": 5}, {"most": {"number": 10, "step": 10}})
    CALLS.clear()
    return made


def test_it_starts_with_a_picture_a_readout_and_an_alt_text(widget):
    assert widget.state == {"number": 2, "step": 1, "words": "hello <b>"}
    assert widget.text == "number 2, step 1, “hello <b>”" and widget.last_error is None
    assert 'role="status"' in widget.readout.value and "hello &lt;b&gt;" in widget.readout.value
    assert '<img alt="A line at 2."' in widget.image.value
    assert widget.picture.alt == "A line at 2." and widget.seconds.keys() == {"compute", "draw"}


def test_a_slider_and_its_named_box_follow_each_other(widget):
    box, slider = widget.box.children[1].children
    assert box.description == "the number" and slider.tooltip == "the number"
    slider.value = 4
    assert box.value == 4 and "number 4" in widget.text
    box.value = 6
    assert slider.value == 6 and 'alt="A line at 6."' in widget.image.value
    assert len(CALLS) == 2  # one update a change
    menu, steps = widget.box.children[2].children
    assert menu.description == "the step"
    menu.value = 10
    assert steps.value == 10 and "step 10" in widget.text


def test_ends_of_sliders_and_what_lies_beyond(widget):
    _, slider = widget.box.children[1].children
    for value, reached in ((0, 0), (10, 10), (99, 10), (-3, 0)):
        slider.value = value
        assert slider.value == reached and f"number {reached}" in widget.text and widget.last_error is None
    with pytest.raises(ValueError, match=r"the number = 11: expected a whole number from 0 to 10"):
        widget.set(number=11)
    with pytest.raises(ValueError, match=r"the step = 3: expected one of 0, 1, 10"):
        widget.set(step=3)
    with pytest.raises(ValueError, match=r"Control 'nmber' is not known.*'number'"):
        widget.set(nmber=1)


def test_empty_and_too_long_texts_are_told_and_the_last_picture_stays(widget):
    field = widget.box.children[3]
    before = widget.image.value
    for text, told in (
        ("", "sentence is empty"),
        ("   ", "sentence is empty"),
        ("x" * 201, "201 characters: at most"),
    ):
        field.value = text
        assert told in widget.text and told in widget.readout.value
        assert isinstance(widget.last_error, ValueError) and widget.image.value == before
    field.value = "fine"
    assert "“fine”" in widget.text and widget.last_error is None


def test_errors_of_the_computation_are_told_and_kept(widget):
    widget.set(number=7)
    assert widget.text == "Seven was not measured: expected another number."
    widget.set(number=8)
    assert "KeyError" in widget.text and "not yours" in widget.text and isinstance(widget.last_error, KeyError)
    widget.set(number=1)
    assert widget.last_error is None


def test_buttons_set_several_controls_with_one_update(widget):
    widget.buttons["most"].click()
    assert widget.state["number"] == 10 and widget.state["step"] == 10 and len(CALLS) == 1
    widget.buttons["Show me"].click()
    assert widget.state["number"] == 5


def test_without_a_browser_its_text_stands_for_it(widget):
    data = widget._repr_mimebundle_()
    assert "A title" in data["text/plain"] and "number 2" in data["text/plain"]


def test_at_most_three_controls():
    with pytest.raises(ValueError, match="4 controls: expected at most three"):
        Explorer("t", "g", [Number(str(n), str(n), 0, 1, 1, 0) for n in range(4)], compute, draw, {})


ANSWERS = ("AdaMix", "the other", "not shown")


def asked(answer="", sure=""):
    box = Prediction("Who wins?", answers=ANSWERS)
    box.choice.value, box.entry.value = answer, sure
    return box


def test_an_answer_comes_with_a_probability():
    box = asked("AdaMix")
    assert box.value is None and "how sure you are" in box.text
    box.entry.value = "80 %"
    assert (box.value, box.probability) == ("AdaMix", 0.8) and "“AdaMix” and are 80 % sure" in box.text
    for typed, told in (("180", "out of range"), ("nan", "out of range"), ("1e999", "out of range"),
                        ("ninety", "is no number"), ("x" * 500, "is no number")):  # fmt: skip
        box.entry.value = typed
        assert box.value is None and told in box.text and len(box.text) < 200
    for typed, share in (("85", 0.85), (" 85 % ", 0.85), ("85,5", 0.855), ("0", 0.0)):
        box.entry.value = typed
        assert box.probability == pytest.approx(share) and box.value == "AdaMix"
    box = asked("", "80")
    assert box.value is None and "choose an answer" in box.text
    assert box.choice.label == "choose an answer" and box.choice.layout.width == "max-content"  # read whole
    assert box.choice.description == "Your answer" and box.entry.description == "How sure are you (%)"
    data = box._repr_mimebundle_()
    assert data["text/plain"] == "Who wins? (Run the cell to enter a prediction.)"


def test_a_result_waits_for_a_prediction_and_then_shows_both():
    box, shown = Prediction("Who wins?", ANSWERS), []
    result = box.then(lambda: shown.append(1) or "AdaMix is 7 points ahead.", "AdaMix")
    assert not shown and "hidden until" in result.text and len(result.box.children) == 1
    box.choice.value = "not shown"
    assert not shown
    box.entry.value = "70"
    assert shown == [1] and "AdaMix is 7 points ahead" in result.box.children[1].value
    assert "“not shown” and are 70 % sure. It is “AdaMix”." in result.text
    assert box.choice.disabled and box.entry.disabled and box.truth == "AdaMix"
    again = box.reveal("Told.", "AdaMix")  # the cell is run once more
    assert again.opened and "Told." in again.box.children[1].value
    with pytest.raises(ValueError, match="Truth 'Adamix' is not known"):
        box.reveal("x", "Adamix")


def test_a_still_is_folded_away_where_no_widget_can_be_shown():
    figure, _ = new_figure(2, 1)
    result = asked().then(lambda: ("a < b", Picture(figure, "A line.")))
    data, metadata = result._repr_mimebundle_()
    assert data["image/png"] and metadata["image/png"]["alt"] == "A line."  # the printed page's picture
    assert data["text/html"].startswith("<details><summary>Who wins?") and 'alt="A line."' in data["text/html"]
    assert "a &lt; b" in data["text/html"] and "waits for a prediction" in data["text/plain"]
    assert not result.opened and len(result.box.children) == 1


def test_a_widget_may_be_the_result_and_faults_are_told(widget):
    box = asked("AdaMix", "50")
    assert box.then(lambda: widget).box.children[1] is widget.box
    still = html_of(widget)
    assert "number 2" in still and "run the cell to use it" in still and 'alt="A line at 2."' in still
    assert html_of(Table([])).startswith("<table>")
    failed = box.then(lambda: {}["x"])
    assert "KeyError" in failed.text and "not yours" in failed.text and not failed.opened


def test_the_brier_score_is_of_predictions_that_met_their_results():
    right, wrong, open_yet = asked("AdaMix", "80"), asked("not shown", "60"), asked("AdaMix", "90")
    assert "No prediction" in repr(brier([right, wrong]))
    for box in (right, wrong, asked()):
        box.reveal("AdaMix.", "AdaMix")
    found = brier([right, wrong, open_yet])
    assert repr(found).startswith(f"Brier score {(0.2**2 + 0.6**2) / 2:.2f} over 2 predictions, 1 right.")


@pytest.mark.parametrize("live", [False, True])
def test_a_live_slider_moves_while_it_is_dragged(live):
    controls = [Number("number", "n", 0, 10, 1, 2, live=live), Steps("step", "s", (0, 1), 1), Words("words", "w", "x")]
    made = Explorer("t", "g", controls, compute, draw, {})
    box, slider = made.box.children[1].children
    assert slider.continuous_update is live and not box.continuous_update


def test_the_core_does_not_need_ipywidgets():
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['ipywidgets'] = None; sys.modules['matplotlib'] = None; import adamix_lab\n"
        "from adamix_lab.lessons import routing\n"
        "from adamix_lab.lessons.widgets import Prediction\n"
        "try: Prediction('x', ('yes', 'no'))\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "adamix-lab[learn]" in done.stdout, done.stderr
