"""Columns are checked, and labels become numbers, with errors that name place and row.

A label is a class's name or number; which of the two a column holds, or whether it holds numbers to be met, the
training rows tell. '01' is not '1': a string is a number only where it is written as Python or pandas write numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adamix_lab.core.errors import Kind, LabError, unknown
from adamix_lab.tasks.rows import Part
from adamix_lab.tasks.tasks import TEXT_COLUMNS, TaskSpec, text_of

KINDS = ("classes", "labels", "numbers")
WHOLE = re.compile(r"(0|-?[1-9][0-9]*)(\.0+)?")
NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
MISSING = {"na", "n/a", "#n/a", "null", "none", "?", "-", "."}  # among numbers; among names each is a name
Reader = Callable[[Any, str], Any]  # (a row's label, its place) -> what stands in its stead, None where nothing fits


class Labels(NamedTuple):
    """What a column of labels holds: a kind of task, why it was taken for that, and the classes (none for numbers).

    ids: the classes by the numbers that stand for them; empty where names do.
    """

    kind: Kind
    why: str
    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def text_columns(
    row: Mapping[str, object], place: str, text: str | Sequence[str] | None = None, spec: TaskSpec | None = None
) -> tuple[str, ...]:
    """The columns that are text: those named, those that are known, or the usual ones. Raises ValueError."""
    if text is not None:
        given = (text,) if isinstance(text, str) else tuple(text)
        if not 1 <= len(given) <= 2:
            raise LabError(f"text = {text!r}: expected one column, or two for pairs.")
        return given
    if spec and spec.text:
        return spec.text
    for columns in TEXT_COLUMNS:
        if all(column in row for column in columns):
            return columns
    if {"source", "target"} <= row.keys():
        raise LabError(f"{place} has sources and targets, texts to write: expected classes. Use load_generation_task.")
    usual = ", ".join(" + ".join(columns) for columns in TEXT_COLUMNS)
    raise LabError(
        f"{place} has columns {', '.join(map(repr, row))}, none of them a usual name for text: expected {usual}. "
        'Say which with text="column" or text=("first", "second").'
    )


def check_columns(part: Part, text: Sequence[str], label: Sequence[str]) -> None:
    """Raises ValueError for a row that lacks a column, or whose text is no string (it may be empty)."""
    for number, row in enumerate(part.rows, start=1):
        for column in text:
            text_of(row, column, f"{part.place}, row {number}")
        for column in label:
            if column not in row:
                raise LabError(f"{part.place}, row {number}: {unknown('Column', column, row)}")


def number_labels(parts: Sequence[Part], label: str, known: TaskSpec | None = None, kind: str | None = None) -> Labels:
    """Replaces labels by what a head learns, in place: a class number from 0, 0.0 or 1.0 for each class, or floats.

    Args:
        parts: the training rows first.
        label: the labels' column.
        known: the task's classes (none: numbers); a label is a class's name or number. None lets the training rows
            tell: whole numbers are class ids from 0, names become classes in sorted order, numbers with a fraction are
            to be met, and lists hold several labels (or several numbers) a row.
        kind: "classes", "labels" or "numbers" where the rows must not tell.

    Raises ValueError for a label that is missing, of another type than the first, or outside the classes or bounds, and
    for a column that holds one class only, or numbers that can be read in two ways.
    """
    for part in parts:
        _check_present(part, label)
    place, values = parts[0].place, [row[label] for row in parts[0].rows]
    several = isinstance(values[0], list)
    told: Kind = "labels" if several else "classes" if known and known.classes else "numbers"
    if known and kind in (None, told):
        found = Labels(told, "the classes are known beforehand", known.classes, known.numbers or known.classes)
    else:
        found = (_tell_lists if several else _tell)(values, place, kind)
    read = _reader(found, known.bounds if known else None, several)
    expected = f"the {len(found.classes)} classes of {Path(place).name}: expected one of {', '.join(found.classes[:8])}"
    for part in parts:
        for n, row in enumerate(part.rows, start=1):
            where, value = f"{part.place}, row {n}", row[label]
            row[label] = read(value, where)
            if row[label] is None:
                raise LabError(f"{where}: label {value!r} is outside {expected}. Leave out rows without a label (-1).")
    if found.kind == "classes" and not (known and known.text):  # of a task of the table, a sample is known for one
        there = sorted({row[label] for row in parts[0].rows})
        _refuse_single([found.classes[n] for n in there], place, len(values))
    return found


def join_labels(parts: Sequence[Part], columns: Sequence[str]) -> str:
    """Several label columns as one that holds lists of numbers; its name. Raises ValueError for what is no number."""
    name = " + ".join(columns)
    for part in parts:
        for n, row in enumerate(part.rows, start=1):
            row[name] = [_score(value, f"{part.place}, row {n}", None) for value in _trimmed([row[c] for c in columns])]
    return name


# -- what a column holds -------------------------------------------------------------------------------------------


def _check_present(part: Part, label: str) -> None:
    """Cuts blanks around names. Raises ValueError for no label, or one of another type than the first."""

    def missing(value: Any) -> bool:
        infinite = isinstance(value, float) and math.isinf(value)
        return value is None or value == "" or str(value).lower() == "nan" or infinite

    types = {str: "a string", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    first = part.rows[0][label]
    for n, row in enumerate(part.rows, start=1):
        row[label] = value = _trimmed(row[label])
        where, what = f"{part.place}, row {n}", types.get(type(value))
        if any(map(missing, value if isinstance(value, list) else [value])):
            raise LabError(f"{where}: no label ({value!r:.60}): expected a class or a number. Leave such rows out.")
        if what is None:
            raise LabError(f"{where}: label {str(value)[:60]}: expected a name, a number or a list.")
        if what != types[type(first)]:
            raise LabError(f"{where}: label {value!r}: expected {types[type(first)]}, as in row 1 ({first!r}).")


def _trimmed(value: Any) -> Any:
    """A label without blanks around names; in a list, true and false are 1 and 0."""
    if isinstance(value, list):
        return [int(item) if isinstance(item, bool) else _trimmed(item) for item in value]
    return value.strip() if isinstance(value, str) else value


def _tell(values: Sequence[Any], place: str, kind: str | None) -> Labels:
    """What a column of single labels holds."""
    whole, number = [_whole(value) for value in values], [_number(value) for value in values]
    fraction = next((v for v, x in zip(values, number, strict=True) if x is not None and x != int(x)), None)
    if kind == "numbers" or (kind is None and fraction is not None):
        _refuse_first(values, number, place, f"a number, as in {fraction!r}" if fraction is not None else "a number")
        why = 'kind="numbers" was said' if kind else f"{fraction!r} and its like are no class numbers"
        return Labels("numbers", f"the labels are numbers ({why})")
    if kind == "labels":
        raise LabError(f"{place}, row 1: label {values[0]!r}: expected a list of labels, or several label columns.")
    others = {str(value).lower() for value, number in zip(values, whole, strict=True) if number is None}
    if kind is None and others and others <= MISSING and set(whole) > {None}:  # whole numbers, but for such as "NA"
        _refuse_first(values, whole, place, "a whole number, as in other rows, or a label that is there")
    names = sorted(set(map(_named, values)))
    if kind is None:
        _refuse_packed(names, place)
    numbered = kind is None and None not in whole
    if None in whole:
        why = "the labels are true and false" if isinstance(values[0], bool) else "the labels are names"
    elif numbered:
        names = _ids([x for x in whole if x is not None], place)
        pointed = next((str(value) for value in values if "." in str(value)), "")
        why = f"the labels are whole numbers from 0{f', some written with a point ({pointed})' if pointed else ''}"
    else:
        names, why = sorted(names, key=float), "each label is a name"
    _refuse_single(names, place, len(values))
    why += " (kind=classes was said)" if kind else ""
    return Labels("classes", why, tuple(names), tuple(names) if numbered else ())


def _refuse_single(names: Sequence[str], place: str, rows: int) -> None:
    if len(names) < 2:
        remedy = 'Is it the head of a sorted file? For a regression say kind="numbers".'
        raise LabError(f"{place} has one class only, {names[0]!r} ({rows} rows): expected two or more. {remedy}")


def _refuse_packed(names: Sequence[str], place: str) -> None:
    """Raises ValueError for names that hold a number, or several names, in a form that other programs write."""
    commas = [name for name in names if set(name.split(",")) - set(names)]  # parts that are no names themselves
    if commas and all(re.fullmatch(r"-?[0-9]+(,[0-9]+)?", name) for name in names):
        dotted = commas[0].replace(",", ".")
        raise LabError(f"{place} has labels such as {commas[0]!r}: expected decimal points. Write {dotted}.")
    for name in names:
        if re.fullmatch(r"""(["']).+\1""", name):
            raise LabError(
                f"{place} has labels in quotes, {name}: expected bare names. Write no blank between separator and "
                'quote, and close every quote. If the quotes belong to the name, say kind="classes".'
            )
        parts = next((split for mark in ";|," if len(split := [p.strip() for p in name.split(mark)]) > 1), [])
        if (parts and set(parts) <= set(names)) or re.fullmatch(r"\[.*\]|[01]([ ,;|]+[01])+", name):
            raise LabError(
                f"{place} has labels such as {name!r}, several in one: expected lists (JSON, Parquet), or a column "
                'of 0 and 1 for each label (label=("first", "second")). If it is one name, say kind="classes".'
            )


def _tell_lists(values: Sequence[list[Any]], place: str, kind: str | None) -> Labels:
    """The same of lists: names or class ids that hold of a row, 0 or 1 for each class, or several numbers."""
    items = [item for value in values for item in value]
    even = len({len(value) for value in values}) == 1 and len(values[0]) > 1
    if kind == "classes" or not items or len({isinstance(item, str) for item in items}) > 1:
        raise LabError(f"{place}, row 1: label {str(values[0])[:60]}: expected lists of names, or of numbers.")
    if unfit := next((item for item in items if not isinstance(item, str | int | float)), None):
        raise LabError(f"{place}: a list of labels holds {str(unfit)[:60]}: expected names or numbers.")
    if isinstance(items[0], str):
        names = sorted(set(items))
        if even and {name.lower() for name in names} <= {"0", "1", "true", "false"}:
            raise LabError(f"{place}, row 1: label {str(values[0])[:60]}: expected 0 and 1 as numbers, not as text.")
        return Labels("labels", "the labels are lists of names", tuple(names))
    ones, whole = even and set(items) <= {0, 1}, [_whole(item) for item in items]
    if not even and (kind == "numbers" or None in whole):
        raise LabError(
            f"{place}: labels are lists of one, or lists of numbers of several lengths: expected as many a row."
        )
    # class ids are not written with a point
    if kind == "numbers" or (kind is None and even and not ones and float in map(type, items)):
        names = [str(n) for n in range(len(values[0]))]
        return Labels("numbers", f"the labels are lists of {len(names)} numbers", tuple(names))
    if ones:
        names = [str(n) for n in range(len(values[0]))]
        return Labels("labels", f"the labels are lists of {len(names)} zeros and ones", tuple(names))
    names = _ids([x for x in whole if x is not None], place)
    return Labels("labels", "the labels are lists of class numbers", tuple(names), tuple(names))


def _ids(numbers: Sequence[int], place: str) -> list[str]:
    there = sorted(set(numbers))
    if there != list(range(len(there))):
        raise LabError(
            f"{place} has labels {', '.join(map(str, there[:8]))}: expected whole numbers from 0 without gaps. Number "
            'the classes from 0, or say kind="classes" to take each number as a name, kind="numbers" for a regression; '
            "leave out rows without a label."
        )
    return list(map(str, there))


def _refuse_first(values: Sequence[Any], read: Sequence[Any], place: str, expected: str) -> None:
    for n, (value, number) in enumerate(zip(values, read, strict=True), start=1):
        if number is None:
            remedy = 'Leave the row out, or say kind="classes" if every label is a name.'
            raise LabError(f"{place}, row {n}: label {value!r}: expected {expected}. {remedy}")


# -- one label -----------------------------------------------------------------------------------------------------


def _reader(found: Labels, bounds: tuple[float, float] | None, several: bool) -> Reader:
    table = {name: n for n, name in enumerate(found.classes)}
    numbers = {n: table[name] for n, name in enumerate(found.ids)}

    def one(value: Any, where: str) -> int | None:
        if isinstance(value, str) and value in table:
            return table[value]
        return numbers.get(_whole(value)) if numbers else table.get(_named(value))  # type: ignore[arg-type]

    def many(value: list[Any], where: str) -> list[float] | None:
        if not numbers and value and not isinstance(value[0], str):  # 0 or 1 for each class
            return [float(x) for x in value] if len(value) == len(table) and set(value) <= {0, 1} else None
        there = [one(item, where) for item in value]
        if len(set(there)) < len(there):
            expected = "each once, or 0 or 1 (as numbers) for each class in every row"
            raise LabError(f"{where}: label {str(value)[:60]} names a class twice: expected {expected}.")
        return None if None in there else [float(n in there) for n in range(len(table))]

    def score(value: Any, where: str) -> float | list[float]:
        return [_score(item, where, bounds) for item in value] if several else _score(value, where, bounds)

    if found.kind == "numbers":
        return score
    return many if found.kind == "labels" else one


def _whole(value: Any) -> int | None:
    """The class number that a label writes, 1 of 1, "1", 1.0 and "1.0"; None of "01"."""
    if isinstance(value, str):
        found = WHOLE.fullmatch(value)
        return int(found[1]) if found else None
    return int(value) if type(value) in (int, float) and value == int(value) else None


def _named(value: Any) -> str:
    """A label as a name: the numbers 1.0 and 1 are one, for pandas makes floats of a column that lacks a value."""
    return str(value if isinstance(value, str) or _whole(value) is None else _whole(value))


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else None
    try:
        return float(value) if not isinstance(value, bool) else None
    except OverflowError:
        raise LabError(f"Label {str(value)[:20]}... is larger than any float: expected a number. Scale it.") from None


def _score(value: Any, where: str, bounds: tuple[float, float] | None) -> float:
    number = _number(value.strip() if isinstance(value, str) else value)
    if number is None or not math.isfinite(number):
        raise LabError(f"{where}: label {value!r}: expected a number, as a regression has it.")
    if bounds and not bounds[0] <= number <= bounds[1]:
        said = f"expected {bounds[0]:g} to {bounds[1]:g}. Leave out rows without a label (-1)."
        raise LabError(f"{where}: label {number} is out of range: {said}")
    return number
