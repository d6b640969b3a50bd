"""The paper's printed numbers, as `data/paper` holds them."""

from __future__ import annotations

import csv

from adamix_lab.core.errors import unknown
from adamix_lab.tasks.tasks import data_root

TABLES = (1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14)


def paper_table(number: int) -> list[dict[str, str]]:
    """The rows of a table as they are printed. Raises ValueError for a table that is not held."""
    if number not in TABLES:
        raise unknown("Table of the paper", number, map(str, TABLES))
    return read(f"table{number}.csv")


def read(name: str) -> list[dict[str, str]]:
    """The rows of a file in `data/paper`."""
    with (data_root() / "paper" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def printed(number: int, **which: str) -> dict[str, float]:
    """The numbers of one row by column, e.g. `printed(8, model="AdaMix")`; empty cells are left out.

    Raises ValueError where no row, or more than one, is meant.
    """
    rows = [row for row in paper_table(number) if all(row.get(key) == value for key, value in which.items())]
    if len(rows) != 1:
        key = next(iter(which))
        raise unknown(f"{key} of Table {number}", which[key], {row[key] for row in paper_table(number) if key in row})
    numbers = {}
    for column, text in rows[0].items():
        try:
            numbers[column] = float(text)
        except ValueError:
            continue  # names, sizes such as "0.8M", empty cells
    return numbers


def printed_difference(number: int, first: dict[str, str], second: dict[str, str]) -> dict[str, float]:
    """One row minus another, by column, in the table's own unit (points)."""
    a, b = printed(number, **first), printed(number, **second)
    return {column: round(a[column] - b[column], 2) for column in a if column in b}
