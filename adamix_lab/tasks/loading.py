"""Loading a task: from the embedded data, a folder, one file, the Hub, or memory.

Each source is a function that gives `Part`s (see `adamix_lab.tasks.rows`), and whatever is known of a task before its
rows are read is a `TaskSpec`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import LabError, one_of, positive, unknown, whole
from adamix_lab.tasks.labels import KINDS, Labels, check_columns, join_labels, number_labels, text_columns
from adamix_lab.tasks.rows import SUFFIXES, Part, once, read_files, read_hub, read_object, row_files
from adamix_lab.tasks.tasks import (
    EMBEDDED,
    PAPER_TASKS,
    SHOWN,
    Row,
    Task,
    TaskSpec,
    balanced,
    check_noise,
    embedded_folder,
    flip_labels,
    hold_out,
)

SLICE_OF_ONE_FILE = 0.2
USUAL = {"label": "label", "seed": 0, "label_noise": 0.0}  # options, where that is not None


def load_task(
    source: Any,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] = "label",
    name: str | None = None,
    rows: int | None = None,
    seed: int = 0,
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
        config: of a data set on the Hub that has several.
        revision: of a data set on the Hub: a branch, tag or commit.
        part: what the task is judged on; None takes the table's, else validation, else test. Two parts of
            "subjectivity" and of "reviews" are read only when they are asked for, and choose nothing: "fresh" by the
            final reports of fair comparisons, by the tour, and by the answers that lessons show; "sealed" by the
            frozen test of the phase map alone.
        kind: "classes", "labels" or "numbers" where the labels must not tell.
        label_noise: share of every class's training rows, 0 to 0.5, that are given another class; their column
            `true_label` keeps the right one. (A dev slice that training holds out is noisy, too, the evaluation not.)

    Raises:
        ValueError: an unknown name or column, an empty file, a line that cannot be read, a name of a column or key that
            stands twice, a row without a label or with one outside the classes, one class only, more rows than there
            are, or noise outside 0 to 0.5.
        FileNotFoundError: a path that is not there, or a folder without train and evaluation files.
        OSError: a data set that is neither in the cache nor to be had from the Hub.

    >>> load_task("aspects").classes
    ('negative', 'positive')
    >>> rows = [{"text": "good", "mark": "a"}, {"text": "bad", "mark": "b"}] * 20
    >>> load_task(rows, label="mark", name="marks")
    Task 'marks': 32 rows to train on, 8 to be judged on; text to mark, classes (a, b)
    """
    if kind is not None:
        one_of("kind", kind, KINDS)
    if rows is not None:
        positive("rows", rows)
    whole("seed", seed)
    check_noise(label_noise)
    labels = (label,) if isinstance(label, str) else tuple(label)
    parts, spec, origin = _find(source, text is not None, labels, (config, revision), part)
    columns, read = text_columns(parts[0].rows[0], parts[0].place, text, spec), parts
    unused = [c for c in dict.fromkeys(c for row in parts[0].rows for c in row) if c not in (*columns, *labels)]
    once(columns, "text", "column")
    once(labels, "label", "column")
    for each in parts:
        check_columns(each, columns, labels)
    column = labels[0] if len(labels) == 1 else join_labels(parts, labels)
    found = number_labels(parts, column, spec, kind)
    if len(labels) > 1 and found.ids:
        raise LabError(f"label = {labels}: expected 0 or 1 in each of several columns of labels.")
    found = found._replace(classes=labels) if len(labels) > 1 else found
    if len(parts) == 1:
        parts = _slice(parts[0], seed, column)
    train, drawing = _drawn(parts[0].rows, rows, label_noise, seed, column, found)
    given: dict[str, Any] = {"text": text, "label": label, "rows": rows, "seed": seed}
    given |= {"config": config, "revision": revision, "part": part, "kind": kind, "label_noise": label_noise}
    options = {option: value for option, value in given.items() if value != USUAL.get(option)}
    title = name or (Path(origin).name.split(".")[0] if isinstance(source, str | Path) else "mine")
    further = {each.split.removeprefix("validation_"): each.rows for each in parts[2:]}
    metrics, judged = spec.metrics if spec else (), parts[1].rows
    task = Task(title, train, judged, columns, column, found.classes, metrics, further, origin, found.kind, options)
    notes = [f"{Path(each.place).name}: {note}" for each in read for note in each.notes]
    if len(read) == 1:
        notes.append(f"A fifth of the rows was set aside to be judged on, the same share of every class (seed {seed}).")
    return replace(task, report=_report(task, read, unused, found.why, [*notes, *drawing]))


