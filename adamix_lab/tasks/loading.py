"""Loading a task: from the embedded data, a folder, one file, the Hub, or memory.

Each source is a function that gives `Part`s (see `adamix_lab.tasks.rows`), and whatever is known of a task before its
rows are read is a `TaskSpec`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import LabError, one_of, unknown
from adamix_lab.tasks.files import SUFFIXES, read_files
from adamix_lab.tasks.labels import KINDS, Labels, check_columns, join_labels, number_labels
from adamix_lab.tasks.rows import Part, read_hub, read_object
from adamix_lab.tasks.table import EMBEDDED, PAPER_TASKS, TaskSpec, text_columns
from adamix_lab.tasks.tasks import Report, Row, Task, balanced, embedded_folder, flip_labels, hold_out

SLICE_OF_ONE_FILE = 0.2


def load_task(
    source: Any,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] = "label",
    name: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    config: str | None = None,
    revision: str | None = None,
    part: str | None = None,
    kind: str | None = None,
    label_noise: float = 0.0,
) -> Task:
    """A task from the embedded data ("aspects", "subjectivity", "reviews"), the Hub, a folder, a file, or memory.

    A folder holds `train.*` and `validation.*` (or `test.*`); of a single table a fifth is set aside, the same share of
    every class, for the evaluation. Files are JSON lines, one JSON array, CSV, TSV (gzipped or not) or Parquet. In
    memory: a `datasets.Dataset`, a pandas frame, a list of dicts, or a dict of such by split (a `DatasetDict`).

    `print(task.report)` says which rows and columns were taken, what kind of task they were taken for and why, the
    classes with their rows, and what was passed over.

    The paper's tasks (cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, subj, mpqa) have their columns, classes, metrics
    and splits in a table, which serves their name and any folder of that name; `text` sets the table aside.

    Args:
        source: an embedded name, a name of the table, a path, an id on the Hub ("owner/name"), or rows in memory.
        text: the column, or two columns, to read; None looks for the usual names (sentence, premise and
            hypothesis, ...).
        label: the label's column. Whole numbers are class ids from 0, written 1 or 1.0 (but '01' is a name); names
            become classes in sorted order; numbers with a fraction make it a regression; lists hold several labels a
            row. Several columns of 0 and 1 are a class each, several of other numbers a regression.
        name: of the task; None takes the source's.
        rows: so many training rows, the same share of every class; fewer are among more. None takes all.
        seed: of these rows, of the slice of a single table, and of the noise.
        folder: where the rows of a task of the table lie; None takes them from the Hub.
        config: of a data set on the Hub that has several.
        revision: of a data set on the Hub: a branch, tag or commit.
        part: what the task is judged on; None takes the table's, else validation, else test. Two parts of
            "subjectivity" and of "reviews" are read only when they are asked for: "fresh" by the final reports of a
            fair comparison alone, "sealed" by the frozen test of the phase map alone.
        kind: "classes", "labels" or "numbers" where the labels must not tell.
        label_noise: share of every class's training rows, 0 to 0.5, that are given another class; their column
            `true_label` keeps the right one. (A dev slice that training holds out is noisy, too, the evaluation not.)

    Raises:
        ValueError: an unknown name or column, an empty file, a line that cannot be read, a name of a column or key that
            stands twice, a row without a label or with one outside the classes, one class only, more rows than there
            are, or noise outside 0 to 0.5.
        FileNotFoundError: a path that is not there, or a folder without train and evaluation files.
        OSError: a data set that is neither in the cache nor to be had from the Hub.
    """
    if kind is not None:
        one_of("kind", kind, KINDS)
    if folder is not None and source not in PAPER_TASKS:
        raise unknown("Task with a folder", source, PAPER_TASKS)
    parts, spec, origin = _find(source, text is not None, label, folder, config, revision, part)
    columns, labels = (
        text_columns(parts[0].rows[0], parts[0].place, text, spec),
        (label,) if isinstance(label, str) else tuple(label),
    )
    left_out = [c for c in dict.fromkeys(c for row in parts[0].rows for c in row) if c not in (*columns, *labels)]
    for each in parts:
        check_columns(each, columns, labels)
    column = labels[0] if len(labels) == 1 else " + ".join(labels)
    if len(labels) > 1:
        join_labels(parts, labels, column)
    found = number_labels(parts, column, spec, kind)
    if len(labels) > 1 and found.classes:
        found = found._replace(classes=labels)
    notes = [f"{Path(each.place).name}: {note}" for each in parts for note in each.notes]
    taken = tuple((Path(each.place).name, len(each.rows), each.lines) for each in parts)
    if len(parts) == 1:
        parts = _slice(parts[0], seed, column)
        notes.append(f"A fifth of the rows, the same share of every class, is set aside to be judged on (seed {seed}).")
    train, evaluation = parts[0].rows, parts[1].rows
    single = found.classes if found.kind == "classes" else ()
    if rows is not None:
        notes.append(
            f"{rows:,} of {len(train):,} rows to train on were drawn, the same share of every class (seed {seed})."
        )
        train = balanced(train, rows, seed, column, single)
    if label_noise:
        train = flip_labels(train, label_noise, seed, column, single)
        flipped = sum(row[column] != row["true_label"] for row in train)
        notes.append(
            f"{flipped:,} rows to train on were given a wrong class (seed {seed}): true_label has the right one."
        )
    notes += _overlap(train, evaluation, columns)
    title = name or (Path(origin).name.split(".")[0] if isinstance(source, str | Path) else "mine")
    counts = _counts(train, evaluation, column, found)
    report = Report(title, taken, (*columns, column), tuple(left_out), found.kind, found.why, counts, tuple(notes))
    drawn = {"rows": rows, "label_noise": label_noise, "seed": seed} if rows is not None or label_noise else {}
    further = {each.split.removeprefix("validation_"): each.rows for each in parts[2:]}
    metrics = spec.metrics if spec else ()
    return Task(
        title, train, evaluation, columns, column, found.classes, metrics, further, origin, found.kind, drawn, report
    )


def _find(
    source: Any,
    own_columns: bool,
    label: str | Sequence[str],
    folder: str | Path | None,
    config: str | None,
    revision: str | None,
    part: str | None,
) -> tuple[list[Part], TaskSpec | None, str]:
    """(the parts, what is known of the task, where it is from)."""
    asked = () if part is None else (part,)
    table: Mapping[str, TaskSpec] = {} if own_columns else PAPER_TASKS
    if not isinstance(source, str | Path):
        parts, origin, spec = read_object(source, asked), type(source).__name__, None
    elif str(source) in EMBEDDED:
        origin = str(source)
        parts, spec = read_files(embedded_folder(origin), asked), EMBEDDED[origin] if label == "label" else None
    elif folder is None and _on_hub(source):
        origin = str(source)
        parts, spec = _from_hub(origin, table.get(origin), config, revision, asked)
    else:
        path = _locate(source if folder is None else folder)
        spec, origin = table.get(path.name if folder is None else str(source)), str(path.resolve())
        parts = read_files(path, asked or (spec.splits if spec else ()))
    if part is not None and len(parts) == 1:
        raise LabError(f"part = {part!r} of one table: expected a folder, or a dict by split. Leave part out.")
    names = parts[0].names.get(label) if isinstance(label, str) else None
    return parts, spec or (TaskSpec(classes=names) if names else None), origin


def _counts(train: Sequence[Row], evaluation: Sequence[Row], label: str, found: Labels) -> dict[str, tuple[int, int]]:
    """Rows to train on and to be judged on, by class."""
    if not found.classes:
        return {"rows": (len(train), len(evaluation))}
    several = found.kind == "labels"
    return {
        name: (
            *(sum(bool(row[label][n]) if several else row[label] == n for row in rows) for rows in (train, evaluation)),
        )
        for n, name in enumerate(found.classes)
    }


def _overlap(train: Sequence[Row], evaluation: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """What to note where texts to be judged on are among those to train on."""
    known = {tuple(row[column] for column in columns) for row in train}
    both = sum(tuple(row[column] for column in columns) in known for row in evaluation)
    return [f"{both:,} rows to be judged on have texts that are trained on, too."] if both else []


def _on_hub(source: str | Path) -> bool:
    """Whether a source is a name for the Hub: one of the table, or owner/name that is no path here."""
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) and not Path(source).exists()
    return isinstance(source, str) and (source in PAPER_TASKS or bool(is_id))


def _from_hub(
    source: str,
    spec: TaskSpec | None,
    config: str | None,
    revision: str | None,
    asked: Sequence[str],
) -> tuple[list[Part], TaskSpec | None]:
    """The splits of a data set of the table, its columns renamed as there, or of any other and its class names."""
    table = PAPER_TASKS.get(source)
    if table is None:
        return read_hub(source, config, asked, revision), None
    parts = read_hub(table.hub, table.config, asked or table.splits, revision)
    for row in (row for part in parts for row in part.rows) if spec else ():
        row.update({ours: row[theirs] for theirs, ours in zip(table.hub_text, table.text, strict=False)})
    return parts, replace(spec, numbers=spec.hub_classes) if spec else None


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


def _slice(part: Part, seed: int, label: str) -> list[Part]:
    train, evaluation = hold_out(part.rows, SLICE_OF_ONE_FILE, seed, label)
    if not evaluation:
        raise LabError(f"{part.place} holds {len(part.rows)} rows: expected 2 or more, some to be judged on.")
    return [part._replace(rows=train), part._replace(rows=evaluation)]
