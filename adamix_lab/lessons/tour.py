"""Lesson 00: what the paper prints, a training that is watched, ten stored seeds, where to stop each of two runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from adamix_lab.analysis.plots import STYLES, Picture, despine, panels
from adamix_lab.baselines.making import fitted
from adamix_lab.core.errors import LabError
from adamix_lab.experiments.claims import printed_table
from adamix_lab.experiments.grids import read_grid
from adamix_lab.experiments.tour import ADAMIX, COLOURS, PROBE, SINGLE, SLOW, Look, draw_looks, stored_seeds
from adamix_lab.lessons import shared
from adamix_lab.lessons.controls import described
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.world import world_explorer
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import encode, padding_of, sequential
from adamix_lab.tasks.tasks import Task, data_root
from adamix_lab.training.evaluation import IndexedBatch, evaluate_batches, try_cached_prefix

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["fitted"]
__getattr__ = shared  # what all notebooks use

NAMES = {"single": SINGLE, "adamix": ADAMIX, "slow-swa": SLOW, "probe": PROBE}  # the stored seeds' names
WAYS = {"merged": "merged", "experts": "fixed", "random": "random", "ensemble": "ensemble"}  # to answer: their style


# -- the paper's promise ----------------------------------------------------------------------------------------------


def table_1() -> DataFrame:
    """Table 1 of the paper: trained parameters, what they weigh in float32, the average over GLUE."""
    import pandas as pd

    rows = []
    for row in printed_table(1):
        millions = float(row["parameters"].removesuffix("M"))
        # four bytes a number
        rows.append((row["model"], f"{millions:g} million", f"{4 * millions:,.1f} MB", float(row["average"])))
    return pd.DataFrame(rows, columns=["method", "trained parameters", "in float32", "average of eight tasks"])


def four_curves() -> Explorer:
    """Four experts, their ensemble and their merge in one dimension."""
    return world_explorer(**described("curves"))


# -- a training that is watched --------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Looks at mixtures of one frozen model while they train: the loss on the labels as given, accuracy on true labels.

    Attributes:
        rows: so many of either side are looked at.
        every: steps between looks.
        looks: by the mixture's name in the tour.
    """

    task: Task
    rows: int = 200
    every: int = 50
    looks: dict[str, list[Look]] = field(default_factory=dict)
    ready: list[list[IndexedBatch]] = field(default_factory=list)  # batches behind the frozen prefix

    def on_step(self, name: str, mixture: MixtureModel, tokenizer: Any) -> Callable[[int], None]:
        """What `train` calls after each step; the losses are drawn anew, in place, at each look."""
        from IPython.display import display

        top, cache = try_cached_prefix(mixture)
        pad, own = padding_of(tokenizer, mixture.model), self.looks.setdefault(NAMES[name], [])
        place = display(display_id=True)  # None where there is no notebook
        own.clear()
        for chosen in () if self.ready else (self.task.train, self.task.evaluation):
            batches = sequential(encode(chosen[: self.rows], self.task, tokenizer), 64, pad)
            self.ready.append([(rows, cache(batch)) for rows, batch in batches])

        def look(step: int) -> None:
            if step % self.every == 0:
                given, other = (evaluate_batches(top, batches, "merged") for batches in self.ready)
                own.append({"step": step, "loss": given.loss, "accuracy": 100 * other.accuracy})
                if place:
                    place.update(self.picture("loss"))

        look(0)
        return look

    def picture(self, *what: str) -> Picture:
        """What was seen of every mixture: "loss", "accuracy", or both where none is named."""
        return draw_looks(self.looks, *what)


# -- ten seeds, stored ------------------------------------------------------------------------------------------------