def saved_task(notes: Mapping[str, Any], source: str | None = None) -> Task:
    """The task that a save's notes name, read as it was for its training; or another source in its place.

    Raises as `load_task` does, and FileNotFoundError for rows that lie elsewhere by now.
    """
    if source:
        return load_task(source)
    named = str(notes.get("source") or notes.get("task", "aspects"))
    if named.startswith(("./", "../", ".\\", "..\\")) and not Path(named).exists():
        raise FileNotFoundError(
            f"{named} is not there: expected the rows that the experts were trained on, seen from the folder in which "
            'they were trained. Run the command there, or say where the rows lie now: task="path".'
        )
    options = notes.get("options", {})
    if not isinstance(options, Mapping):
        raise LabError(f"options = {options!r} in a save's notes: expected load_task's by name. Say task= instead.")
    for option in options:
        one_of("Option of load_task, in a save's notes,", option, [*signature(load_task).parameters][1:])
    return load_task(named, **options)


def _drawn(
    rows: list[Row], count: int | None, noise: float, seed: int, label: str, found: Labels
) -> tuple[list[Row], list[str]]:
    """(the rows to train on, what to note of how they were drawn)."""
    notes, classes = [], found.classes if found.kind == "classes" else ()
    if count is not None:
        notes.append(f"{count:,} of {len(rows):,} rows to train on were drawn, every class in its share (seed {seed}).")
        rows = balanced(rows, count, seed, label, classes)
    if noise:
        rows = flip_labels(rows, noise, seed, label, classes)
        wrong = sum(row[label] != row["true_label"] for row in rows)
        notes.append(f"Labels made wrong, of rows to train on: {wrong:,} (seed {seed}); true_label has the right ones.")
    return rows, notes


def _report(task: Task, read: Sequence[Part], unused: Sequence[str], why: str, notes: Sequence[str]) -> str:
    """What was taken and what was left, a sentence a line."""
    files = [(Path(part.place).name, len(part.rows), part.lines) for part in read]
    taken = "; ".join(f"{name}, {rows:,} rows{f' in {lines:,} lines' if lines else ''}" for name, rows, lines in files)
    left = ", ".join(name or "one without a name" for name in unused) or "none"
    lines = [
        f"Task {task.name!r}: {len(task.train):,} rows to train on and {len(task.evaluation):,} to be judged on.",
        f"Read: {taken}.",
        f"Columns: {' and '.join(task.text)} (the text), {task.label} (the label); unused: {left}.",
        f"Kind: {task.kind}, because {why}.",
    ]
    if task.classes and task.kind != "numbers":
        holders = [
            f"{name!r} ({_holders(task.train, task.label, n):,} and {_holders(task.evaluation, task.label, n):,})"
            for n, name in enumerate(task.classes[:SHOWN])
        ]
        more = [f"and {len(task.classes) - SHOWN:,} more"] if len(task.classes) > SHOWN else []
        lines.append(f"Rows of each, to train on and to be judged on: {', '.join(holders + more)}.")
    return "\n".join([*lines, *(f"Note: {note}" for note in (*notes, *_doubts(task)))])


def _holders(rows: Sequence[Row], label: str, number: int) -> int:
    return sum(int(row[label][number]) if isinstance(row[label], list) else row[label] == number for row in rows)


