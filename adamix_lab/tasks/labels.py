"""Columns are checked, and labels become numbers, with errors that name place and row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import LabError, unknown
from adamix_lab.tasks.rows import Part


def check_columns(part: Part, text: Sequence[str], label: str) -> None:
    """Raises ValueError for a row that lacks a column, or whose text is no string (it may be empty)."""
    for number, row in enumerate(part.rows, start=1):
        for column in (*text, label):
            if column not in row:
                raise LabError(f"{part.place}, row {number}: {unknown('Column', column, row)}")
        for column in text:
            if not isinstance(row[column], str):
                raise LabError(
                    f"{part.place}, row {number}: {column} = {row[column]!r}: expected a string (it may be empty)."
                )


def number_labels(
    parts: Sequence[Part],
    label: str,
    classes: Sequence[str] | None = None,
    numbers: Sequence[str] = (),
    bounds: tuple[float, float] | None = None,
) -> tuple[str, ...]:
    """Replaces labels by class numbers from 0, or by floats for a regression, in place; returns the classes.

    Args:
        parts: the training rows first.
        label: the labels' column.
        classes: in the order of the numbers to be, none for a regression; a label is a class's name or number. None
            lets the training rows tell: whole numbers are class ids from 0, strings become classes in sorted order,
            and numbers with a fraction make it a regression.
        numbers: the classes in the order of the numbers that stand in the rows, where that differs.
        bounds: of a regression's labels.

    Raises ValueError for a label that is missing, or outside the classes or bounds.
    """
    values = [[_parse_label(row[label], place, n) for n, row in enumerate(rows, start=1)] for _, place, rows in parts]
    if classes is None:
        classes, ids = _infer_classes(values[0], parts[0].place)
        hint = ""
    else:
        ids = {name: n for n, name in enumerate(classes)}
        ids |= {n: ids[name] for n, name in enumerate(numbers or classes)}
        hint = " (or its number)"
    expected = (
        f"the {len(classes)} classes of {Path(parts[0].place).name}: expected one of {', '.join(classes[:8])}{hint}"
    )
    for (_, place, rows), given in zip(parts, values, strict=True):
        for n, (row, value) in enumerate(zip(rows, given, strict=True), start=1):
            row[label] = ids.get(value, ids.get(str(value))) if classes else _parse_score(value, place, n, bounds)
            if row[label] is None:
                raise LabError(
                    f"{place}, row {n}: label {value!r} is outside {expected}. Leave out rows without a label (-1)."
                )
    return tuple(classes)


def _infer_classes(values: Sequence[int | float | str], place: str) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(classes, number by label) as the training labels tell; no classes for a regression."""
    if any(isinstance(value, float) for value in values):
        return (), {}
    if not all(isinstance(value, int) for value in values):
        names = sorted({str(value) for value in values})
        return tuple(names), {name: n for n, name in enumerate(names)}
    there = sorted(set(values))
    if there != list(range(len(there))):
        raise LabError(
            f"{place} has labels {', '.join(map(str, there[:8]))}: expected whole numbers from 0 without gaps. "
            "Number the classes from 0, give them as strings, or as floats (1.0) for a regression; leave out rows "
            "without a label."
        )
    return tuple(map(str, there)), {n: n for n in range(len(there))}


def _parse_label(given: Any, place: str, number: int) -> int | float | str:
    """The label as a whole number, a float, or a string."""
    value = _parse_number(given.strip()) if isinstance(given, str) else given
    if value is None or value == "" or value != value:
        raise LabError(
            f"{place}, row {number}: no label ({value!r}): expected a class or a number. Leave such rows out."
        )
    if not isinstance(value, int | float | str):
        raise LabError(f"{place}, row {number}: label {value!r}: expected a class (number or string) or a float.")
    return int(value) if isinstance(value, bool) else value


def _parse_number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _parse_score(value: int | float | str, place: str, number: int, bounds: tuple[float, float] | None) -> float:
    if isinstance(value, str):
        raise LabError(f"{place}, row {number}: label {value!r}: expected a number, as a regression has it.")
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise LabError(
            f"{place}, row {number}: label {value} is out of range: expected {bounds[0]:g} to {bounds[1]:g}. Leave "
            "out rows without a label (-1)."
        )
    return float(value)
