"""The frame that all widgets share: controls, a picture with its alt text, a readout in words; and predictions.

    controls -> state -> compute(**state) -> result -> draw(result) -> View(readout, picture)

`compute` and `draw` are plain functions and are tested without any widget; `Explorer` only joins them to ipywidgets.
Whatever goes wrong is told in the readout, where the learner looks, and kept in `last_error`.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from adamix_lab.analysis.plots import Picture
from adamix_lab.core.errors import LabError, one_of
from adamix_lab.lessons.controls import Control, Sentence, Told, heading, require_ipywidgets

State = dict[str, Any]


@dataclass(frozen=True)
class View:
    """What a state looks like: a sentence or two, and a picture whose alt text belongs to that state."""

    readout: str
    picture: Picture


class Explorer(Told):
    """A widget: at most three controls, buttons that set them, a readout, and a picture.

    Attributes:
        state: the controls' values by name.
        result, picture: what the last good state came to, and what it looks like.
        text: the readout without markup, or what went wrong.
        last_error: the exception behind it, if any.
        seconds: of the last update, by part ("compute", "draw").
        buttons: ipywidgets' own, by label.
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
        buttons: Mapping[str, State | Callable[[], State]] | None = None,
    ) -> None:
        """Makes the widget and shows the controls' starting values.

        Args:
            title: its name, also for screen readers.
            goal: the number to reach, as a request to the learner.
            controls: what can be moved.
            compute: from the controls' values to a result; a ValueError is told to the learner.
            draw: from the result to a View.
            shown: what "Show me" sets; controls that it leaves out go back to their starting values.
            buttons: further buttons by label, with what they set, or a function that says it at each click.
        """
        if len(controls) > 3:
            raise LabError(f"{len(controls)} controls: expected at most three, more are not seen at once.")
        w = require_ipywidgets()
        self.title = title
        self.controls = {control.name: control for control in controls}
        self._compute, self._draw = compute, draw
        self.last_error: Exception | None = None
        self._quiet = False
        labels = f"{max((len(control.label) for control in controls), default=0) + 1}ch"  # one right edge for all
        built = {name: control.build(w, labels) for name, control in self.controls.items()}
        self._holders = {name: holder for name, (_, holder) in built.items()}
        for holder in self._holders.values():
            holder.observe(self._update, "value")
        starts = {control.name: control.start for control in controls}
        states = {**(buttons or {}), "Show me": {**starts, **shown}}
        self.buttons = {label: w.Button(description=label) for label in states}
        for label, state in states.items():
            self.buttons[label].on_click(lambda _, state=state: self.set(**(state() if callable(state) else state)))
        self.readout, self.image = w.HTML(), w.HTML()
        self.readout.add_class("adamix-readout")
        self.image.add_class("adamix-picture")
        rows = [*(row for row, _ in built.values()), w.HBox([*self.buttons.values()])]
        self.box = w.VBox([w.HTML(heading(title, goal)), *rows, self.readout, self.image])
        self.box.add_class("adamix-explorer")
        self._update()

    @property
    def state(self) -> State:
        """The controls' values by name."""
        return {name: holder.value for name, holder in self._holders.items()}

    def set(self, **values: Any) -> None:
        """Sets controls by name and updates once. Raises ValueError for unknown names and values that do not fit."""
        for name in values:
            one_of("Control", name, self.controls)
        fitting = {name: self.controls[name].check(value) for name, value in values.items()}
        self._quiet = True
        for name, value in fitting.items():
            self._holders[name].value = value
        self._quiet = False
        self._update()

    def _update(self, change: Any = None) -> None:
        if self._quiet:
            return
        try:
            state = {name: control.check(self.state[name]) for name, control in self.controls.items()}
            start = time.perf_counter()
            result = self._compute(**state)
            computed = time.perf_counter()
            view = self._draw(result)
            self.image.value = view.picture.html()
            self.seconds = {"compute": computed - start, "draw": time.perf_counter() - computed}
        except Exception as error:  # told where the learner looks; a test that sees last_error set fails
            self.last_error = error
            ours = not isinstance(error, ValueError | OSError)
            fault = f"{type(error).__name__}: {error} This is a fault of the widget, not yours."
            self._say(fault if ours else str(error))
            return
        self.result, self.picture, self.last_error = result, view.picture, None
        self._say(view.readout)

    @property
    def plain(self) -> str:
        """What stands where widgets cannot be shown."""
        moved = ", ".join(control.label for control in self.controls.values()) or "nothing but by its buttons"
        return f"The widget “{self.title}” (your hand changes: {moved}): run the cell to use it. {self.text}"

    def _repr_mimebundle_(self, **more: Any) -> Any:
        still = f"<p>{html.escape(self.plain)}</p>{'' if self.last_error else self.picture.html()}"
        return {**super()._repr_mimebundle_(**more), "text/html": still}


# -- a prediction before a result --------------------------------------------------------------------------------------


