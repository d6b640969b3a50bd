"""Rows, read strictly: from files and from the Hub, their labels as numbers, with errors that name file and line.

The standard library reads files: the core trains where `datasets` is not installed.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import unknown

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv", ".csv.gz", ".tsv")


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines or CSV file. Raises ValueError, with the line, for what cannot be read or is empty."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    readers = {"jsonl": _json_rows, "json": _json_rows, "csv": _csv_rows, "tsv": _csv_rows}
    if kind not in readers:
        raise ValueError(f"{path} ends in .{kind}: expected one of {', '.join(SUFFIXES)}.")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        content = data.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}): copy it again, or give it unpacked.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: expected UTF-8 text ({error.reason}). Save the file as UTF-8."
        ) from error
    rows = list(readers[kind](path, content))
    if not rows:
        raise ValueError(f"{path} holds no rows: expected at least one. Give a file with data.")
    return rows


def _json_rows(path: Path, content: str) -> Iterator[Row]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} is not JSON ({error.msg}): expected one object a line. "
                "Correct or remove the line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f'{path}, line {number}: {line[:60]!r} is no object: expected {{"sentence": ..., "label": ...}}.'
            )
        yield row


def _csv_rows(path: Path, content: str) -> Iterator[Row]:
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} fields, as in the first "
                    "line, found more or fewer. Quote fields that hold the separator."
                )
            yield row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error}). Correct the line.") from error


# -- Labels as numbers: classes from 0, or floats for a regression, with errors that name file and row --


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


# -- Rows of data sets on the Hub, through `datasets`: data files only, never a loading script --
#
# Downloads go to the Hub's cache and are found there without network. HF_ENDPOINT names another Hub than the public
# one.


_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_rows(
    hub: str, config: str | None = None, splits: Sequence[str] = (), revision: str | None = None
) -> tuple[list[Part], dict[str, tuple[str, ...]]]:
    """(parts, class names by column): the rows of each split, "train" first.

    Args:
        hub: "owner/name".
        config: of a data set that has several.
        splits: besides "train"; none given: the first of validation and test that is there.
        revision: a branch, tag or commit; None takes main.

    Raises:
        OSError: not on the Hub, not reachable and not in the cache, damaged, or without these splits.
        ImportError: `datasets` is not installed.
    """
    datasets = _datasets()
    with quiet(datasets), _explained(hub, config, revision):
        builder = datasets.load_dataset_builder(hub, config, revision=revision)
        _check_revision(builder.hash, revision)
        builder.download_and_prepare()
        data = builder.as_dataset()
        there = list(data)
        wanted = ["train", *(splits or [name for name in ("validation", "test") if name in there][:1])]
        lacking = [name for name in wanted if name not in there]
        if lacking or len(wanted) < 2:
            needed = " and ".join(lacking or ["validation or test"])
            raise FileNotFoundError(f"it has the splits {', '.join(there)}, and lacks {needed}")
        names = {
            column: tuple(feature.names)
            for column, feature in data[wanted[0]].features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        return [(f"{hub}, split {name}", data[name].to_list()) for name in wanted], names


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Data from the Hub needs the package datasets: run pip install 'adamix-lab[data]', or give a folder with "
            "train.* and validation.* files."
        ) from error
    return datasets


def _check_revision(found: str | None, revision: str | None) -> None:
    # Without network, datasets takes whatever the cache holds, of any revision.
    import huggingface_hub.constants

    if revision is None or found == revision:
        return
    if _COMMIT.fullmatch(revision) or huggingface_hub.constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"the cache holds commit {found}; give that as the revision, or none")


@contextmanager
def _explained(hub: str, config: str | None, revision: str | None) -> Iterator[None]:
    name = hub if config is None else f"{hub} ({config})"
    if revision:
        name = f"{name} at revision {revision!r}"
    try:
        yield
    except Exception as error:  # datasets raises a dozen kinds, of its own and of the libraries below it
        if isinstance(error, ImportError):
            raise
        raise OSError(
            f"Data set {name} could not be loaded ({_cause(error)}). Expected a data set of Parquet, JSON or CSV files "
            "on the Hub (no loading script) that is in the cache or can be fetched. Check the name, the revision and "
            "the network and run it again: whole files are kept. Without network, give a folder with train.* and "
            "validation.* files."
        ) from error


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: datasets wraps what went wrong in general words."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def quiet(datasets: Any) -> Iterator[None]:
    """Inside the block datasets shows no progress bars."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
