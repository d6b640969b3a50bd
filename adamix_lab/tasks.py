"""A task: rows to train on, rows to be judged on, and which columns are the text and the label.

Rows come from the embedded data, a folder, or one file (see `adamix_lab.rows`).
"""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamix_lab.errors import fraction as check_fraction
from adamix_lab.errors import positive, unknown
from adamix_lab.rows import SUFFIXES, Row, read_rows

EMBEDDED = {"aspects": ("negative", "positive")}  # name: what the label numbers mean
DATA_VARIABLE = "ADAMIX_LAB_DATA"
TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("sentence",),
    ("text",),
)
SLICE_OF_ONE_FILE = 0.2


@dataclass(frozen=True)
class Task:
    """What is learned and what it is judged on.

    Attributes:
        name: for tables and logs.
        train: rows, their label a class number (or a float for regression); other columns are kept.
        evaluation: rows of the same kind, looked at once, at the end.
        text: one column, or two for pairs.
        label: the label's column.
        classes: the classes' names in the order of their numbers; empty for regression.
    """

    name: str
    train: Sequence[Row]
    evaluation: Sequence[Row]
    text: tuple[str, ...]
    label: str = "label"
    classes: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        """Numbers the head answers: the classes, or 1 for regression."""
        return len(self.classes) or 1

    @property
    def regression(self) -> bool:
        """Whether labels are numbers rather than classes."""
        return not self.classes

    @property
    def generates(self) -> bool:
        """Whether labels are texts to write (`adamix_lab.generation.tasks.GenerationTask`)."""
        return False


