"""Labels as numbers: classes from 0, or floats for a regression, with errors that name file and row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from adamix_lab.core.errors import unknown
from adamix_lab.tasks.rows import Row

Part = tuple[str, list[Row]]  # where the rows are from, for messages, and the rows


def number_labels(parts: Sequence[Part], label: str) -> tuple[str, ...]:
    """Replaces labels by class numbers (or floats), in place; returns the classes, known from the first part.

    Whole numbers are class ids from 0; strings become classes in sorted order; numbers with a fraction make it a
    regression, which has no classes. Raises ValueError for labels that fit none of these.
    """
    place, rows = parts[0]
    values = [_label(row[label], place, n) for n, row in enumerate(rows, start=1)]
    if any(isinstance(value, float) for value in values):
        for part_place, part in parts:
            for n, row in enumerate(part, start=1):
                row[label] = _score(_label(row[label], part_place, n), part_place, n, None)
        return ()
    numbered = all(isinstance(value, int) for value in values)
    classes = _class_ids(values, place) if numbered else sorted({str(value) for value in values})
    _replace(parts, label, {(int(c) if numbered else c): n for n, c in enumerate(classes)}, classes, numbered)
    return tuple(classes)


def name_labels(
    parts: Sequence[Part],
    label: str,
    classes: Sequence[str],
    numbers: Sequence[str] = (),
    bounds: tuple[float, float] | None = None,
) -> None:
    """Replaces labels by numbers of known classes (or by floats where there are none), in place.

    classes: in the order of the numbers to be. numbers: in the order of the numbers that stand in the rows, where that
    differs. A label may also be a class's name. bounds: of a regression's labels.

    Raises ValueError for a label that is missing or outside the classes or bounds.
    """
    if not classes:
        for place, part in parts:
            for n, row in enumerate(part, start=1):
                row[label] = _score(_label(row[label], place, n), place, n, bounds)
        return
    ids: dict[Any, int] = {name: n for n, name in enumerate(classes)}
    ids |= {n: ids[name] for n, name in enumerate(numbers or classes)}
    _replace(parts, label, ids, classes, None)


def _replace(
    parts: Sequence[Part], label: str, ids: Mapping[Any, int], classes: Sequence[str], numbered: bool | None
) -> None:
    for place, part in parts:
        for n, row in enumerate(part, start=1):
            value = _label(row[label], place, n)
            value = str(value) if numbered is False else value
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if value not in ids:
                either = " (or its number)" if numbered is None else ""
                raise ValueError(
                    f"{place}, row {n}: label {value!r} is outside the {len(classes)} classes of {_file(parts)}: "
                    f"expected one of {', '.join(classes[:8])}{either}. Leave out rows without a label (-1)."
                )
            row[label] = ids[value]


def _file(parts: Sequence[Part]) -> str:
    return parts[0][0].replace("\\", "/").rpartition("/")[2]


def _class_ids(values: Sequence[Any], place: str) -> list[str]:
    there = sorted(set(values))
    if there != list(range(len(there))):
        raise ValueError(
            f"{place} has labels {', '.join(map(str, there[:8]))}: expected whole numbers from 0 without gaps. "
            "Number the classes from 0, give them as strings, or as floats (1.0) for a regression; leave out rows "
            "without a label."
        )
    return [str(value) for value in there]


def _score(value: int | float | str, place: str, number: int, bounds: tuple[float, float] | None) -> float:
    if isinstance(value, str):
        raise ValueError(f"{place}, row {number}: label {value!r}: expected a number, as a regression has it.")
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise ValueError(
            f"{place}, row {number}: label {value} is out of range: expected {bounds[0]:g} to {bounds[1]:g}. Leave "
            "out rows without a label (-1)."
        )
    return float(value)


def _label(value: Any, place: str, number: int) -> int | float | str:
    """The label as a whole number, a float, or a string."""
    if isinstance(value, str):
        value = _number(value.strip())
    if isinstance(value, bool):
        return int(value)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(
            f"{place}, row {number}: no label ({value!r}): expected a class or a number. Leave such rows out."
        )
    if not isinstance(value, int | float | str):
        raise ValueError(f"{place}, row {number}: label {value!r}: expected a class (number or string) or a float.")
    return value


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def check_columns(rows: Sequence[Row], text: Sequence[str], label: str, place: str) -> None:
    """Raises ValueError for a row that lacks a column, or whose text is no string (it may be empty)."""
    for number, row in enumerate(rows, start=1):
        for column in (*text, label):
            if column not in row:
                raise ValueError(f"{place}, row {number}: {unknown('Column', column, row)}")
        for column in text:
            if not isinstance(row[column], str):
                raise ValueError(
                    f"{place}, row {number}: {column} = {row[column]!r}: expected a string (it may be empty)."
                )
