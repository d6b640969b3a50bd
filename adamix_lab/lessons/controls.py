"""What widgets are made of: what they say in words, and what a learner moves, a number, a step of a list, or words.

A control is a description; `build` makes its ipywidgets. Sliders tell a screen reader their value but no name, so the
box beside a slider carries it, and takes the same values by keyboard.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from adamix_lab.core.errors import LabError, extra
from adamix_lab.tasks.tasks import data_root

LOST = (
    "The kernel behind this was restarted or has ended, so it no longer answers. In the menu choose Run, then "
    "Run All Cells: that makes it anew."
)
STYLE = """<style>
.adamix-lost { display: none; }
.jupyter-widgets-disconnected .adamix-lost { display: block; font-weight: bold; }
.adamix-picture img { max-width: 100%; height: auto; }
</style>"""


class Sentence(str):
    """What a cell shows as it is, without quotation marks."""

    __repr__ = str.__str__


class Told:
    """What a widget says in words: a live readout, and a text that stands for it where widgets cannot be shown."""

    box: Any
    readout: Any
    text: str

    @property
    def plain(self) -> str:
        """The text that stands for it."""
        raise NotImplementedError

    def _say(self, text: str) -> None:
        self.text = text
        self.readout.value = f'<div role="status" aria-live="polite">{html.escape(text)}</div>'

    def _repr_mimebundle_(self, **more: Any) -> Any:
        return {**self.box._repr_mimebundle_(**more), "text/plain": self.plain}


def heading(title: str, goal: str = "") -> str:
    """A widget's head as HTML: its title, the goal, and what to do once its kernel is gone.

    The last is hidden while the widget answers: JupyterLab marks widgets whose kernel was restarted with a class.
    """
    asked = f"<br>{html.escape(goal)}" if goal else ""
    return f"{STYLE}<b>{html.escape(title)}</b>{asked}<div class='adamix-lost' role='alert'>{LOST}</div>"


def require_ipywidgets() -> Any:
    """The module, imported now. Raises ImportError that names the extra where it is missing."""
    with extra("learn"):
        import ipywidgets
    return ipywidgets


def described(name: str, **fields: Mapping[str, Any]) -> dict[str, Any]:
    """A lesson's widget as `data/lessons/widgets.yaml` describes it: title, goal, controls, what its buttons set.

    fields: by a control's name, those of its fields that depend on what the lesson loads.
    """
    text = (data_root() / "lessons" / "widgets.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)[name]
    if isinstance(made := found.get("controls"), dict):  # else names, of those of one dimension
        found["controls"] = [_control(name, **each | fields.get(name, {})) for name, each in made.items()]
    return found


def choices(values: Iterable[Any]) -> dict[str, Any]:
    """The fields of a control that offers some values and starts at the first."""
    offered = tuple(values)
    return {"values": offered, "start": offered[0]}


def _control(name: str, **fields: Any) -> Control:
    kind = Steps if "values" in fields else Number if "low" in fields else Words
    return kind(name, **fields)


# -- what a learner moves ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A slider and a number box that follow each other. live: the picture follows while the slider is dragged."""

    name: str
    label: str
    low: float
    high: float
    step: float
    start: float
    live: bool = False

    @property
    def kind(self) -> type[int] | type[float]:
        """Whole numbers where only such are meant."""
        return int if all(float(n).is_integer() for n in (self.low, self.high, self.step, self.start)) else float

    def check(self, value: Any) -> Any:
        """The value itself, or a ValueError in words."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high or self.kind(value) != value:
            kind = "a whole number" if self.kind is int else "a number"
            raise LabError(f"{self.label} = {value!r}: expected {kind} from {self.low:g} to {self.high:g}.")
        return self.kind(value)

    def build(self, w: Any, labels: str) -> tuple[Any, Any]:
        """(what is shown, what holds `value`); w: ipywidgets, labels: the width of its label."""
        whole = self.kind is int
        slider_of, box_of = (w.IntSlider, w.BoundedIntText) if whole else (w.FloatSlider, w.BoundedFloatText)
        ends = {"min": self.low, "max": self.high, "step": self.step, "value": self.start}
        ends = {end: self.kind(value) for end, value in ends.items()}
        slider = slider_of(**ends, continuous_update=self.live, readout=False, tooltip=self.label)
        box = box_of(**ends, description=self.label, continuous_update=False, **_beside(labels))
        w.link((slider, "value"), (box, "value"))
        return w.HBox([box, slider]), slider


@dataclass(frozen=True)
class Steps:
    """A slider over a short list of values, and a menu of the same."""

    name: str
    label: str
    values: Sequence[Any]
    start: Any

    def check(self, value: Any) -> Any:
        """The value itself, or a ValueError in words."""
        if isinstance(value, bool) or value not in self.values:
            raise LabError(f"{self.label} = {value!r}: expected one of {', '.join(map(str, self.values))}.")
        return value

    def build(self, w: Any, labels: str) -> tuple[Any, Any]:
        """(what is shown, what holds `value`); w: ipywidgets, labels: the width of its label."""
        options = [(str(value), value) for value in self.values]
        slider = w.SelectionSlider(options=options, value=self.start, continuous_update=False, readout=False)
        menu = w.Dropdown(options=options, value=self.start, description=self.label, **_beside(labels))
        menu.layout.min_width, menu.layout.width = menu.layout.width, "max-content"  # no value is cut
        w.link((slider, "value"), (menu, "value"))
        return w.HBox([menu, slider]), slider


@dataclass(frozen=True)
class Words:
    """A line of text of the learner's own, of at most 200 characters."""

    name: str
    label: str
    start: str

    def check(self, value: Any) -> Any:
        """The text itself, or a ValueError in words."""
        if not isinstance(value, str) or not value.strip():
            raise LabError(f"{self.label} is empty: type one, such as “{self.start}”.")
        if len(value) > 200:
            raise LabError(f"{self.label} has {len(value)} characters: at most 200 fit. Shorten it.")
        return value

    def build(self, w: Any, labels: str) -> tuple[Any, Any]:
        """(what is shown, what holds `value`); w: ipywidgets, labels: the width of its label."""
        box = w.Text(value=self.start, description=self.label, continuous_update=False, **_beside(labels))
        box.layout.width = "95%"
        return box, box


Control = Number | Steps | Words


def _beside(labels: str) -> dict[str, Any]:
    """Style of a box: its label as wide as asked for, so that boxes below one another begin at one line."""
    return {"style": {"description_width": labels}, "layout": {"width": f"calc({labels} + 9em)"}}
