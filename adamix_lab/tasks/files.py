"""Rows of files, read strictly, with errors that name file and line.

The standard library reads CSV, TSV and JSON: the core trains where `datasets` is not installed, and `datasets` reads
'01' and '1' alike, swallows rows behind a quote and makes "NA" empty, all silently.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from adamix_lab.core.errors import LabError
from adamix_lab.tasks.rows import Part
from adamix_lab.tasks.tasks import Row

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
