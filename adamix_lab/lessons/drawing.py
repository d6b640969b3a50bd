"""What several lessons show: effects as tables and forests, a Transformer block with a route through it, cells, lines.

Effect tables are committed in data/results/effects (`make.py` there). Each effect has one of three verdicts, *shown*,
*alike* and *not shown*, by the rules of `analysis.statistics`.
"""

from __future__ import annotations

import csv
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, new_figure, panels, style_of
from adamix_lab.analysis.statistics import ALIKE, NOT_SHOWN, SHOWN, SMALLEST
from adamix_lab.core.errors import LabError, whole
from adamix_lab.core.files import require_file
from adamix_lab.tasks.tasks import data_root

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.text import Text

Row = Mapping[str, str]  # a line of a table, by column
MOST = 14  # lines that can be read in one picture
LOOKS = {SHOWN: ("#0072B2", "o"), ALIKE: ("#00735C", "s"), NOT_SHOWN: ("#666666", "o")}  # colour, marker
COLUMNS = ("effect", "mean", "unit", "verdict", "possible", "seeds")


class Table:
    """Rows of text, shown in a notebook without cutting them short; of an effect table where no columns are named."""

    def __init__(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> None:
        self.rows, self.columns = list(rows), tuple(columns)

    def __repr__(self) -> str:
        if self.columns == COLUMNS:
            return "\n".join(map(in_words, self.rows))
        return "\n".join("; ".join(row[name] for name in self.columns) for row in self.rows)

    def _repr_html_(self) -> str:
        def cells(tag: str, values: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

        body = "".join(cells("td", [row[name] for name in self.columns]) for row in self.rows)
        return f"<table>{cells('th', self.columns)}{body}</table>"


def in_words(row: Row) -> str:
    """A line of a table as a sentence: the effect, its mean, the verdict, and what the interval leaves possible."""
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] != '1' else ''}"
    return f"{row['effect']}: {row['mean']} {row['unit']}, {row['verdict']} ({row['possible']}; {seeds})"


def effects_table(lesson: str, containing: str = "", folder: Path | None = None) -> Table:
    """A lesson's committed table, or the effects whose name holds some words.

    Raises FileNotFoundError where the table is missing, with the command that makes it; ValueError where no effect's
    name holds the words.
    """
    path = (folder or data_root() / "results" / "effects") / f"{lesson}.csv"
    require_file(path, f"an effect table. `python data/results/effects/make.py {lesson}` makes it.")
    every = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    found = [row for row in every if containing in row["effect"]]
    if not found:
        raise LabError(f"No effect of lesson {lesson} is about {containing!r}: expected words of one of {path}.")
    return Table(found)


def row_about(lesson: str, effect: str, folder: Path | None = None) -> Row:
    """The line of an effect, named whole or by words that no other name holds. Raises ValueError for other words."""
    found = effects_table(lesson, effect, folder).rows
    rows = [row for row in found if row["effect"] == effect] or found
    if len(rows) != 1:
        raise LabError(
            f"{effect!r} names {len(rows)} effects of lesson {lesson}: expected one. Name more of its words."
        )
    return rows[0]


def outcome(lesson: str, effect: str, above: str, below: str, neither: str = "", folder: Path | None = None) -> str:
    """What a prediction about an effect is held against: `above` or `below` where it is shown, else the verdict.

    neither: what stands for "alike" and "not shown" where they are one answer. Raises ValueError as `row_about`.
    """
    row = row_about(lesson, effect, folder)
    if row["verdict"] != SHOWN:
        return neither or row["verdict"]
    return above if float(row["mean"]) > 0 else below


# -- the same rows as a picture -------------------------------------------------------------------------------------


def forest(lesson: str, containing: str = "", folder: Path | None = None) -> Picture:
    """The rows of `effects_table` as a forest plot, a panel a unit. Raises ValueError for more than MOST rows."""
    return draw_forest(effects_table(lesson, containing, folder).rows)


