"""Lesson 09: what shipped writers wrote under one route, a new route for every token, and merged; the explorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, new_figure
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.generation.comparison import spread
from adamix_lab.generation.shipped import BEAMS, EXPLORED, SEEDS, TASK, load_explored, load_texts
from adamix_lab.generation.tasks import coverage, load_generation_task, realised, slots_of
from adamix_lab.lessons.consistency import plot_seeds
from adamix_lab.lessons.widgets import Explorer, Number, Steps, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle


NAMES = {
    **{f"fixed-{n}": f"expert {n}" for n in range(4)},
    "random": "one random\nroute a text",
    "anew": "a new route\nevery token",
    "merged": "merged",
}
GOAL = 97  # % of the slots of ten inputs


def inputs() -> list[str]:
    """The ten sources that the explorer shows, spread over the evaluation set."""
    sources = load_generation_task(TASK).sources
    return [sources[n] for n in spread(len(sources), EXPLORED)]


def covered(strategy: str, seed: int = 0) -> Tensor:
    """The share of slots that a writer realised in each evaluation source, `[sources]`."""
    return torch.tensor(coverage(load_texts("adamix", seed)[strategy], load_generation_task(TASK).sources))


# -- the explorer -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """One input under one way of decoding.

    Attributes:
        source: the input.
        route: its name in `load_explored`.
        beams: hypotheses kept.
        texts: what each route writes for the input with as many beams, by name.
        share: of the slots of all ten inputs that the chosen way realises.
    """

    source: str
    route: str
    beams: int
    texts: Mapping[str, str]
    share: float


def written(number: int, route: str, beams: int) -> Written:
    """The state of the explorer; inputs count from 1."""
    explored, sources = load_explored(), inputs()
    texts = {name: by_beams[str(beams)][number - 1] for name, by_beams in explored.items()}
    every = coverage(explored[route][str(beams)], sources)
    return Written(sources[number - 1], route, beams, texts, sum(every) / len(every))


def draw_written(state: Written) -> View:
    """The table of realised slots, a column a route, the chosen one outlined."""
    figure, _, told = draw_slots(state.source, state.texts, state.route)
    text = state.texts[state.route]
    slots = realised(text, slots_of(state.source))
    missing = [slot for slot, there in slots.items() if not there]
    lost = f"missing: {', '.join(missing)}" if missing else "all are there"
    way = f"{plain(state.route)}, {state.beams} beam{'s' if state.beams > 1 else ''}"
    readout = (
        f"{state.source} → “{text}” ({way}). {sum(slots.values())} of {len(slots)} slots, {lost}. On the ten inputs "
        f"this way realises {100 * state.share:.0f} % of the slots."
    )
    return View(readout, Picture(figure, f"{told} Chosen: {way}, {100 * state.share:.0f} % on ten inputs."))


def draw_slots(source: str, texts: Mapping[str, str], chosen: str | None = None) -> tuple[Figure, Axes, str]:
    """A row a slot, a column a text: whether the value stands in it. Returns the alt text, too."""
    slots = slots_of(source)
    table = {name: realised(text, slots) for name, text in texts.items()}
    figure, ax = new_figure(1.5 + 1.05 * len(table), 1.0 + 0.42 * len(slots))
    for column, (name, found) in enumerate(table.items()):
        for row, there in enumerate(found.values()):
            colour = STYLES["merged"][0] if there else "#E8E8E8"
            ax.add_patch(_cell(column, row, facecolor=colour, edgecolor="white", linewidth=2))
            ax.text(column, row, "✓" if there else "–", ha="center", va="center", color="w" if there else "k")
        if name == chosen:
            height = len(slots)
            ax.add_patch(_cell(column, 0, height, fill=False, edgecolor="#D55E00", linewidth=4))
    ax.set(xlim=(-0.6, len(table) - 0.4), ylim=(len(slots) - 0.4, -0.6))
    ax.set_xticks(range(len(table)), [NAMES.get(name, name) for name in table], fontsize=9)
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(slots)), [f"{slot}: {value}" for slot, value in slots.items()])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    counts = "; ".join(f"{plain(name)} {sum(found.values())}" for name, found in table.items())
    return figure, ax, f"Which of {len(slots)} slots stand in the text for “{source}”, a column a route: {counts}."


def plain(name: str) -> str:
    """A route's name in one line."""
    return NAMES.get(name, name).replace("\n", " ")


def _cell(column: int, row: int, height: int = 1, **how: Any) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, height, **how)


def decoding_explorer() -> Explorer:
    """The widget of lesson 09, over texts that were written beforehand."""
    routes = tuple(load_explored())
    return Explorer(
        "Decoding explorer",
        f"Find a way of decoding that realises over {GOAL} % of the slots of the ten inputs. How many do? Which inputs "
        "lose a slot on every route, and which on some?",
        [
            Number("number", "input", 1, EXPLORED, 1, 1),
            Steps("route", "route", routes, "anew"),
            Steps("beams", "beams", BEAMS, 1),
        ],
        written,
        draw_written,
        shown={"number": 6, "route": "fixed-1", "beams": 1},  # a slot that some routes lose
    )


# -- the main picture ---------------------------------------------------------------------------------------


def draw_coverage() -> tuple[Figure, Axes, str]:
    """Slot coverage of each way over all evaluation sources: a small marker a seed, a large one their mean."""
    figure, ax = new_figure(8.4, 3.7)
    told = []
    styles = {"merged": "merged", "random": "random", "anew": "dropout"}
    for place, name in enumerate(NAMES):
        values = [100 * float(covered(name, seed).mean()) for seed in SEEDS]
        plot_seeds(ax, place, values, styles.get(name, "fixed"))
        told.append(f"{plain(name)} {format_interval(values)}")
    ax.set_xticks(range(len(NAMES)), list(NAMES.values()), fontsize=9)
    ax.set(ylim=(0, 104), ylabel="slots realised (%)")
    ax.grid(axis="y", alpha=0.3)
    return figure, ax, f"Slot coverage in %, mean of {len(SEEDS)} seeds, each seed a small marker: {'; '.join(told)}."