def _doubts(task: Task) -> Iterator[str]:
    """What may mislead in the rows of a task."""
    known = {tuple(row[column] for column in task.text) for row in task.train}
    if both := sum(tuple(row[column] for column in task.text) in known for row in task.evaluation):
        yield f"Rows to be judged on whose text is trained on, too: {both:,}."
    if empty := sum(not "".join(row[c] for c in task.text).strip() for row in [*task.train, *task.evaluation]):
        yield f"Rows without any text: {empty:,}."
    folded = [name.casefold() for name in task.classes]
    if alike := [name for name in task.classes if folded.count(name.casefold()) > 1]:
        yield f"Classes that differ in capitals alone: {', '.join(map(repr, alike))}. Are they one?"


def _find(
    source: Any, own_columns: bool, labels: Sequence[str], hub: tuple[Any, Any], part: str | None
) -> tuple[list[Part], TaskSpec | None, str]:
    """(the parts, what is known of the task, where it is from)."""
    asked = () if part is None else (part,)
    table: Mapping[str, TaskSpec] = {} if own_columns else PAPER_TASKS
    if not isinstance(source, str | Path):
        parts, origin, spec = read_object(source, asked), type(source).__name__, None
    elif str(source) in EMBEDDED:
        origin = str(source)
        parts, spec = read_files(embedded_folder(origin), asked), EMBEDDED[origin] if labels == ("label",) else None
    elif _on_hub(source):
        origin = str(source)
        parts, spec = _from_hub(origin, table.get(origin), *hub, asked)
    else:
        path = _locate(source)
        spec, origin = table.get(path.name), str(path.resolve())
        parts = read_files(path, asked or (spec.splits if spec else ()))
    if part is not None and len(parts) == 1:
        raise LabError(f"part = {part!r} of one table: expected a folder, or a dict by split. Leave part out.")
    names = parts[0].names.get(labels[0]) if len(labels) == 1 else None
    for each in parts[1:]:
        given = each.names.get(labels[0])
        if names and given and given != names:
            raise LabError(
                f"{each.place} numbers its classes {', '.join(given)}: expected {', '.join(names)}, as "
                f"{parts[0].place}. Bring it into that order (align_labels_with_mapping of datasets)."
            )
    return parts, spec or (TaskSpec(classes=names) if names else None), origin


def files_of(source: str | Path, part: str | None = None) -> list[Path]:
    """The files that `load_task(source, part=part)` reads; none of an embedded task, of the Hub's, and where none lie.

    Raises as `load_task` does for a folder without them.
    """
    path = Path(source)
    if str(source) in EMBEDDED or _on_hub(source) or not path.exists():
        return []
    spec = PAPER_TASKS.get(path.name)
    return row_files(path, (part,) if part is not None else spec.splits if spec else ())


def _on_hub(source: str | Path) -> bool:
    """Whether a source is a name for the Hub: one of the table, or owner/name that is no path here, nor a file's."""
    is_file = Path(source).exists() or str(source).lower().endswith(SUFFIXES)
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) and not is_file
    return isinstance(source, str) and (source in PAPER_TASKS or bool(is_id))


def _from_hub(
    source: str, spec: TaskSpec | None, config: str | None, revision: str | None, asked: Sequence[str]
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
        error = unknown("Task", str(source), [*EMBEDDED, *PAPER_TASKS])
        raise LabError(f"{error} Or give the path of a folder or file with JSON lines or CSV, or owner/name.")
    raise FileNotFoundError(
        f"{path} is not there: expected a folder with train.* and validation.*, or a file ({', '.join(SUFFIXES)})."
    )


def _slice(part: Part, seed: int, label: str) -> list[Part]:
    train, evaluation = hold_out(part.rows, SLICE_OF_ONE_FILE, seed, label)
    if not evaluation:
        raise LabError(f"{part.place} holds {len(part.rows)} rows: expected 2 or more of a class, one to judge on.")
    return [part._replace(rows=train), part._replace(rows=evaluation)]
