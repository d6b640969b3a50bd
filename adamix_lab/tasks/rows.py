"""Rows, read strictly: from files and from the Hub, their labels as numbers, with errors that name file and line.

The standard library reads files: the core trains where `datasets` is not installed, and `datasets` reads '01' and '1'
alike, swallows rows behind a quote and makes "NA" empty, all silently.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adamix_lab.core.errors import LabError, unknown

Row = dict[str, Any]


class Part(NamedTuple):
    """Rows of one split, and where they are from, for messages."""

    split: str
    place: str
    rows: list[Row]


# -- files ---------------------------------------------------------------------------------------------------

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv", ".csv.gz", ".tsv")


def read_files(path: Path, splits: Sequence[str] = ()) -> list[Part]:
    """The rows of one file; of a folder those of `train.*`, of what is judged on, and of further splits there.

    splits: those to be judged on, the one that stands for the task first; none given: validation, else test.

    Raises FileNotFoundError for a folder without them, ValueError for two files of one split, or as `read_rows` does.
    """
    files = _split_files(path, splits) if path.is_dir() else [path]
    return [Part(file.name.split(".")[0], str(file), read_rows(file)) for file in files]


def _split_files(folder: Path, splits: Sequence[str]) -> list[Path]:
    names = [splits[0], splits[0].removesuffix("_matched")] if splits else ["validation", "test"]
    train, evaluation = split_file(folder, "train"), next(filter(None, (split_file(folder, n) for n in names)), None)
    if train is None or evaluation is None:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        wanted = f"{names[-1]}.*" if splits else "validation.* (or test.*)"
        raise FileNotFoundError(
            f"{folder} holds {there}: expected train.* and {wanted}, ending in {', '.join(SUFFIXES)}."
        )
    return [train, evaluation, *filter(None, (split_file(folder, name) for name in splits[1:]))]


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, None where there is none. Raises ValueError where there are several."""
    paths = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
    if len(paths) > 1:
        raise LabError(
            f"{folder} holds {', '.join(p.name for p in paths)}: expected one {split} file. Remove the rest."
        )
    return paths[0] if paths else None


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines or CSV file. Raises ValueError, with the line, for what cannot be read or is empty."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in _READERS:
        raise LabError(f"{path} ends in .{kind}: expected one of {', '.join(SUFFIXES)}.")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        content = data.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile) as error:
        raise LabError(f"{path} is not a whole gzip file ({error}): copy it again, or give it unpacked.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise LabError(f"{path}, line {line}: expected UTF-8 text ({error.reason}). Save the file as UTF-8.") from error
    rows = list(_READERS[kind](path, content))
    if not rows:
        raise LabError(f"{path} holds no rows: expected at least one. Give a file with data.")
    return rows


def _json_rows(path: Path, content: str) -> Iterator[Row]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise LabError(
                f"{path}, line {number}: {line[:60]!r} is not JSON ({error.msg}): expected one object a line. "
                "Correct or remove the line."
            ) from error
        if not isinstance(row, dict):
            raise LabError(
                f'{path}, line {number}: {line[:60]!r} is no object: expected {{"sentence": ..., "label": ...}}.'
            )
        yield row


def _csv_rows(path: Path, content: str) -> Iterator[Row]:
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise LabError(
                    f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} fields, as in the first "
                    "line, found more or fewer. Quote fields that hold the separator."
                )
            yield row
    except csv.Error as error:
        raise LabError(f"{path}, line {reader.line_num}: not CSV ({error}). Correct the line.") from error


_READERS = {"jsonl": _json_rows, "json": _json_rows, "csv": _csv_rows, "tsv": _csv_rows}


# -- the Hub -------------------------------------------------------------------------------------------------


def read_hub(
    hub: str, config: str | None = None, splits: Sequence[str] = (), revision: str | None = None
) -> tuple[list[Part], dict[str, tuple[str, ...]]]:
    """(rows of each split, "train" first; class names by column) of a data set on the Hub, through `datasets`.

    Data files only, never a loading script. Downloads go to the Hub's cache and are found there without network;
    HF_ENDPOINT names another Hub than the public one.

    Args:
        hub: "owner/name".
        config: of a data set that has several.
        splits: besides "train"; none given: the first of validation and test that is there.
        revision: a branch, tag or commit; None takes main.

    Raises:
        OSError: not on the Hub, not reachable and not in the cache, damaged, or without these splits.
        ImportError: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Data from the Hub needs the package datasets: run pip install 'adamix-lab[data]', or give a folder with "
            "train.* and validation.* files."
        ) from error
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return _hub_splits(hub, config, splits, revision)
    except ImportError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, of its own and of the libraries below it
        name = f"{hub}{f' ({config})' if config else ''}{f' at revision {revision!r}' if revision else ''}"
        raise OSError(
            f"Data set {name} could not be loaded ({_cause(error)}). Expected a data set of Parquet, JSON or CSV files "
            "on the Hub (no loading script) that is in the cache or can be fetched. Check the name, the revision and "
            "the network and run it again: whole files are kept. Without network, give a folder with train.* and "
            "validation.* files."
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _hub_splits(
    hub: str, config: str | None, splits: Sequence[str], revision: str | None
) -> tuple[list[Part], dict[str, tuple[str, ...]]]:
    import datasets
    from huggingface_hub import constants

    builder = datasets.load_dataset_builder(hub, config, revision=revision)
    commit = re.fullmatch(r"[0-9a-f]{40}", revision or "")
    if revision not in (None, builder.hash) and (commit or constants.HF_HUB_OFFLINE):
        # Without network, datasets takes whatever the cache holds, of any revision.
        raise FileNotFoundError(f"the cache holds commit {builder.hash}; give that as the revision, or none")
    builder.download_and_prepare()
    data = builder.as_dataset()
    wanted = ["train", *(splits or [name for name in ("validation", "test") if name in data][:1])]
    lacking = [name for name in wanted if name not in data]
    if lacking or len(wanted) < 2:
        needed = " and ".join(lacking or ["validation or test"])
        raise FileNotFoundError(f"it has the splits {', '.join(data)}, and lacks {needed}")
    features = data["train"].features.items()
    names = {column: tuple(kind.names) for column, kind in features if isinstance(kind, datasets.ClassLabel)}
    return [Part(name, f"{hub}, split {name}", data[name].to_list()) for name in wanted], names


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: datasets wraps what went wrong in general words."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


# -- columns and labels --------------------------------------------------------------------------------------


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
