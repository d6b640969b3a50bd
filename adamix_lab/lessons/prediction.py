"""A prediction before a picture: the learner enters a number, and the picture then shows both."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from adamix_lab.lessons.frame import Told, heading, require_ipywidgets

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Prediction(Told):
    """A box for one number.

    Attributes:
        value: what was entered; None before, and where it is no number.
        text: what the readout says.
    """

    def __init__(self, question: str, unit: str = "%", low: float = 0.0, high: float = 100.0) -> None:
        w = require_ipywidgets()
        self.question, self.unit, self.low, self.high = question, unit, low, high
        self.value: float | None = None
        self.entry = w.Text(
            description=f"Your prediction ({unit})", placeholder=f"{low:g} to {high:g}", continuous_update=False,
            style={"description_width": "initial"},
        )  # fmt: skip
        self.entry.observe(lambda change: self._read(), "value")
        self.readout = w.HTML()
        self.readout.add_class("adamix-readout")
        self.box = w.VBox([w.HTML(heading(question)), self.entry, self.readout])
        self.box.add_class("adamix-prediction")
        self._say("Enter a number and press Enter, then run the next cell. Without one, only the measurement is drawn.")

    def _read(self) -> None:
        self.value = None
        try:
            number = float(self.entry.value.strip().rstrip("%").replace(",", "."))
        except ValueError:
            self._say(f"“{self.entry.value[:40]}” is no number: expected one from {self.low:g} to {self.high:g}.")
            return
        if not math.isfinite(number) or not self.low <= number <= self.high:
            self._say(f"{number:g} is out of range: expected a number from {self.low:g} to {self.high:g}.")
            return
        self.value = number
        self._say(f"You predict {number:g} {self.unit}. Run the next cell.")

    def mark(self, ax: Axes, alt: str, axis: str = "x") -> str:
        """Draws the prediction as a dashed line and returns the alt text with it; without one, says so."""
        return mark_prediction(ax, alt, self.value, self.unit, axis)

    @property
    def plain(self) -> str:
        """What stands where widgets cannot be shown."""
        return f"{self.question} (Run the cell to enter a prediction.)"


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
