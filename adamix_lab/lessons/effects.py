"""Effects, as lessons show them: tables that are committed in data/results/effects (`make.py` there), and forests.

Each effect has one of three verdicts, *shown*, *alike* and *not shown*, by the rules of `analysis.statistics`.
"""

from __future__ import annotations

import csv
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adamix_lab.analysis.plots import Picture, panels
from adamix_lab.analysis.statistics import ALIKE, NOT_SHOWN, SHOWN, SMALLEST
from adamix_lab.core.errors import LabError
from adamix_lab.core.files import require_file
from adamix_lab.tasks.tasks import data_root

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
