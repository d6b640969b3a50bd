"""Effect tables, as lessons show them: what is committed in data/results/effects (its `make.py` says how)."""

from __future__ import annotations

import csv
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from adamix_lab.core.errors import LabError
from adamix_lab.core.files import require_file
from adamix_lab.tasks.tasks import data_root


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
    require_file(path, f"an effect table. `python data/results/effects/make.py {lesson}` makes it.")
    every = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    found = [row for row in every if containing in row["effect"]]
    if not found:
        raise LabError(f"No effect of lesson {lesson} is about {containing!r}: expected words of one of {path}.")
    return Table(found)