def draw_seeds(*names: str) -> Picture:
    """Accuracy and loss of some of NAMES over the ten stored seeds, AdaMix answered in four ways."""
    ten, told = stored_seeds(read_grid("tour").runs), []
    lines = [(NAMES[name], way) for name in names for way in (WAYS if name == "adamix" else ("alone",))]
    figure, axes = panels(2, 9.5, 0.45 * len(lines) + 1.2)
    units = (("points", "accuracy (%)", 1), ("nats", "loss (nats)", 3))
    for ax, (unit, label, digits) in zip(axes, units, strict=True):
        for n, (model, way) in enumerate(lines):
            own, (colour, marker) = ten[model, way, unit].own, STYLES[WAYS.get(way, COLOURS[model])]
            ax.plot([own.low, own.high], [n, n], color=colour, linewidth=2.5, alpha=0.6)
            ax.plot(own.mean, n, color=colour, marker=marker, markersize=9)
            ax.annotate(f"{own.mean:.{digits}f}", (own.mean, n), (0, 8), textcoords="offset points", ha="center")
            told.append(f"{model}, {way}: {own.mean:.{digits}f} ± {own.half_width:.{digits}f} {unit}")
        ax.set(ylim=(len(lines) - 0.4, -0.7), xlabel=f"{label}, 95 % intervals")
        ax.set_yticks(range(len(lines)), [model if way == "alone" else f"AdaMix, {way}" for model, way in lines])
        despine(ax)
    axes[1].tick_params(axis="y", labelleft=False)
    return Picture(figure, f"Ten seeds, judged on 1,000 sentences that nobody trained on. {'; '.join(told)}.")


# -- where to stop each of two runs -----------------------------------------------------------------------------------


@cache
def stored_looks() -> DataFrame:
    """Accuracies on the way, in points: a line a model and a step that was looked at, a column a seed."""
    import pandas as pd

    table = pd.read_csv(data_root() / "results" / "tour" / "looks.csv")
    return table[table["unit"] == "accuracy"].drop(columns="unit").set_index(["model", "step"])


def stopped(adamix: int, other: int, opponent: str) -> dict[str, int]:
    """The steps at which AdaMix and an opponent of NAMES stop. Raises LabError for one that was not looked at."""
    steps = list(stored_looks().loc[ADAMIX].index)
    for step in (adamix, other):
        if step not in steps:
            raise LabError(f"Step {step} was not looked at: expected one of {', '.join(map(str, steps))}.")
    return {ADAMIX: adamix, NAMES[opponent]: other}


def draw_stopped(stops: Mapping[str, int]) -> View:
    """Two mean curves over ten seeds with all of their seeds behind them, and the stops of both, by model."""
    figure, (ax,) = panels(1, 7.2, 3.8)
    told, ends = [], []
    for model, step in stops.items():
        (colour, marker), curves = STYLES[COLOURS[model]], stored_looks().loc[model]
        mean = curves.mean(axis=1)
        ax.plot(curves.index, curves, color=colour, linewidth=0.8, alpha=0.25)
        ax.plot(mean, color=colour, linewidth=3, label=model)
        ax.plot(step, mean[step], color=colour, marker=marker, markersize=15, markeredgecolor="k")
        told.append(f"{model} after {step} steps: {mean[step]:.1f} %")
        ends.append(curves.loc[step])
    ax.set(xlabel="steps", ylabel="accuracy on true labels (%)", ylim=(48, 90))
    despine(ax)
    ax.legend(frameon=False, loc="lower right")
    gap = ends[0] - ends[1]
    leads = "AdaMix" if gap.mean() > 0 else list(stops)[1]
    ahead = f"AdaMix is ahead in {(gap > 0).sum()} of {len(gap)} seeds"
    readout = ". ".join([*told, f"{leads} leads by {abs(gap.mean()):.1f} points; {ahead}."])
    return View(readout, Picture(figure, f"Accuracy against steps, means over {len(gap)} seeds. {readout}"))


def stop_explorer() -> Explorer:
    """The widget of lesson 00: a stop for AdaMix, a stop for its opponent, and who that is."""
    return Explorer(**described("stops"), compute=stopped, draw=draw_stopped)