def draw_forest(rows: Sequence[Row]) -> Picture:
    """A line an effect: its mean, its interval, each seed as a small mark, and the span that is too small to matter.

    rows: lines of tables, or mappings with their columns effect, unit, mean, low, high, verdict, possible, by_seed and
    seeds. Raises ValueError for none, or more than MOST.
    """
    if not 0 < len(rows) <= MOST:
        raise LabError(f"{len(rows)} effects: expected 1 to {MOST}, more are not read in one picture. Name some words.")
    units = [unit for unit in SMALLEST if any(row["unit"] == unit for row in rows)]
    figure, axes = panels(1, 8.2, 1.1 * len(units) + 0.55 * len(rows), rows=len(units))
    for unit, ax in zip(units, axes, strict=True):
        _draw_unit([row for row in rows if row["unit"] == unit], unit, ax)
    told = "; ".join(map(in_words, rows))
    spans = " and ".join(f"{SMALLEST[unit]:g} {unit}" for unit in units)
    return Picture(figure, f"A forest plot, a line an effect; less than {spans} does not matter. {told}.")


def _draw_unit(rows: Sequence[Row], unit: str, ax: Axes) -> None:
    smallest, seen = SMALLEST[unit], dict.fromkeys(row["verdict"] for row in rows)
    ax.axvspan(-smallest, smallest, color="#DDDDDD", label=f"too small to matter: ± {smallest:g} {unit}", linewidth=0)
    ax.axvline(0, color="black", linewidth=1)
    for n, row in enumerate(rows):
        colour, marker = LOOKS[row["verdict"]]
        values = [float(value) for value in row["by_seed"].split()]
        ax.plot(values, [n + 0.2] * len(values), marker="|", markersize=7, linestyle="none", color=colour, alpha=0.6)
        low, high = (float(row[end] or math.nan) for end in ("low", "high"))
        ax.plot([low, high], [n, n], color=colour, linewidth=2.5, alpha=0.7)
        filled = "white" if row["verdict"] == NOT_SHOWN else colour
        label = row["verdict"] if seen.pop(row["verdict"], True) is None else None  # each verdict once
        ax.plot(float(row["mean"]), n, linestyle="none", marker=marker, markersize=9, color=colour,
                markerfacecolor=filled, label=label)  # fmt: skip
        ax.annotate(row["effect"], (0, n - 0.34), xycoords=("axes fraction", "data"), va="center", fontsize=9,
                    bbox={"facecolor": "white", "alpha": 0.7, "pad": 1, "linewidth": 0})  # fmt: skip
    ax.set(
        yticks=[], ylim=(len(rows) - 0.4, -0.7), xlabel=f"{unit}, with 95 % intervals for all that are judged together"
    )
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=9)


# -- a Transformer block ---------------------------------------------------------------------------------------------

Point = tuple[float, float]
LIT, DARK, FROZEN, TRAINED, TAKEN = STYLES["random"][0], "#333333", "#E3E3E3", "#D6E8F5", "#FBE3D3"
MIDDLE = 3.2  # the height of the way through the block
EXPERTS = 4


def draw_block(route: tuple[int, int] = (2, 0)) -> Picture:
    """The block from left to right: attention, feed-forward, and the mixture at the latter's output.

    route: (down, up), the experts that serve the two sides: of four down-projections, and of the shared up-projection.

    Raises ValueError for an expert that is not there.
    """
    down, up = route
    whole("expert of the down side", down, 0, EXPERTS - 1)
    whole("expert of the up side", up, 0, 0)
    figure, ax = new_figure(12.0, 5.2)
    ax.set(xlim=(0, 18.6), ylim=(-0.75, 7.2), aspect="equal")
    ax.set_axis_off()
    _frozen_part(ax)
    _mixture(ax, down)
    note = f"thick: the route of this step, drawn at random ({down}, {up})"
    ax.text(8.5, -0.4, note, fontsize=12, color=LIT, ha="left")
    alt = (
        "A Transformer block, drawn from left to right. Token vectors pass through self-attention and the feed-forward "
        "layers, which are frozen; a residual line leads past each of them, to a sum and a norm. At the output of the "
        f"feed-forward layers sits a mixture of {EXPERTS} adapters: down projections, GELU, up projections, and a line "
        "past them to a sum; the up projection is shared by all experts. The route that is lit takes "
        f"down {down}, then the up projection; the others rest."
    )
    return Picture(figure, alt)


