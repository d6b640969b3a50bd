"""Rows as their sources hold them, split by split: files, tables in memory, data sets on the Hub.

Files are read strictly, with errors that name file and line. The standard library reads CSV, TSV and JSON: the core
trains where `datasets` is not installed, and `datasets` reads '01' and '1' alike, swallows rows behind a quote and
makes "NA" empty, all silently. Parquet is pyarrow's.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from adamix_lab.core.errors import LabError, extra
from adamix_lab.tasks.tasks import Row, plain

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz", ".parquet")
PARQUET = "refs/convert/parquet"  # the branch where the Hub keeps data sets that once had a script as plain files
Fields = Iterator[tuple[int, int, list[str]]]  # first and last line of a row, and its fields


class Part(NamedTuple):
    """Rows of one split, and where they are from.

    Attributes:
        place: for messages.
        lines: of its file; 0 where it is no file of lines.
        notes: whole sentences on what was not read as it stands.
        names: of classes, by column, where the source tells them.
    """

    split: str
    place: str
    rows: list[Row]
    lines: int = 0
    notes: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def once(names: Iterable[Any], place: str, what: str) -> None:
    """Raises ValueError for a name that stands twice: one of the two would be lost. Columns may lack a name."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name != ""]
    if twice:
        raise LabError(f"{place}: {what} {twice[0]!r} stands twice: expected once. Rename or remove one.")


def filled(rows: list[Row], place: str) -> list[Row]:
    """The rows. Raises ValueError where there are none."""
    if not rows:
        raise LabError(f"{place} holds no rows: expected at least one. Give a file with data.")
    return rows


