"""The paper's tables: the numbers that are printed, and which comparison here stands beside a difference of two rows.

Another backbone's absolute numbers do not compare; differences between variants of one backbone do, with care. All of
it is data in `data/paper`: `tableN.csv` as printed, `tables.yaml` with the comparisons.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

import yaml

from adamix_lab.core.errors import unknown
from adamix_lab.experiments.contrasts import Contrast, Side, minus
from adamix_lab.tasks.tasks import data_root

PRINTED = (1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14)
Row = dict[str, str]


# -- what is printed --------------------------------------------------------------------------------------


def read_paper(name: str) -> Any:
    """A file of `data/paper`: the rows of a .csv, as they are printed, what a .yaml holds, or another's text."""
    readers = {".csv": lambda file: list(csv.DictReader(file)), ".yaml": yaml.safe_load}
    path = data_root() / "paper" / name
    with path.open(encoding="utf-8", newline="") as file:
        return readers.get(path.suffix, lambda file: file.read())(file)


def printed_table(number: int) -> list[Row]:
    """The rows of a table as they are printed. Raises ValueError for a table that is not there."""
    if number not in PRINTED:
        raise unknown("Table of the paper", number, map(str, PRINTED))
    rows: list[Row] = read_paper(f"table{number}.csv")
    return rows


def printed(number: int, **which: str) -> dict[str, float]:
    """The numbers of one row by column, e.g. `printed(8, model="AdaMix")`; empty cells are left out.

    Raises ValueError where no row, or more than one, is meant.
    """
    rows = [row for row in printed_table(number) if all(row.get(key) == value for key, value in which.items())]
    if len(rows) != 1:
        key = next(iter(which))
        raise unknown(f"{key} of Table {number}", which[key], {row[key] for row in printed_table(number) if key in row})
    numbers = {}
    for column, text in rows[0].items():
        try:
            numbers[column] = float(text)
        except ValueError:
            continue  # names, sizes such as "0.8M", empty cells
    return numbers


def printed_difference(number: int, first: Row, second: Row) -> dict[str, float]:
    """One row minus another, by column, in the table's own unit (points)."""
    a, b = printed(number, **first), printed(number, **second)
    return {column: round(a[column] - b[column], 2) for column in a if column in b}


# -- what stands beside it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One comparison of a table.

    Attributes:
        says: the two sides in words.
        contrast: ours.
        printed: the paper's difference by column, `average` included where there is one.
    """

    says: str
    contrast: Contrast
    printed: dict[str, float]


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    columns: printed column to (task, metric here); metric None is the task's primary one.
    """

    name: str
    title: str
    columns: dict[str, tuple[str, str | None]]
    lines: tuple[Line, ...]
    few_shot: bool = False
    remark: str = ""


def read_tables() -> list[Table]:
    """The paper's nine tables whose differences can be measured here."""
    return [_table(**entry) for entry in read_paper("tables.yaml")]


def _table(
    columns: list[str], lines: list[dict[str, Any]], renamed: dict[str, list[Any]] | None = None, **more: Any
) -> Table:
    places = {name: (name, None) for name in columns} | {name: (t, m) for name, (t, m) in (renamed or {}).items()}
    few_shot = more.get("few_shot", False)
    return Table(columns=places, lines=tuple(_line(**line, few_shot=few_shot) for line in lines), **more)


def _line(printed: dict[str, Any], here: list[str], few_shot: bool, says: str = "") -> Line:
    rows = dict(printed)
    number, where = rows.pop("table"), rows.pop("where", {})
    ((key, (first, second)),) = rows.items()
    difference = printed_difference(number, {key: first, **where}, {key: second, **where})
    contrast = minus(*map(Side.named, here), few_shot=few_shot)
    return Line(says or f"AdaMix − {second}", contrast, difference)