def _frozen_part(ax: Axes) -> None:
    _arrow(ax, (0.1, MIDDLE), (1.3, MIDDLE))
    ax.text(0.1, MIDDLE - 0.2, "token\nvectors", fontsize=12, va="top")
    for left, right, label in ((1.3, 3.5, "self-\nattention"), (5.9, 8.1, "feed-\nforward")):
        _shape(ax, (left, right), MIDDLE, (1.2, 1.2), f"{label}\n(frozen)", FROZEN)
    for left in (4.5, 16.3):
        _shape(ax, (left, left + 0.8), MIDDLE, (1.0, 1.0), "norm", FROZEN).set_rotation(90)
    for start, end in ((3.5, 3.75), (4.25, 4.5), (5.3, 5.9), (16.05, 16.3), (17.1, 18.4)):
        _arrow(ax, (start, MIDDLE), (end, MIDDLE))
    ax.text(17.25, MIDDLE + 0.25, "to the next\nblock", fontsize=12)
    for start, end, middle in ((0.9, 4.0, 2.45), (5.55, 15.8, 10.7)):
        _past(ax, start, end, 6.6)
        ax.text(middle, 6.72, "residual", fontsize=11, ha="center", color=DARK)


def _mixture(ax: Axes, taken: int) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((8.75, 0.75), 5.35, 5.4, fill=False, linestyle="--", linewidth=1.5, edgecolor=DARK))
    ax.text(11.4, 5.82, "mixture of adapters (trained)", fontsize=12, ha="center", va="center")
    _past(ax, 8.45, 14.6, 0.3)
    _arrow(ax, (14.85, MIDDLE), (15.55, MIDDLE))
    split, gelu, join = (8.45, MIDDLE), (11.45, MIDDLE), (14.35, MIDDLE)
    _way(ax, (8.1, MIDDLE), split, lit=True)
    for number in range(EXPERTS):
        height, lit = MIDDLE + 2.3 - (number + 0.5) * 4.6 / EXPERTS, number == taken
        _way(ax, split, (9.1, height), lit)
        _way(ax, (10.7, height), gelu, lit)
        _shape(ax, (9.1, 10.7), height, (0.46, 0.276), f"down {number}", TAKEN if lit else TRAINED, lit)
    _way(ax, gelu, (12.2, MIDDLE), lit=True)
    _way(ax, (13.8, MIDDLE), join, lit=True)
    _shape(ax, (12.2, 13.8), MIDDLE, (0.96, 1.6), "up\n(shared)", TAKEN, lit=True)
    ax.plot(*gelu, "o", markersize=40, markerfacecolor="white", markeredgecolor=DARK, zorder=4)
    ax.text(*gelu, "GELU", fontsize=10, ha="center", va="center", zorder=5)


def _way(ax: Axes, start: Point, end: Point, lit: bool) -> None:
    colour, width = (LIT, 4.0) if lit else ("#AAAAAA", 1.2)
    x, y = zip(start, end, strict=True)
    ax.plot(x, y, color=colour, linewidth=width, solid_capstyle="round", zorder=2 if lit else 1)  # lit: on top