def splits_of(there: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """Train, and what is judged on: none wanted, validation, else test. Raises FileNotFoundError."""
    there = list(there)
    chosen = ["train", *(wanted or [name for name in ("validation", "test") if name in there][:1])]
    lacking = [name for name in chosen if name not in there]
    if lacking or len(chosen) < 2:
        needed = " and ".join(lacking or ["validation or test"])
        raise FileNotFoundError(f"it has the splits {', '.join(map(str, there))}, and lacks {needed}")
    return chosen


# -- files ---------------------------------------------------------------------------------------------------


def read_files(path: Path, splits: Sequence[str] = ()) -> list[Part]:
    """The rows of one file; of a folder those of `train.*`, of what is judged on, and of further splits there.

    splits: those to be judged on, the one that stands for the task first; none given: validation, else test.

    Raises FileNotFoundError for a folder without them, ValueError for two files of one split, or as `read_file` does.
    """
    return [read_file(file) for file in row_files(path, splits)]


def row_files(folder: Path, splits: Sequence[str] = ()) -> list[Path]:
    """The files that `read_files` reads, and raises for."""
    if not folder.is_dir():
        return [folder]
    names = [splits[0], splits[0].removesuffix("_matched")] if splits else ["validation", "test"]
    train, evaluation = split_file(folder, "train"), next(filter(None, (split_file(folder, n) for n in names)), None)
    if train is None or evaluation is None:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        wanted = f"{names[-1]}.*" if splits else "validation.* (or test.*)"
        raise FileNotFoundError(f"{folder} holds {there}: expected train.* and {wanted} ({', '.join(SUFFIXES)}).")
    return [train, evaluation, *filter(None, (split_file(folder, name) for name in splits[1:]))]


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, None where there is none. Raises ValueError where there are several."""
    names = {f"{split}{suffix}" for suffix in SUFFIXES}
    paths = sorted(path for path in folder.glob("*") if path.name.lower() in names and path.is_file())
    if len(paths) > 1:
        there = ", ".join(path.name for path in paths)
        raise LabError(f"{folder} holds {there}: expected one {split} file. Remove the rest.")
    return paths[0] if paths else None


def read_file(path: Path) -> Part:
    """A file of rows: JSON lines, one JSON array, CSV, TSV (all gzipped or not), or Parquet.

    Raises ValueError, with the line, for what cannot be read, is empty, or would lose rows or columns.
    """
    name = path.name.lower()
    kind, split = name.removesuffix(".gz").rpartition(".")[2], name.split(".")[0]
    if not name.endswith(SUFFIXES):
        raise LabError(f"{path} ends in {path.suffix}: expected one of {', '.join(SUFFIXES)}.")
    if kind == "parquet":
        return _parquet_part(path, split)
    content, notes = _decoded(path)
    limit = csv.field_size_limit(2**31 - 1)  # as much as Windows takes; a text is cut to max_length later
    try:
        rows = (_json_rows if kind.startswith("json") else _csv_rows)(path, content, notes)
    finally:
        csv.field_size_limit(limit)
    lines = content.count("\n") + (not content.endswith("\n"))
    return Part(split, str(path), filled(rows, str(path)), lines, tuple(notes))


def _decoded(path: Path) -> tuple[str, list[str]]:
    """(the text, what to note) of UTF-8, or of UTF-16 that begins with its mark, as Windows writes it."""
    data, encoding, notes = path.read_bytes(), "utf-8-sig", []
    try:
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding, notes = "utf-16", ["The file is UTF-16."]
        content = data.decode(encoding)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LabError(f"{path} is not a whole gzip file ({error}): copy it again, or give it unpacked.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise LabError(f"{path}, line {line}: expected UTF-8 text ({error.reason}). Save the file as UTF-8.") from error
    if "\0" in content:
        line = content[: content.index("\0")].count("\n") + 1
        raise LabError(f"{path}, line {line}: a zero byte is no text: expected UTF-8. Save the file as UTF-8.")
    return content, notes


# -- JSON --------------------------------------------------------------------------------------------------------


def _json_rows(path: Path, content: str, notes: list[str]) -> list[Row]:
    if content.lstrip().startswith("["):
        what, found = "row", [*enumerate(_json(content, str(path)), start=1)]
    else:
        lines = [(n, line) for n, line in enumerate(content.split("\n"), start=1) if line.strip()]
        what, found = "line", [(n, _json(line, f"{path}, line {n}")) for n, line in lines]
    for n, row in found:
        if not isinstance(row, dict):
            raise LabError(f'{path}, {what} {n}: {str(row)[:60]} is no object: expected {{"text": ..., "label": ...}}.')
    return [row for _, row in found]


def _json(text: str, place: str) -> Any:
    def whole(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs):
            once((name for name, _ in pairs), place, "key")
        return row

    try:
        return json.loads(text, object_pairs_hook=whole)
    except json.JSONDecodeError as error:
        where, line = f"{place}, line {error.lineno}" if error.lineno > 1 else place, text.split("\n")[error.lineno - 1]
        expected = "expected one object a line, or one array of objects. Correct or remove it."
        raise LabError(f"{where}: {line[:60]!r} is not JSON ({error.msg}): {expected}") from error
    except LabError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise LabError(f"{place} is not JSON of rows ({error}): expected one object a line, or one array.") from error


# -- CSV and TSV -------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, content: str, notes: list[str]) -> list[Row]:
    content, separator, skipped = _separator(path, content, notes)
    fields_of = _tab_fields if separator == "\t" else _quoted_fields
    header: list[str] = []
    rows, blank, long = [], 0, []
    for first, last, fields in fields_of(content, separator, path, skipped, notes):
        if not fields:
            blank += 1
        elif not header:
            header = fields
            notes.append(f"Line {first} names the columns.")
            once(header, f"{path}, line {first}", "column")
        elif len(fields) != len(header):
            remedy = "Quote fields that hold the separator; of texts that span lines make CSV or JSON lines, not TSV."
            raise LabError(f"{path}, line {first}: expected {len(header)} fields, found {len(fields)}. {remedy}")
        else:
            rows.append(dict(zip(header, fields, strict=True)))
            long += [first] if last > first else []
    if blank:
        notes.append(f"Blank lines passed over: {blank}.")
    if long:
        notes.append(f"Rows that span lines: {len(long)} (the first begins at line {long[0]}).")
    return rows


def _separator(path: Path, content: str, notes: list[str]) -> tuple[str, str, int]:
    """(what follows Excel's line `sep=;`, the separator, lines passed over)."""
    if named := re.match(r'"?sep=(.)"?\r?\n', content, re.IGNORECASE):
        notes.append(f"Line 1 names the separator, {named[1]!r}, and is no row.")
        return content[named.end() :], named[1], 1
    usual = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    header = re.split(r"[\r\n]", content.lstrip("\r\n"), maxsplit=1)[0]
    widths = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in (usual, ",", ";", "\t", "|")}
    found = max(widths, key=widths.__getitem__)  # the usual one where several split the header alike
    if found != usual:
        notes.append(f"The separator is {found!r}.")
    return content, found, 0


def _quoted_fields(content: str, separator: str, path: Path, skipped: int, notes: list[str]) -> Fields:
    """CSV: a field in quotes may span lines; quotes within it are doubled."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    first = skipped + 1
    try:
        for fields in reader:
            yield first, skipped + reader.line_num, fields
            first = skipped + reader.line_num + 1
    except csv.Error as error:
        remedy = "Put texts with quotes in quotes, and double the quotes within."
        raise LabError(f"{path}, line {first}: not CSV ({error}), in a row that begins there. {remedy}") from error


def _tab_fields(content: str, separator: str, path: Path, skipped: int, notes: list[str]) -> Fields:
    """TSV: a row is a line; a field may stand in quotes, unless the file has lone ones: then quotes are text."""
    lines = [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")]
    found: list[list[str] | None] = []
    for n, line in enumerate(lines, start=skipped + 1):
        try:
            found.append(next(csv.reader([line], delimiter=separator, strict=True), []) if '"' in line else None)
        except csv.Error:
            notes.append(f"Quotes are read as text: line {n} has one that opens a field and does not close it.")
            found = [None] * len(lines)
            break
    for n, (line, fields) in enumerate(zip(lines, found, strict=True), start=skipped + 1):
        yield n, n, fields if fields is not None else line.split(separator) if line else []


# -- Parquet -----------------------------------------------------------------------------------------------------


def open_parquet(path: Path, remedy: str = "copy it again.") -> Any:
    """A Parquet file, of which nothing but its footer is read. Raises ValueError, with the remedy, for a cut one."""
    with extra("analysis"):
        from pyarrow import ArrowException, parquet
    try:
        return parquet.ParquetFile(path, page_checksum_verification=True)
    except (ArrowException, OSError, ValueError) as error:
        raise LabError(f"{path} is not a whole Parquet file ({error}): {remedy}") from error


def _parquet_part(path: Path, split: str) -> Part:
    file = open_parquet(path)
    from pyarrow import ArrowException

    try:
        table = file.read()
        found = table.to_pylist()
        told = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ArrowException, OSError, ValueError, RecursionError, OverflowError) as error:
        raise LabError(f"{path} is not a whole Parquet file ({error}): copy it again.") from error
    once(table.column_names, str(path), "column")
    features = told.get("info", {}).get("features", {}) if isinstance(told, dict) else {}
    inner = {column: kind.get("feature", kind) for column, kind in features.items() if isinstance(kind, dict)}
    names = {column: tuple(kind["names"]) for column, kind in inner.items() if kind.get("names")}
    return Part(split, str(path), [plain(row) for row in filled(found, str(path))], names=names)


# -- in memory ---------------------------------------------------------------------------------------------------


def read_object(source: Any, splits: Sequence[str] = ()) -> list[Part]:
    """The parts of a `datasets.Dataset`, a pandas frame or a list of dicts, or of a dict of such by split.

    Raises ValueError for anything else, for two columns of one name, or for a dict without the splits.
    """
    if not isinstance(source, Mapping):
        return [table_part(source, f"the {type(source).__name__} given", "rows")]
    try:
        return [table_part(source[name], f"split {name}", name) for name in splits_of(source, splits)]
    except FileNotFoundError as error:
        given = type(source).__name__
        raise LabError(f"The {given} given does not fit: {error}. Give such a split, or one table.") from None


def table_part(data: Any, place: str, split: str) -> Part:
    """The rows of a table that is in memory, with plain values."""
    names: dict[str, tuple[str, ...]] = {}
    if hasattr(data, "features") and hasattr(data, "to_list"):  # datasets.Dataset
        kinds = {column: getattr(kind, "feature", kind) for column, kind in (data.features or {}).items()}
        names = {column: tuple(kind.names) for column, kind in kinds.items() if getattr(kind, "names", None)}
        if (getattr(data, "format", None) or {}).get("type") == "custom":
            raise LabError(f"{place} has a transform, which its stored rows do not show. Apply it with .map instead.")
        rows = data.to_list()
    elif hasattr(data, "columns") and hasattr(data, "to_dict"):  # a pandas frame
        once(data.columns, place, "column")
        rows = data.to_dict("records")
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        rows = data
    else:
        expected = "expected a datasets.Dataset, a pandas frame, or a list of dicts, one a row."
        raise LabError(f"{place}: a {type(data).__name__} is no table: {expected}")
    return Part(split, place, filled([plain(row) for row in rows], place), names=names)


# -- the Hub -----------------------------------------------------------------------------------------------------


def hub_answers() -> bool:
    """Whether the Hub can be asked. Asked once: its own libraries ask again and again, for most of a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if not constants.HF_HUB_OFFLINE:
        with suppress(Exception):  # a dozen kinds, by library and version
            get_session().head(constants.ENDPOINT, timeout=5)
            return True
    return False


def read_hub(
    hub: str, config: str | None = None, splits: Sequence[str] = (), revision: str | None = None
) -> list[Part]:
    """The parts of a data set on the Hub, "train" first, through `datasets`.

    Data files only, never a loading script. Downloads go to the Hub's cache and are found there without network;
    HF_ENDPOINT names another Hub than the public one.

    Args:
        hub: "owner/name".
        config: of a data set that has several; of the branch PARQUET the folder.
        splits: besides "train"; none given: the first of validation and test that is there.
        revision: a branch, tag or commit; None takes main.

    Raises:
        OSError: not on the Hub, not reachable and not in the cache, damaged, or without these splits.
        ImportError: `datasets` is not installed.
    """
    with extra("data"):
        import datasets
    from huggingface_hub import constants

    bars, offline = datasets.is_progress_bar_enabled(), (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    datasets.disable_progress_bars()
    try:
        if not hub_answers():
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        return _hub_splits(hub, config, splits, revision)
    except ImportError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, of its own and of the libraries below it
        name = f"{hub}{f' ({config})' if config else ''}{f' at revision {revision!r}' if revision else ''}"
        raise OSError(
            f"Data set {name} could not be loaded ({_cause(error)}). Expected a data set of Parquet, JSON or CSV files "
            "on the Hub (no loading script) that is in the cache or can be fetched. Check the name, the revision and "
            "the network and run it again: whole files are kept. Without network, give a folder with train.* and "
            f"{splits[0] if splits else 'validation'}.* files."
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = offline
        if bars:
            datasets.enable_progress_bars()


def _hub_splits(hub: str, config: str | None, splits: Sequence[str], revision: str | None) -> list[Part]:
    import datasets
    from huggingface_hub import constants

    which = {"data_dir" if revision == PARQUET else "name": config}
    builder = datasets.load_dataset_builder(hub, revision=revision, **which)
    commit = re.fullmatch(r"[0-9a-f]{40}", revision or "")
    if revision not in (None, PARQUET, builder.hash) and (commit or constants.HF_HUB_OFFLINE):
        # Without network, datasets takes whatever the cache holds, of any revision.
        raise FileNotFoundError(f"the cache holds commit {builder.hash}; give that as the revision, or none")
    builder.download_and_prepare()
    data = builder.as_dataset()
    return [table_part(data[name], f"{hub}, split {name}", name) for name in splits_of(data, splits)]


def _cause(error: BaseException) -> str:
    """The first line of the innermost error: datasets wraps what went wrong in general words."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