class Prediction(Told):
    """A question that is answered, with a probability, before its result is seen.

    Attributes:
        value: the answer; None before it and a probability are entered, and where what was entered does not fit.
        probability: of the answer, from 0 to 1.
        truth: what was right, once the result has been seen.
        text: what the readout says.
    """

    def __init__(self, question: str, answers: Sequence[str]) -> None:
        w = require_ipywidgets()
        self.question, self.answers = question, tuple(answers)
        self.value: str | None = None
        self.probability: float | None = None
        self.truth: str | None = None
        self._waiting: list[Hidden] = []
        wide = {"style": {"description_width": "initial"}}
        options = [("choose an answer", ""), *((answer, answer) for answer in answers)]
        self.choice = w.Dropdown(options=options, description="Your answer", layout={"width": "max-content"}, **wide)
        self.entry = w.Text(description="How sure are you (%)", placeholder="0 to 100", continuous_update=False, **wide)
        self.readout = w.HTML()
        self.readout.add_class("adamix-readout")
        for holder in (self.choice, self.entry):
            holder.observe(self._read, "value")
        self.box = w.VBox([w.HTML(heading(question)), self.choice, self.entry, self.readout])
        self.box.add_class("adamix-prediction")
        self._say(
            "Choose an answer, enter how sure you are of it and press Enter, then run the next cell. Without a "
            "prediction no comparison is drawn."
        )

    def _read(self, change: Any) -> None:
        self.value = self.probability = None
        entered = self.entry.value.strip()
        try:
            probability = share_in(entered) if entered else None
        except LabError as error:
            self._say(str(error))
            return
        if not self.choice.value:
            self._say("Now choose an answer.")
        elif probability is None:
            self._say("Now enter how sure you are of it, from 0 to 100 %, and press Enter.")
        else:
            self.value, self.probability = self.choice.value, probability
            self._say(f"{self.said} Run the next cell.")
            for result in self._waiting:
                result.open()

    @property
    def said(self) -> str:
        """The prediction as a sentence. Empty where there is none."""
        if self.probability is None:
            return ""
        return f"You predict “{self.value}” and are {100 * self.probability:g} % sure."

    def then(self, show: Callable[[], Any], truth: str | None = None) -> Hidden:
        """What `show` returns (a picture, a table, a widget, a text), hidden until a prediction is entered.

        Then both stand there, and the prediction can no longer be changed. truth: what is right, for `brier`. Raises
        ValueError where it is none of the answers.
        """
        if truth is not None:
            one_of("Truth", truth, self.answers)
        result = Hidden(self, show, truth)
        self._waiting.append(result)
        if self.value is not None:
            result.open()
        return result

    def reveal(self, text: str, truth: str | None = None) -> Hidden:
        """A text that is hidden until a prediction is entered, as `then`."""
        return self.then(lambda: text, truth)

    def close(self, truth: str | None) -> str:
        """Keeps the prediction as it is and says it beside what is right."""
        self.choice.disabled = self.entry.disabled = True
        if truth is None:
            return self.said
        self.truth = truth
        return f"{self.said} {'It' if self.value != truth else 'You are right, it'} is “{truth}”."

    @property
    def plain(self) -> str:
        """What stands where widgets cannot be shown."""
        return f"{self.question} (Run the cell to enter a prediction.)"


def share_in(text: str) -> float:
    """A share from a percentage as it is typed: "80", "80 %", "80,5". Raises ValueError for what is none."""
    try:
        number = float(text.rstrip("% ").replace(",", "."))
    except ValueError:
        raise LabError(f"“{text[:40]}” is no number: expected one from 0 to 100.") from None
    if not 0 <= number <= 100:
        raise LabError(f"{number:g} is out of range: expected a number from 0 to 100.")
    return number / 100


class Hidden(Told):
    """A result that waits for a prediction. Where no widget can be shown, a still is folded away."""

    def __init__(self, prediction: Prediction, show: Callable[[], Any], truth: str | None) -> None:
        w = require_ipywidgets()
        self._prediction, self._show, self._truth = prediction, show, truth
        self.readout = w.HTML()
        self.box = w.VBox([self.readout])
        self.opened = False
        self._say("The result is hidden until you have entered a prediction.")

    def open(self) -> None:
        """Shows the result beside the prediction; what goes wrong is told."""
        if self.opened:
            return
        try:
            result = self._show()
            shown = result.box if isinstance(result, Told) else require_ipywidgets().HTML(html_of(result))
            self.box.children = [self.readout, shown]
            self.opened = True
            self._say(self._prediction.close(self._truth))
        except Exception as error:  # told where the learner looks
            self._say(f"{type(error).__name__}: {error} This is a fault of the lesson, not yours.")

    @property
    def plain(self) -> str:
        """What stands where widgets cannot be shown."""
        return f"{self._prediction.question} The result waits for a prediction: run the cells and enter one."

    def _repr_mimebundle_(self, **more: Any) -> Any:
        result, asked = self._show(), html.escape(self._prediction.question)
        still = f"<details><summary>{asked} What was measured (predict first)</summary>{html_of(result)}</details>"
        data: dict[str, Any] = {**super()._repr_mimebundle_(**more), "text/html": still}
        metadata: dict[str, Any] = {}
        for picture in pictures_of(result)[:1]:  # for printed pages; where HTML is shown, it is folded away
            drawn, metadata = picture._repr_mimebundle_()
            data["image/png"] = drawn["image/png"]
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
        return html_of([result.plain, result.picture])
    if hasattr(result, "_repr_html_"):
        return str(result._repr_html_())
    return f'<p style="white-space: pre-line">{html.escape(str(result))}</p>'


def brier(predictions: Sequence[Prediction]) -> Sentence:
    """The mean of (probability - 1 where the answer was right, else 0) squared, over predictions that met their result.

    (Brier, Monthly Weather Review 78, 1950.) Told with how many there were, and how many of them were right.
    """
    met = [(each.probability, each.value == each.truth) for each in predictions if each.truth is not None]
    errors = [(probability - right) ** 2 for probability, right in met if probability is not None]
    if not errors:
        return Sentence("No prediction with a probability has met its result yet.")
    return Sentence(
        f"Brier score {fmean(errors):.2f} over {len(errors)} prediction{'s' if len(errors) > 1 else ''}, "
        f"{sum(right for _, right in met)} right. 0 is sure and right each time, 1 sure and wrong; always 50 % gives "
        "0.25."
    )
