"""What a learner does with a widget in the browser, by keyboard, and what they see of it."""

from __future__ import annotations

from typing import Any

FAULT = "fault of the widget"


def explorers(page: Any) -> list[Any]:
    """The widgets of the page, in order."""
    return list(page.locator(".adamix-explorer").all())


def readout(widget: Any) -> Any:
    """Where a widget says in words what it shows."""
    return widget.locator(".adamix-readout [role=status]")


def picture(widget: Any) -> Any:
    """Its picture."""
    return widget.locator(".adamix-picture img")


def sliders(widget: Any) -> list[Any]:
    """The handles of its sliders, in order."""
    return list(widget.locator(".noUi-handle").all())


def named_boxes(widget: Any) -> list[Any]:
    """The number boxes and menus beside the sliders, found by their labels as a screen reader does."""
    labels = widget.locator("label.widget-label").filter(visible=True).all_inner_texts()
    boxes = [widget.get_by_label(label, exact=True) for label in labels]
    return [box for box in boxes if not is_words(box)]


def words_boxes(widget: Any) -> list[Any]:
    """The boxes for a text of the learner's own."""
    labels = widget.locator(".widget-text label.widget-label").filter(visible=True).all_inner_texts()
    boxes = [widget.get_by_label(label, exact=True) for label in labels]
    return [box for box in boxes if is_words(box)]


def is_words(box: Any) -> bool:
    """Whether a box takes a text."""
    return bool(box.evaluate("box => box.tagName === 'INPUT' && box.type === 'text'"))


def at(handle: Any) -> tuple[float, float, float]:
    """A slider's (value, lowest, highest), as it tells a screen reader."""
    return tuple(float(handle.get_attribute(f"aria-value{what}")) for what in ("now", "min", "max"))  # type: ignore[return-value]


def press_arrow(handle: Any) -> None:
    """One step by keyboard: to the right, at the right end to the left."""
    now, _, highest = at(handle)
    handle.focus()
    handle.press("ArrowLeft" if now >= highest else "ArrowRight")


def press_end(handle: Any, key: str) -> None:
    """To an end of the slider: "Home" or "End"."""
    handle.focus()
    handle.press(key)


def change_box(box: Any) -> None:
    """Another value in a number box or menu: the lowest, at the lowest the next."""
    if box.evaluate("box => box.tagName") == "SELECT":
        options = box.locator("option").all_inner_texts()
        box.select_option(
            label=next(option for option in options if option != box.locator("option:checked").inner_text())
        )
        return
    lowest, step = float(box.get_attribute("min")), float(box.get_attribute("step") or 1)
    type_into(box, f"{lowest + step if float(box.input_value()) == lowest else lowest:g}")


def type_into(box: Any, text: str) -> None:
    """Replaces what stands in a box and presses Enter."""
    box.fill(text)
    box.press("Enter")


def buttons(widget: Any) -> list[Any]:
    """Its buttons, in order."""
    return list(widget.get_by_role("button").all())


def show_me(widget: Any) -> None:
    """A click on the button, which has a mark before its name once its kernel is gone."""
    widget.get_by_role("button", name="Show me").click()


def predict(page: Any) -> None:
    """Answers all predictions with the first answer and "50": results that wait for it open."""
    for box in page.locator(".adamix-prediction").all():
        box.locator("select").select_option(index=1)
        type_into(box.locator("input"), "50")


IDLE = """
from adamix_lab.analysis.plots import Picture
from adamix_lab.lessons.controls import Number
from adamix_lab.lessons.widgets import Explorer, View

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

class Pixel(Picture):
    def html(self, data=None):
        return super().html(PIXEL)

Explorer("Nothing computed, nothing drawn", "", [Number("n", "n", 0, 20, 1, 2)], lambda n: n,
         lambda n: View(str(n), Pixel(None, str(n))), {"n": 2})
"""  # a widget whose wait is the machine's own round trip
