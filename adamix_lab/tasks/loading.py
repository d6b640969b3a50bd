"""Loading a task: from the embedded data, a folder, one file, or the Hub.

Each source is a function that gives `Part`s (see `adamix_lab.tasks.rows`), and whatever is known of a task before its
rows are read is a `TaskSpec`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from adamix_lab.core.errors import LabError, positive, unknown
from adamix_lab.tasks.files import SUFFIXES, read_files
from adamix_lab.tasks.labels import check_columns, number_labels
from adamix_lab.tasks.rows import Part, read_hub
from adamix_lab.tasks.table import EMBEDDED, PAPER_TASKS, TEXT_COLUMNS, TaskSpec
from adamix_lab.tasks.tasks import Task, embedded_folder, hold_out, sample

SLICE_OF_ONE_FILE = 0.2


def load_task(
    source: str | Path,
    text: str | Sequence[str] | None = None,
    label: str = "label",
    name: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    config: str | None = None,
    revision: str | None = None,
    part: str | None = None,
) -> Task:
    """A task from the embedded data ("aspects", "subjectivity", "reviews"), the Hub, a folder, or a file.

    A folder holds `train.*` and `validation.*` (or `test.*`); of a single file a fifth is set aside, stratified, for
    the evaluation. Files are JSON lines or CSV (.tsv too), gzipped or not.

    The paper's tasks (cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, subj, mpqa) have their columns, classes, metrics
    and splits in a table, which serves their name and any folder of that name; `text` sets the table aside.

    Args:
        source: an embedded name, a name of the table, a path, or an id on the Hub ("owner/name").
        text: the column, or two columns, to read; None looks for the usual names (sentence, premise and
            hypothesis, ...).
        label: the label's column. Whole numbers are class ids from 0; strings become classes in sorted order; numbers
            with a fraction make it a regression.
        name: of the task; None takes the source's.
        rows: a seeded sample of so many training rows; None takes all.
        seed: of the sample and of the slice of a single file.
        folder: where the rows of a task of the table lie; None takes them from the Hub.
        config: of a data set on the Hub that has several.
        revision: of a data set on the Hub: a branch, tag or commit.
        part: what the task is judged on; None takes the table's, else validation, else test. Two parts of
            "subjectivity" and of "reviews" are read only when they are asked for: "fresh" by the final reports of a
            fair comparison alone, "sealed" by the frozen test of the phase map alone.

    Raises:
        ValueError: an unknown name or column, an empty file, a line that cannot be read, a row without a label or
            with one outside the classes.
        FileNotFoundError: a path that is not there, or a folder without train and evaluation files.
        OSError: a data set that is neither in the cache nor to be had from the Hub.
    """
    if rows is not None:
        positive("rows", rows)
    if folder is not None and source not in PAPER_TASKS:
        raise unknown("Task with a folder", source, PAPER_TASKS)
    tables, origin = PAPER_TASKS if text is None else {}, str(source)
    numbers: tuple[str, ...] = ()
    asked = () if part is None else (part,)
    spec: TaskSpec | None
    if origin in EMBEDDED:
        parts, spec = read_files(embedded_folder(origin), asked), EMBEDDED[origin] if label == "label" else None
    elif folder is None and _on_hub(source):
        parts, spec = _from_hub(origin, tables.get(origin), label, config, revision, asked)
        numbers = spec.hub_classes if spec else ()
    else:
        path = _locate(source if folder is None else folder)
        spec = tables.get(path.name if folder is None else origin)
        if part is not None and not path.is_dir():
            raise LabError(
                f"part = {part!r} of {path}, one file: expected a folder. Leave part out: a fifth is set aside."
            )
        parts, origin = read_files(path, asked or (spec.splits if spec else ())), str(path.resolve())
    columns = _text_columns(parts[0], text, spec)
    for each in parts:
        check_columns(each, columns, label)
    classes, bounds = (spec.classes, spec.bounds) if spec else (None, None)
    classes = number_labels(parts, label, classes, numbers, bounds)
    if len(parts) == 1:
        parts = _slice(parts[0], seed, label)
    train, evaluation = parts[0].rows, parts[1].rows
    if rows is not None:
        train = sample(train, rows, seed)
    further = {each.split.removeprefix("validation_"): each.rows for each in parts[2:]}
    title = name or Path(str(source)).name.split(".")[0]
    metrics, kind = (spec.metrics, spec.kind) if spec else ((), None)
    return Task(title, train, evaluation, columns, label, classes, metrics, further, origin, kind)


def _on_hub(source: str | Path) -> bool:
    """Whether a source is a name for the Hub: one of the table, or owner/name that is no path here."""
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) and not Path(source).exists()
    return isinstance(source, str) and (source in PAPER_TASKS or bool(is_id))


def _from_hub(
    source: str,
    spec: TaskSpec | None,
    label: str,
    config: str | None,
    revision: str | None,
    asked: Sequence[str],
) -> tuple[list[Part], TaskSpec | None]:
    """The splits of a data set of the table, its columns renamed as there, or of any other and its class names."""
    table = PAPER_TASKS.get(source)
    if table is None:
        parts, names = read_hub(source, config, asked, revision)
        return parts, TaskSpec(classes=names[label]) if label in names else None
    parts, _ = read_hub(table.hub, table.config, asked or table.splits, revision)
    for row in (row for part in parts for row in part.rows) if spec else ():
        row.update({ours: row[theirs] for theirs, ours in zip(table.hub_text, table.text, strict=False)})
    return parts, spec


def _locate(source: str | Path) -> Path:
    path = Path(source)
    if path.exists():
        return path
    if len(path.parts) == 1 and not path.suffix:
        error = unknown("Task", source, [*EMBEDDED, *PAPER_TASKS])
        raise LabError(f"{error} Or give the path of a folder or file with JSON lines or CSV, or owner/name.")
    raise FileNotFoundError(
        f"{path} is not there: expected a folder with train.* and validation.*, or a file ({', '.join(SUFFIXES)})."
    )


def _text_columns(part: Part, text: str | Sequence[str] | None, spec: TaskSpec | None) -> tuple[str, ...]:
    if text is not None:
        given = (text,) if isinstance(text, str) else tuple(text)
        if not 1 <= len(given) <= 2:
            raise LabError(f"text = {text!r}: expected one column, or two for pairs.")
        return given
    if spec and spec.text:
        return spec.text
    row = part.rows[0]
    for columns in TEXT_COLUMNS:
        if all(column in row for column in columns):
            return columns
    usual = ", ".join(" + ".join(columns) for columns in TEXT_COLUMNS)
    raise LabError(
        f"{part.place} has columns {', '.join(map(repr, row))}, none of them a usual name for text: expected {usual}. "
        'Say which with text="column" or text=("first", "second").'
    )


def _slice(part: Part, seed: int, label: str) -> list[Part]:
    train, evaluation = hold_out(part.rows, SLICE_OF_ONE_FILE, seed, label)
    if not evaluation:
        raise LabError(f"{part.place} holds {len(part.rows)} rows: expected 2 or more, some to be judged on.")
    return [part._replace(rows=train), part._replace(rows=evaluation)]
