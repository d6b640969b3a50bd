"""Effect tables: what a lesson shows is measured on the shipped experts before the lesson is written.

A measure gives one number a row of the evaluation set, for one seed: a difference paired by row, or what becomes one.
Its mean has an interval over rows for each seed, and a t-interval over seeds. An effect that lies inside its interval
over seeds is a null result here, and the lessons say so.
"""

from __future__ import annotations

import csv
import html
import io
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adamix_lab.analysis.statistics import t_interval
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import write_text
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.shipped import SEEDS

Measure = Callable[[int], Tensor]  # seed -> [rows]
COLUMNS = (
    "effect", "unit", "mean", "half_width", "verdict", "by_seed", "half_width_over_rows", "seeds", "rows", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """One line of a table.

    Attributes:
        effect: in words: what minus what.
        unit: "points" (of 100 rows), "nats", or "share".
        values: the mean over rows, one a seed.
        over_rows: half of the 95 % interval over rows, one a seed.
        rows: how many.
        seconds: the measurement took.
    """

    effect: str
    unit: str
    values: tuple[float, ...]
    over_rows: tuple[float, ...]
    rows: int
    seconds: float

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    @property
    def half_width(self) -> float:
        """Half of the 95 % t-interval over seeds."""
        return t_interval(self.values).half_width

    @property
    def verdict(self) -> str:
        """Whether the interval over seeds leaves 0 out: "effect", "null result", or "one seed"."""
        if len(self.values) == 1:
            return "one seed"
        return "effect" if abs(self.mean) > self.half_width else "null result"

    def row(self) -> dict[str, str]:
        """The line as text."""
        digits = 4 if self.unit == "nats" else 2

        def listed(values: Sequence[float]) -> str:
            return " ".join("" if math.isnan(value) else f"{value:.{digits}f}" for value in values)

        told = (
            self.effect, self.unit, listed([self.mean]), listed([self.half_width]), self.verdict, listed(self.values),
            listed(self.over_rows), str(len(self.values)), str(self.rows), f"{self.seconds:.1f}",
        )  # fmt: skip
        return dict(zip(COLUMNS, told, strict=True))


def measure(effect: str, unit: str, function: Measure, seeds: Sequence[int] = SEEDS) -> Effect:
    """Runs one measure over seeds; points are shares times 100.

    Seeds whose runs are not stored are left out, and the table says how many there were. Raises ValueError for an
    unknown unit, FileNotFoundError where no seed is there.
    """
    one_of("unit", unit, ("points", "nats"))
    start = time.perf_counter()
    scale = 100.0 if unit == "points" else 1.0
    values, widths, rows = [], [], 0
    missing: list[FileNotFoundError] = []
    for seed in seeds:
        try:
            of_rows = function(seed).double() * scale
        except FileNotFoundError as error:
            missing.append(error)
            continue
        rows = len(of_rows)
        values.append(float(of_rows.mean()))
        widths.append(t_interval(of_rows).half_width)
    if not values and missing:
        raise missing[0]
    return Effect(effect, unit, tuple(values), tuple(widths), rows, time.perf_counter() - start)


def measure_lesson(
    measures: Mapping[str, tuple[str, Measure]], seeds: Sequence[int] = SEEDS, say: Callable[[str], None] = print
) -> list[Effect]:
    """A lesson's measures, `{effect: (unit, measure)}`, one after another."""
    found = []
    for effect, (unit, function) in measures.items():
        found.append(measure(effect, unit, function, seeds))
        row = found[-1].row()
        say(f"{effect}: {row['mean']} ± {row['half_width']} {unit}, {row['verdict']}")
    return found


class Table:
    """Rows of an effect table, shown in a notebook without cutting the effects' names short."""

    SHOWN = ("effect", "mean", "half_width", "unit", "verdict", "by_seed")

    def __init__(self, rows: Sequence[Mapping[str, str]]) -> None:
        self.rows = list(rows)

    def __repr__(self) -> str:
        lines = [
            f"{row['effect']}: {row['mean']} ± {row['half_width'] or '?'} {row['unit']}, {row['verdict']} (seeds: "
            f"{row['by_seed']})"
            for row in self.rows
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def cells(tag: str, values: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

        head = cells("th", [name.replace("half_width", "±").replace("_", " ") for name in self.SHOWN])
        return f"<table>{head}{''.join(cells('td', [row[n] for n in self.SHOWN]) for row in self.rows)}</table>"


def effects_table(lesson: str, containing: str = "", folder: Path | None = None) -> Table:
    """A lesson's committed table, or the effects whose name holds some words.

    Raises FileNotFoundError where the table is missing, with the command that makes it; ValueError where no effect's
    name holds the words.
    """
    path = (folder or data_root() / "results" / "effects") / f"{lesson}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: expected an effect table. `adamix-lab effects {lesson}` makes it."
        )
    every = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    found = [row for row in every if containing in row["effect"]]
    if not found:
        raise ValueError(f"No effect of lesson {lesson} is about {containing!r}: expected words of one of {path}.")
    return Table(found)


def write_effects(path: Path, effects: Sequence[Effect]) -> Path:
    """The table as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(effect.row() for effect in effects)
    write_text(path, text.getvalue())
    return path
