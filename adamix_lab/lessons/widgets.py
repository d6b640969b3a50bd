"""The frame that all widgets share: controls, a picture with its alt text, a readout in words.

    controls -> state -> compute(**state) -> result -> draw(result) -> View(readout, picture)

`compute` and `draw` are plain functions and are tested without any widget; `Explorer` only joins them to ipywidgets.
Whatever goes wrong is told in the readout, where the learner looks, and kept in `last_error`.
"""

from __future__ import annotations

import html
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from adamix_lab.analysis.plots import Picture
from adamix_lab.core.errors import LabError, unknown
from adamix_lab.lessons.controls import Control, Told, heading, number_in, require_ipywidgets, watch
from adamix_lab.lessons.controls import Number as Number
from adamix_lab.lessons.controls import Steps as Steps
from adamix_lab.lessons.controls import Words as Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


State = dict[str, Any]


@dataclass(frozen=True)
class View:
    """What a state looks like: a sentence or two, and a picture whose alt text belongs to that state."""

    readout: str
    picture: Picture


class Explorer(Told):
    """A widget: at most three controls, buttons that set them, a readout, a picture, and its configuration as text.

    Attributes:
        state: the controls' values by name.
        result, view: what the last good state came to, and what it looks like.
        text: the readout without markup, or what went wrong.
        last_error: the exception behind it, if any.
        seconds: of the last update, by part ("compute", "draw").
        box: the ipywidgets container.
    """

    def __init__(
        self,
        title: str,
        goal: str,
        controls: Sequence[Control],
        compute: Callable[..., Any],
        draw: Callable[[Any], View],
        shown: State,
        buttons: Mapping[str, State] | None = None,
        actions: Mapping[str, Callable[[Any, View], str]] | None = None,
    ) -> None:
        """Makes the widget and shows the controls' starting values.

        Args:
            title: its name, also for screen readers.
            goal: the number to reach, as a request to the learner.
            controls: what can be moved.
            compute: from the controls' values to a result; a ValueError is told to the learner.
            draw: from the result to a View.
            shown: what "Show me" sets; controls that it leaves out go back to their starting values.
            buttons: further buttons by label, with what they set.
            actions: buttons by label that do something with the present result and view and say what they did.
        """
        if len(controls) > 3:
            raise LabError(f"{len(controls)} controls: expected at most three, more are not seen at once.")
        self.title, self.goal = title, goal
        self.controls = {control.name: control for control in controls}
        self._compute, self._draw = compute, draw
        self.last_error: Exception | None = None
        self.seconds: dict[str, float] = {}
        self._quiet = False
        self._fits = False  # whether the picture is of the present state
        starts = {control.name: control.start for control in controls}
        self._build({**(buttons or {}), "Show me": {**starts, **shown}}, actions or {})
        self._update()

    # -- state ----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The controls' values by name."""
        return {name: holder.value for name, holder in self._holders.items()}

    def set(self, **values: Any) -> None:
        """Sets controls by name and updates once. Raises ValueError for unknown names and values that do not fit."""
        for name in values:
            if name not in self.controls:
                raise unknown("Control", name, self.controls)
        fitting = {name: self.controls[name].check(value) for name, value in values.items()}
        with self._together():
            for name, value in fitting.items():
                self._holders[name].value = value
        self._update()

    def press(self, label: str) -> None:
        """What a click on a button does. Raises ValueError for an unknown label."""
        if label not in self.buttons:
            raise unknown("Button", label, self.buttons)
        self.buttons[label].click()

    @property
    def picture(self) -> Picture:
        """The present picture, to stand in a cell of its own."""
        return self.view.picture

    # -- inside ---------------------------------------------------------------------------------------

    def _build(self, buttons: Mapping[str, State], actions: Mapping[str, Callable[[Any, View], str]]) -> None:
        w = require_ipywidgets()
        longest = max((len(control.label) for control in self.controls.values()), default=0)
        labels = f"{longest + 1}ch"  # one right edge; an "m" is wider than a ch
        built = {name: control.build(w, labels) for name, control in self.controls.items()}
        self._holders = {name: holder for name, (_, holder) in built.items()}
        for holder in self._holders.values():
            watch(holder, self._update)
        pressed = {label: partial(self._try, state) for label, state in buttons.items()}
        pressed |= {label: partial(self._act, act) for label, act in actions.items()}
        self.buttons = {label: w.Button(description=label) for label in pressed}
        for label, button in self.buttons.items():
            button.on_click(lambda _, act=pressed[label]: act())
        self.readout, self.image = w.HTML(), w.HTML()
        self.readout.add_class("adamix-readout")
        self.image.add_class("adamix-picture")
        self.configuration = w.Text(
            description="Copy or paste this configuration", continuous_update=False,
            style={"description_width": "initial"}, layout={"width": "95%"},
        )  # fmt: skip
        watch(self.configuration, self._paste)
        head = w.HTML(heading(self.title, self.goal))
        shown, buttons_below = [shown for shown, _ in built.values()], w.HBox(list(self.buttons.values()))
        self.box = w.VBox([head, *shown, buttons_below, self.readout, self.image, self.configuration])
        self.box.add_class("adamix-explorer")

    @contextmanager
    def _together(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _update(self) -> None:
        if self._quiet:
            return
        try:
            state = {name: control.check(self.state[name]) for name, control in self.controls.items()}
            start = time.perf_counter()
            result = self._compute(**state)
            computed = time.perf_counter()
            view = self._draw(result)
            image = view.picture.html()
            self.seconds = {"compute": computed - start, "draw": time.perf_counter() - computed}
        except Exception as error:  # told where the learner looks; a test that sees last_error set fails
            self._fits = False
            self._tell(error)
            return
        self.result, self.view, self.last_error, self._fits = result, view, None, True
        self._say(view.readout)
        self.image.value = image
        with self._together():
            self.configuration.value = json.dumps(state, ensure_ascii=False)

    def _try(self, state: State) -> None:
        try:
            self.set(**state)
        except ValueError as error:
            self._tell(error)

    def _act(self, act: Callable[[Any, View], str]) -> None:
        if not self._fits:
            self._say(f"Nothing was done, for the picture is not of the present state. {self.last_error}")
            return
        try:
            self._say(act(self.result, self.view))
            self.last_error = None
        except Exception as error:
            self._tell(error)

    def _paste(self) -> None:
        if self._quiet:
            return
        try:
            values = json.loads(self.configuration.value)
            if not isinstance(values, dict):
                raise LabError("no object")
        except ValueError:
            like = f"expected something like {json.dumps(self.state, ensure_ascii=False)}"
            self._tell(LabError(f"The configuration cannot be read: {like}. Paste a whole one."))
            return
        self._try(values)

    def _tell(self, error: Exception) -> None:
        self.last_error = error
        ours = not isinstance(error, ValueError | OSError)
        self._say(f"{type(error).__name__}: {error} This is a fault of the widget, not yours." if ours else str(error))

    @property
    def plain(self) -> str:
        """What stands where widgets cannot be shown."""
        moved = ", ".join(control.label for control in self.controls.values()) or "nothing but by its buttons"
        return f"The widget “{self.title}” (your hand changes: {moved}): run the cell to use it. {self.text}"

    def _repr_mimebundle_(self, **more: Any) -> Any:
        data, metadata = super()._repr_mimebundle_(**more)
        still = f"<p>{html.escape(self.plain)}</p>{self.picture.html()}" if self._fits else html.escape(self.plain)
        return {**data, "text/html": still}, metadata


# -- a prediction before a result: a number, or an answer and how sure the learner is of it ---------------------------


class Prediction(Told):
    """A question that is answered before its result is seen: by a number, or by one of some answers and a probability.

    Attributes:
        value: the number or the answer; None before both are entered, and where what was entered does not fit.
        probability: of the answer, from 0 to 1; None of a number.
        truth: what was right, once the result has been seen.
        text: what the readout says.
    """

    def __init__(
        self, question: str, answers: Sequence[str] = (), unit: str = "%", low: float = 0.0, high: float = 100.0
    ) -> None:
        w = require_ipywidgets()
        if isinstance(answers, str):
            raise LabError(f"answers = {answers!r}: expected several texts. Name a number's unit by unit=.")
        self.question, self.unit, self.low, self.high, self.answers = question, unit, low, high, tuple(answers)
        self.value: float | str | None = None
        self.probability: float | None = None
        self.truth: float | str | None = None
        self._waiting: list[Hidden] = []
        asked = "How sure are you (%)" if answers else f"Your prediction ({unit})"
        wide = {"style": {"description_width": "initial"}}
        options = [("choose an answer", None), *((answer, answer) for answer in answers)]
        self.choice = w.Dropdown(options=options, value=None, description="Your answer", **wide)
        self.entry = w.Text(description=asked, placeholder=f"{low:g} to {high:g}", continuous_update=False, **wide)
        self.readout = w.HTML()
        self.readout.add_class("adamix-readout")
        entered = [self.choice, self.entry] if answers else [self.entry]
        for holder in entered:
            watch(holder, self._read)
        self.box = w.VBox([w.HTML(heading(question)), *entered, self.readout])
        self.box.add_class("adamix-prediction")
        what = "Choose an answer, enter how sure you are of it" if answers else "Enter a number"
        self._say(f"{what} and press Enter, then run the next cell. Without a prediction no comparison is drawn.")

    def _read(self) -> None:
        self.value = self.probability = None
        number, trouble = number_in(self.entry.value, self.low, self.high)
        if number is None and self.entry.value.strip():
            self._say(trouble)
        elif self.answers and self.choice.value is None:
            self._say("Now choose an answer.")
        elif number is None:
            self._say(
                "Now enter how sure you are of it, from 0 to 100 %, and press Enter." if self.answers else trouble
            )
        else:
            self.value, self.probability = (self.choice.value, number / 100) if self.answers else (number, None)
            self._say(f"{self.said} Run the next cell.")
            for result in self._waiting:
                result.open()

    @property
    def said(self) -> str:
        """The prediction as a sentence. Empty where there is none."""
        if self.value is None:
            return ""
        if self.probability is None:
            return f"You predict {self.value:g} {self.unit}."
        return f"You predict “{self.value}” and are {100 * self.probability:g} % sure."

    def then(self, show: Callable[[], Any], truth: float | str | None = None) -> Hidden:
        """What `show` returns (a picture, a table, a widget, a text), hidden until a prediction is entered.

        Then both stand there, and the prediction can no longer be changed. truth: what is right, for `brier`. Raises
        ValueError where it is none of the answers.
        """
        if self.answers and truth is not None and truth not in self.answers:
            raise unknown("Truth", str(truth), self.answers)
        result = Hidden(self, show, truth)
        self._waiting.append(result)
        if self.value is not None:
            result.open()
        return result

    def reveal(self, text: str, truth: float | str | None = None) -> Hidden:
        """A text that is hidden until a prediction is entered, as `then`."""
        return self.then(lambda: text, truth)

    def close(self, truth: float | str | None) -> str:
        """Keeps the prediction as it is and says it beside what is right."""
        self.choice.disabled = self.entry.disabled = True
        if truth is None:
            return self.said
        self.truth = truth
        right = f"“{truth}”" if self.answers else f"{truth:g} {self.unit}"
        return f"{self.said} {'It is' if self.value != truth else 'You are right, it is'} {right}."

    def mark(self, ax: Axes, alt: str, axis: str = "x") -> str:
        """Draws a number as a dashed line and returns the alt text with it; without one, says so."""
        return mark_prediction(ax, alt, None if self.answers else self.value, self.unit, axis)  # type: ignore[arg-type]

    @property
    def plain(self) -> str:
        """What stands where widgets cannot be shown."""
        return f"{self.question} (Run the cell to enter a prediction.)"


class Hidden(Told):
    """A result that waits for a prediction. Where no widget can be shown, a still is folded away."""

    def __init__(self, prediction: Prediction, show: Callable[[], Any], truth: float | str | None) -> None:
        w = require_ipywidgets()
        self._prediction, self._show, self._truth = prediction, show, truth
        self.readout = w.HTML()
        self.box = w.VBox([self.readout])
        self.opened = False
        self._say("The result is hidden until you have entered a prediction.")

    def open(self) -> None:
        """Shows the result beside the prediction; what goes wrong is told."""
        w = require_ipywidgets()
        if self.opened:
            return
        try:
            result = self._show()
            self.box.children = [self.readout, result.box if isinstance(result, Told) else w.HTML(html_of(result))]
            self.opened = True
            self._say(self._prediction.close(self._truth))
        except Exception as error:  # told where the learner looks
            self._say(f"{type(error).__name__}: {error} This is a fault of the lesson, not yours.")

    @property
    def plain(self) -> str:
        """What stands where widgets cannot be shown."""
        return f"{self._prediction.question} The result waits for a prediction: run the cells and enter one."

    def _repr_mimebundle_(self, **more: Any) -> Any:
        data, metadata = super()._repr_mimebundle_(**more)
        result, asked = self._show(), html.escape(self._prediction.question)
        still = f"<details><summary>{asked} What was measured (predict first)</summary>{html_of(result)}</details>"
        data, metadata = {**data, "text/html": still}, {**metadata}
        for picture in pictures_of(result)[:1]:  # for printed pages; where HTML is shown, it is folded away
            drawn, described = picture._repr_mimebundle_()
            data["image/png"], metadata["image/png"] = drawn["image/png"], described["image/png"]
        return data, metadata


def pictures_of(result: Any) -> list[Picture]:
    """The pictures in what a result shows."""
    if isinstance(result, list | tuple):
        return [picture for each in result for picture in pictures_of(each)]
    picture = result.picture if isinstance(result, Explorer) else result
    return [picture] if isinstance(picture, Picture) else []


def html_of(result: Any) -> str:
    """A picture, a table, a widget, a text, or several, as HTML that needs no kernel."""
    if isinstance(result, list | tuple):
        return "".join(map(html_of, result))
    if isinstance(result, Explorer):
        return html_of([result.text, result.picture])
    if isinstance(result, Picture):
        return result.html()
    if hasattr(result, "_repr_html_"):
        return str(result._repr_html_())
    return f'<p style="white-space: pre-line">{html.escape(str(result))}</p>'


@dataclass(frozen=True)
class Score:
    """A Brier score over so many predictions, and how many of them were right; nan of none."""

    value: float
    number: int
    right: int

    def __repr__(self) -> str:
        if not self.number:
            return "No prediction with a probability has met its result yet."
        return (
            f"Brier score {self.value:.2f} over {self.number} prediction{'s' if self.number > 1 else ''}, {self.right} "
            "right. 0 is sure and right each time, 1 sure and wrong; always 50 % gives 0.25."
        )


def brier(predictions: Sequence[Prediction]) -> Score:
    """The mean of (probability - 1 where the answer was right, else 0) squared, over predictions that met their result.

    Raises ValueError for a prediction of a number, which has no probability. (Brier, Monthly Weather Review 78, 1950.)
    """
    if any(not each.answers for each in predictions):
        raise LabError("A prediction of a number has no probability: expected predictions with answers alone.")
    met = [(each.probability, each.value == each.truth) for each in predictions if each.truth is not None]
    errors = [(probability - right) ** 2 for probability, right in met if probability is not None]
    return Score(sum(errors) / len(errors) if errors else math.nan, len(errors), sum(right for _, right in met))


def mark_prediction(ax: Axes, alt: str, value: float | None, unit: str = "%", axis: str = "x") -> str:
    """A dashed line at the predicted value on an axis ("x" or "y"); returns the alt text with the prediction in it."""
    if value is None:
        return f"{alt} No prediction was entered."
    line = ax.axvline if axis == "x" else ax.axhline
    line(value, color="black", linestyle="--", linewidth=1.5, label=f"your prediction: {value:g} {unit}")
    if ax.get_legend() is None:
        ax.legend(frameon=False, loc="best", fontsize=9)
    else:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=9)
    return f"{alt} You predicted {value:g} {unit} (dashed line)."
