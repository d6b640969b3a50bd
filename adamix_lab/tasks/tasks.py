"""A task: rows to train on, rows to be judged on, and which columns are the text and the label.

Rows come from the embedded data, a folder, one file, or the Hub: each source is a function that gives `Part`s (see
`adamix_lab.tasks.rows`), and whatever is known of a task before its rows are read is a `TaskSpec`.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import LabError, positive, unknown
from adamix_lab.core.errors import fraction as check_fraction
from adamix_lab.tasks.files import SUFFIXES, read_files
from adamix_lab.tasks.labels import check_columns, number_labels
from adamix_lab.tasks.rows import Part, Row, read_hub
from adamix_lab.tasks.table import EMBEDDED, PAPER_TASKS, TEXT_COLUMNS, TaskSpec

DATA_VARIABLE = "ADAMIX_LAB_DATA"
SLICE_OF_ONE_FILE = 0.2


def data_root() -> Path:
    """The folder of shipped data: ADAMIX_LAB_DATA names it, else a checkout's `data/`, else the package's `_data`.

    (No wheel brings `_data` yet: the library alone is installed from a clone that stays.)
    """
    package = Path(__file__).resolve().parents[1]
    checkout, installed = package.parent / "data", package / "_data"
    here = checkout if (checkout / "aspects").is_dir() else installed
    return Path(os.environ.get(DATA_VARIABLE) or here)


def embedded_folder(name: str) -> Path:
    """Where an embedded task lies. Raises FileNotFoundError where it is not there."""
    folder = data_root() / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not there: expected the embedded task {name!r}. Clone the repository, or set "
            f"{DATA_VARIABLE} to its data folder."
        )
    return folder


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
        metrics: names in `adamix_lab.tasks.metrics`, the task's own first; none given: accuracy, or the two
            correlations.
        further: more rows to be judged on, by name (MNLI's "mismatched").
        source: where `load_task` found it: a name, or the whole path.
    """

    name: str
    train: Sequence[Row]
    evaluation: Sequence[Row]
    text: tuple[str, ...]
    label: str = "label"
    classes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    further: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if not self.metrics:
            object.__setattr__(self, "metrics", ("accuracy",) if self.classes else ("pearson", "spearman"))

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

    def evaluation_tasks(self) -> list[Task]:
        """This task, and one for each further set of rows, judged on those (`mnli`, `mnli-mismatched`)."""
        more = (
            replace(self, name=f"{self.name}-{name}", evaluation=rows, further={})
            for name, rows in self.further.items()
        )
        return [self, *more]


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
        train = _sample(train, rows, seed)
    further = {each.split.removeprefix("validation_"): each.rows for each in parts[2:]}
    title = name or Path(str(source)).name.split(".")[0]
    return Task(title, train, evaluation, columns, label, classes, spec.metrics if spec else (), further, origin)


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


# -- fewer rows ------------------------------------------------------------------------------------------------


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


def few_shot(task: Task, examples: int = 30, seed: int = 0, per_class: int | None = None) -> Task:
    """The task with few training rows, drawn by the seed; the rows to be judged on stay.

    Every class gets the same number; where `examples` does not divide, some (drawn, too) get one more. A regression
    has no classes: its rows are drawn at random.

    Args:
        task: where to draw from.
        examples: in all.
        seed: of the draw.
        per_class: so many of each class, instead of `examples`.

    Raises:
        ValueError: a class has fewer rows than asked for, or `examples` are fewer than the classes.
    """
    positive("examples", examples)
    rng = random.Random(seed)
    if per_class is not None:
        positive("per_class", per_class)
        if task.regression:
            raise LabError(f"per_class = {per_class} for {task.name!r}, a regression: expected examples instead.")
    groups: list[list[int]] = [[] for _ in task.classes or ("all",)]
    for n, row in enumerate(task.train):
        groups[row[task.label] if task.classes else 0].append(n)
    if examples < len(groups) and per_class is None:
        raise LabError(f"examples = {examples} for {len(groups)} classes: expected one of each at least.")
    more = rng.sample(range(len(groups)), examples % len(groups))
    picked: list[int] = []
    for number, members in enumerate(groups):
        wanted = per_class or examples // len(groups) + (number in more)
        if wanted > len(members):
            what = f"class {task.classes[number]!r}" if task.classes else "the task"
            raise LabError(
                f"{wanted} examples of {what} were asked for, {task.name!r} has {len(members)}: expected at most "
                "these. Ask for fewer."
            )
        picked += rng.sample(members, wanted)
    return replace(task, train=[task.train[n] for n in sorted(picked)])


def subsample(task: Task, rows: int | None) -> Task:
    """The task with a seeded sample of each set of rows to be judged on; None leaves all."""
    if rows is None:
        return task
    positive("evaluation_rows", rows)
    further = {name: _sample(part, rows, 0) for name, part in task.further.items()}
    return replace(task, evaluation=_sample(task.evaluation, rows, 0), further=further)


def _sample(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """So many rows, drawn by the seed, in their order; all where there are no more."""
    picked = random.Random(seed).sample(range(len(rows)), min(count, len(rows)))
    return [rows[n] for n in sorted(picked)]