def load_task(
    source: str | Path,
    text: str | Sequence[str] | None = None,
    label: str = "label",
    name: str | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> Task:
    """A task from the embedded data ("aspects"), a folder, or a file.

    A folder holds `train.*` and `validation.*` (or `test.*`); of a single file a fifth is set aside, stratified, for
    the evaluation. Files are JSON lines or CSV (.tsv too), gzipped or not.

    Args:
        source: an embedded name or a path.
        text: the column, or two columns, to read; None looks for the usual names (sentence, premise and
            hypothesis, ...).
        label: the label's column. Whole numbers are class ids from 0; strings become classes in sorted order; numbers
            with a fraction make it a regression.
        name: of the task; None takes the source's.
        rows: a seeded sample of so many training rows; None takes all.
        seed: of the sample and of the slice of a single file.

    Raises:
        ValueError: an unknown name or column, an empty file, a line that cannot be read, a row without a label or
            with one outside the classes.
        FileNotFoundError: a path that is not there, or a folder without train and evaluation files.
    """
    if rows is not None:
        positive("rows", rows)
    path = _locate(source)
    train_file, evaluation_file = _files(path) if path.is_dir() else (path, None)
    train = read_rows(train_file)
    columns = _text_columns(train[0], text, train_file)
    named: list[tuple[Path, list[Row]]] = [(train_file, train)]
    if evaluation_file is not None:
        named.append((evaluation_file, read_rows(evaluation_file)))
    for file, part in named:
        _check_columns(part, (*columns, label), file)
    classes = _number_labels(named, label)
    if evaluation_file is None:
        train, evaluation = hold_out(train, SLICE_OF_ONE_FILE, seed, label)
        if not evaluation:
            raise ValueError(f"{train_file} holds {len(train)} rows: expected 2 or more, some to be judged on.")
    else:
        evaluation = named[1][1]
    if rows is not None and rows < len(train):
        train = [train[n] for n in sorted(random.Random(seed).sample(range(len(train)), rows))]
    classes = EMBEDDED.get(str(source), classes)
    return Task(name or path.name.split(".")[0], train, evaluation, columns, label, classes)


def hold_out(
    rows: Sequence[Row], fraction: float, seed: int, label: str = "label", together: Sequence[str] = ()
) -> tuple[list[Row], list[Row]]:
    """(train, dev): a seeded slice of the rows for model selection, the same share of every class.

    Every class with two rows or more stands on both sides; the rows keep their order.

    Args:
        rows: all of them.
        fraction: share of the dev slice, in [0, 1); ValueError otherwise.
        seed: of the choice.
        label: the label's column; floats are one class.
        together: columns; rows that are equal in them stand on one side, and all are one class (references of one
            source).
    """
    check_fraction("fraction to hold out", fraction)
    units: dict[Any, list[int]] = defaultdict(list)
    groups: dict[Any, list[list[int]]] = defaultdict(list)
    for n, row in enumerate(rows):
        unit = units[tuple(row[column] for column in together) or n]
        if not unit:
            value = row.get(label)
            groups["one class" if together or isinstance(value, float) else value].append(unit)
        unit.append(n)
    rng = random.Random(seed)
    dev: set[int] = set()
    for value in sorted(groups, key=str) if fraction else ():
        members = groups[value]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        dev.update(n for unit in rng.sample(members, count) for n in unit)
    return [r for n, r in enumerate(rows) if n not in dev], [r for n, r in enumerate(rows) if n in dev]


# -- finding files -----------------------------------------------------------------------------------------


def data_root() -> Path:
    """The folder of the embedded data: ADAMIX_LAB_DATA, or `data/` beside the package."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else Path(__file__).resolve().parent.parent / "data"


def _locate(source: str | Path) -> Path:
    if str(source) in EMBEDDED:
        folder = data_root() / str(source)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is not there: expected the embedded task {source!r}. Clone the repository, or set "
                f"{DATA_VARIABLE} to its data folder."
            )
        return folder
    path = Path(source)
    if path.exists():
        return path
    if len(path.parts) == 1 and not path.suffix:
        error = unknown("Task", source, EMBEDDED)
        raise ValueError(f"{error} Or give the path of a folder or file with JSON lines or CSV.")
    raise FileNotFoundError(
        f"{path} is not there: expected a folder with train.* and validation.*, or a file ({', '.join(SUFFIXES)})."
    )


def _files(folder: Path) -> tuple[Path, Path]:
    found = {}
    for stem in ("train", "validation", "test"):
        paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES if (folder / f"{stem}{suffix}").is_file()]
        if len(paths) > 1:
            raise ValueError(
                f"{folder} holds {', '.join(p.name for p in paths)}: expected one {stem} file. Remove the rest."
            )
        found[stem] = paths[0] if paths else None
    train, evaluation = found["train"], found["validation"] or found["test"]
    if train is None or evaluation is None:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds {there}: expected train.* and validation.* (or test.*), ending in {', '.join(SUFFIXES)}."
        )
    return train, evaluation


# -- columns and labels ------------------------------------------------------------------------------------


def _text_columns(row: Mapping[str, Any], text: str | Sequence[str] | None, path: Path) -> tuple[str, ...]:
    if text is not None:
        given = (text,) if isinstance(text, str) else tuple(text)
        if not 1 <= len(given) <= 2:
            raise ValueError(f"text = {text!r}: expected one column, or two for pairs.")
        return given
    for columns in TEXT_COLUMNS:
        if all(column in row for column in columns):
            return columns
    known = ", ".join(" + ".join(columns) for columns in TEXT_COLUMNS)
    raise ValueError(
        f"{path} has columns {', '.join(map(repr, row))}, none of them a usual name for text: expected {known}. "
        'Say which with text="column" or text=("first", "second").'
    )


def _check_columns(rows: Sequence[Row], columns: tuple[str, ...], path: Path) -> None:
    for number, row in enumerate(rows, start=1):
        for column in columns:
            if column not in row:
                raise ValueError(f"{path}, row {number}: {unknown('Column', column, row)}")
        for column in columns[:-1]:
            if not isinstance(row[column], str):
                raise ValueError(
                    f"{path}, row {number}: {column} = {row[column]!r}: expected a string (it may be empty)."
                )


def _number_labels(parts: Sequence[tuple[Path, list[Row]]], label: str) -> tuple[str, ...]:
    """Replaces labels by class numbers (or floats), in place; returns the classes, known from the first part."""
    path, rows = parts[0]
    values = [_label(row[label], path, n) for n, row in enumerate(rows, start=1)]
    if any(isinstance(value, float) for value in values):
        for part_path, part in parts:
            for n, row in enumerate(part, start=1):
                value = _label(row[label], part_path, n)
                if isinstance(value, str):
                    raise ValueError(f"{part_path}, row {n}: label {value!r}: expected a number, as in {path}.")
                row[label] = float(value)
        return ()
    numbered = all(isinstance(value, int) for value in values)
    classes = _class_ids(values, path) if numbered else sorted({str(value) for value in values})
    ids: dict[Any, int] = {int(c) if numbered else c: n for n, c in enumerate(classes)}
    for part_path, part in parts:
        for n, row in enumerate(part, start=1):
            value = _label(row[label], part_path, n)
            value = value if numbered else str(value)
            if value not in ids:
                raise ValueError(
                    f"{part_path}, row {n}: label {value!r} is outside the {len(classes)} classes of {path.name}: "
                    f"expected one of {', '.join(classes[:8])}. Leave out rows without a label (-1)."
                )
            row[label] = ids[value]
    return tuple(classes)


def _class_ids(values: Sequence[Any], path: Path) -> list[str]:
    there = sorted(set(values))
    if there != list(range(len(there))):
        raise ValueError(
            f"{path} has labels {', '.join(map(str, there[:8]))}: expected whole numbers from 0 without gaps. "
            "Number the classes from 0, give them as strings, or as floats (1.0) for a regression; leave out rows "
            "without a label."
        )
    return [str(value) for value in there]


def _label(value: Any, path: Path, number: int) -> int | float | str:
    """The label as a whole number, a float, or a string."""
    if isinstance(value, str):
        value = _number(value.strip())
    if isinstance(value, bool):
        return int(value)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(
            f"{path}, row {number}: no label ({value!r}): expected a class or a number. Leave such rows out."
        )
    if not isinstance(value, int | float | str):
        raise ValueError(f"{path}, row {number}: label {value!r}: expected a class (number or string) or a float.")
    return value


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
