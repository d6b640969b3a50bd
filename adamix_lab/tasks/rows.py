"""Reading rows: JSON lines and CSV, gzipped or not, with errors that name the line.

The standard library is enough: the core trains where `datasets` is not installed.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