def _shape(ax: Axes, sides: Point, height: float, halves: Point, label: str, colour: str, lit: bool = False) -> Text:
    # a box, or with two different half heights a trapeze, with its name in it
    from matplotlib.patches import Polygon

    (left, right), (first, last) = sides, halves
    corners = [(left, height - first), (right, height - last), (right, height + last), (left, height + first)]
    edge, width, weight = (LIT, 3, "bold") if lit else (DARK, 1, "normal")
    ax.add_patch(Polygon(corners, facecolor=colour, edgecolor=edge, linewidth=width, zorder=3))
    middle = (left + right) / 2
    return ax.text(middle, height, label, ha="center", va="center", zorder=5, fontsize=12, fontweight=weight)


def _arrow(ax: Axes, start: Point, end: Point) -> None:
    look = {"arrowstyle": "-|>", "color": DARK, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


def _past(ax: Axes, start: float, end: float, height: float) -> None:
    # a line past what lies between two places of the way, with its arrow at the sum
    ax.plot([start, start, end], [MIDDLE, height, height], color=DARK, linewidth=1.8)
    _arrow(ax, (end, height), (end, MIDDLE + (0.25 if height > MIDDLE else -0.25)))
    ax.plot(end, MIDDLE, "o", markersize=18, markerfacecolor="white", markeredgecolor=DARK, zorder=4)
    ax.text(end, MIDDLE, "+", fontsize=15, ha="center", va="center", zorder=5)


# -- grids of cells, and probabilities on lines ------------------------------------------------------------------------


def draw_cells(
    ax: Axes, values: Any, rows: Sequence[str], columns: Sequence[str], low: float, high: float, texts: Any = None,
    cmap: str = "cividis", size: float = 8,
) -> QuadMesh:  # fmt: skip
    """A grid of cells coloured by values `[rows, columns]` from low to high, white where nan, each with its text.

    texts: by row; None writes the values. size: of the font.
    """
    edges = [np.arange(len(names) + 1) - 0.5 for names in (columns, rows)]
    drawn = ax.pcolormesh(*edges, np.asarray(values), vmin=low, vmax=high, cmap=cmap, edgecolors="white", linewidth=1)
    for (row, column), value in np.ndenumerate(np.asarray(values)):
        *colour, opacity = drawn.cmap(drawn.norm(value))
        dark = opacity and np.dot(colour, (0.3, 0.6, 0.1)) < 0.5
        text = f"{value:.0f}" if texts is None else texts[row][column]
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color="w" if dark else "k", in_layout=False)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.tick_params(length=0)
    return drawn


def outline(ax: Axes, row: int, column: int, height: int = 1) -> None:
    """A frame around a cell, or around several below one another."""
    from matplotlib.patches import Rectangle

    corner, size = (column - 0.47, row - 0.47), (0.94, height - 0.06)
    ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=LIT, linewidth=4))


def draw_probabilities(samples: Mapping[str, Tensor], name: str, notes: Sequence[str], alt: str) -> Picture:
    """A line a kind of samples: the probabilities of a class `[S]` as marks, their mean as a bar, a note at the end."""
    figure, ax = new_figure(8.6, 0.8 * len(samples) + 1.0)
    for n, ((kind, p), note) in enumerate(zip(samples.items(), notes, strict=True)):
        colour, marker = style_of(kind)
        aside = 0.44 * (np.arange(len(p)) - (len(p) - 1) / 2) / len(p)  # equal ones lie side by side
        ax.plot([100 * float(p.mean())] * 2, [n - 0.36, n + 0.36], color="black", linewidth=2, zorder=1)
        ax.scatter(100 * p, n + aside, s=70, color=colour, marker=marker, alpha=0.8)
        ax.annotate(note, (103, n), va="center", annotation_clip=False)
    ax.axvline(50, color="black", linestyle=":", linewidth=1)
    ax.set_yticks(range(len(samples)), [f"{kind}\n({len(p)})" if len(p) > 1 else kind for kind, p in samples.items()])
    ax.set(xlim=(-2, 102), ylim=(len(samples) - 0.5, -0.5), xlabel=f"probability of “{name}” (%)")
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return Picture(figure, alt)
