"""A task: rows to train on, rows to be judged on, and which columns are the text and the label.

Rows come from the embedded data, a folder, one file, or the Hub (see `adamix_lab.tasks.rows`).
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

from adamix_lab.core.errors import fraction as check_fraction
from adamix_lab.core.errors import positive, unknown
from adamix_lab.tasks.rows import SUFFIXES, Part, Row, check_columns, hub_rows, name_labels, number_labels, read_rows

EMBEDDED = {"aspects": ("negative", "positive")}  # name: what the label numbers mean
EMBEDDED_TEXTS = ("notices",)  # those with texts to write
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
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


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

    def judged(self) -> list[Task]:
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
) -> Task:
    """A task from the embedded data ("aspects"), the Hub, a folder, or a file.

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

    Raises:
        ValueError: an unknown name or column, an empty file, a line that cannot be read, a row without a label or
            with one outside the classes.
        FileNotFoundError: a path that is not there, or a folder without train and evaluation files.
        OSError: a data set that is neither in the cache nor to be had from the Hub.
    """
    if rows is not None:
        positive("rows", rows)
    if folder is not None and source not in KNOWN:
        raise unknown("Task with a folder", source, KNOWN)
    path = None if folder is None and _on_hub(source) else _locate(source if folder is None else folder)
    key = str(source) if isinstance(source, str) and source in KNOWN else path.name if path else ""
    known = KNOWN.get(key) if text is None else None
    if path is None:
        parts, known, columns = _hub_parts(str(source), known, text, label, config, revision)
    else:
        parts = _local_parts(path, known)
        columns = known.text if known else _text_columns(parts[0][1][0], text, parts[0][0])
    for place, part in parts:
        check_columns(part, columns, label, place)
    if known:
        classes, numbers = known.classes, known.hub_classes if path is None else ()
        name_labels(parts, label, classes, numbers, known.bounds)
    else:
        classes = number_labels(parts, label)
    train, evaluation = _two(parts, seed, label)
    if rows is not None and rows < len(train):
        train = [train[n] for n in sorted(random.Random(seed).sample(range(len(train)), rows))]
    further = {_short(place): part for place, part in parts[2:]}
    title = name or (key if known else Path(str(source)).name.split(".")[0])
    given = str(source) if path is None or str(source) in EMBEDDED else str(path.resolve())
    metrics = known.metrics if known else ()
    return Task(title, train, evaluation, columns, label, EMBEDDED.get(str(source), classes), metrics, further, given)


def _two(parts: Sequence[Part], seed: int, label: str) -> tuple[list[Row], list[Row]]:
    place, train = parts[0]
    if len(parts) > 1:
        return train, parts[1][1]
    train, evaluation = hold_out(train, SLICE_OF_ONE_FILE, seed, label)
    if not evaluation:
        raise ValueError(f"{place} holds {len(train)} rows: expected 2 or more, some to be judged on.")
    return train, evaluation


def _short(place: str) -> str:
    return "mismatched" if "mismatched" in place else place


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
            raise ValueError(f"per_class = {per_class} for {task.name!r}, a regression: expected examples instead.")
    groups = _groups(task)
    if examples < len(groups) and per_class is None:
        raise ValueError(f"examples = {examples} for {len(groups)} classes: expected one of each at least.")
    more = rng.sample(sorted(groups), examples % len(groups))
    picked: list[int] = []
    for value in sorted(groups):
        wanted = per_class or examples // len(groups) + (value in more)
        if wanted > len(groups[value]):
            what = f"class {task.classes[value]!r}" if task.classes else "the task"
            raise ValueError(
                f"{wanted} examples of {what} were asked for, {task.name!r} has {len(groups[value])}: expected at most "
                "these. Ask for fewer."
            )
        picked += rng.sample(groups[value], wanted)
    return replace(task, train=[task.train[n] for n in sorted(picked)])


def _groups(task: Task) -> dict[int, list[int]]:
    """Row numbers by class; every class of the task is there."""
    groups: dict[int, list[int]] = {n: [] for n in range(len(task.classes) or 1)}
    for n, row in enumerate(task.train):
        groups[row[task.label] if task.classes else 0].append(n)
    return groups


def subsample(task: Task, rows: int | None) -> Task:
    """The task with a seeded sample of each set of rows to be judged on; None leaves all."""
    if rows is None:
        return task
    positive("evaluation_rows", rows)

    def some(given: Sequence[Any]) -> Sequence[Any]:
        picked = sorted(random.Random(0).sample(range(len(given)), min(rows, len(given))))
        return [given[n] for n in picked]

    further = {name: some(part) for name, part in task.further.items()}
    return replace(task, evaluation=some(task.evaluation), further=further)


# -- finding files -----------------------------------------------------------------------------------------


def data_root() -> Path:
    """The folder of the embedded data: ADAMIX_LAB_DATA, or `data/` beside the package."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else Path(__file__).resolve().parents[2] / "data"


def _on_hub(source: str | Path) -> bool:
    """Whether a source is a name for the Hub: one of the table, or owner/name that is no path here."""
    if not isinstance(source, str) or source in EMBEDDED:
        return False
    return source in KNOWN or (bool(HUB_ID.fullmatch(source)) and not Path(source).exists())


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
        error = unknown("Task", source, [*EMBEDDED, *KNOWN])
        raise ValueError(f"{error} Or give the path of a folder or file with JSON lines or CSV, or owner/name.")
    raise FileNotFoundError(
        f"{path} is not there: expected a folder with train.* and validation.*, or a file ({', '.join(SUFFIXES)})."
    )


def _local_parts(path: Path, known: KnownTask | None) -> list[Part]:
    files = _files(path, known.judged if known else ()) if path.is_dir() else [path]
    return [(str(file), read_rows(file)) for file in files]


def _files(folder: Path, judged: Sequence[str]) -> list[Path]:
    """train, then the file to be judged on, then those of further splits that are there."""
    train = _one(folder, "train")
    first = judged[:1] or ("validation", "test")
    names = [*first, *(name.removesuffix("_matched") for name in judged[:1])]
    evaluation = next((path for name in names if (path := _one(folder, name))), None)
    if train is None or evaluation is None:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        wanted = f"{names[-1]}.*" if judged else "validation.* (or test.*)"
        raise FileNotFoundError(
            f"{folder} holds {there}: expected train.* and {wanted}, ending in {', '.join(SUFFIXES)}."
        )
    return [train, evaluation, *(path for name in judged[1:] if (path := _one(folder, name)))]


def _one(folder: Path, stem: str) -> Path | None:
    paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES if (folder / f"{stem}{suffix}").is_file()]
    if len(paths) > 1:
        raise ValueError(
            f"{folder} holds {', '.join(p.name for p in paths)}: expected one {stem} file. Remove the rest."
        )
    return paths[0] if paths else None


def _hub_parts(
    source: str,
    known: KnownTask | None,
    text: str | Sequence[str] | None,
    label: str,
    config: str | None,
    revision: str | None,
) -> tuple[list[Part], KnownTask | None, tuple[str, ...]]:
    table = KNOWN.get(source)
    if table is not None:
        parts, _ = hub_rows(table.hub, table.config, table.judged, revision)
        for row in (row for _, part in parts for row in part) if known else ():
            row.update({ours: row[theirs] for theirs, ours in zip(table.hub_text, table.text, strict=False)})
        return parts, known, known.text if known else _text_columns(parts[0][1][0], text, parts[0][0])
    parts, names = hub_rows(source, config, (), revision)
    columns = _text_columns(parts[0][1][0], text, parts[0][0])
    named = KnownTask(source, config, columns, names[label]) if label in names else None
    return parts, named, columns


# -- columns -----------------------------------------------------------------------------------------------


def _text_columns(row: Mapping[str, Any], text: str | Sequence[str] | None, place: str) -> tuple[str, ...]:
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
        f"{place} has columns {', '.join(map(repr, row))}, none of them a usual name for text: expected {known}. "
        'Say which with text="column" or text=("first", "second").'
    )


# -- The paper's language-understanding tasks as data: where they are, their columns, classes and metrics --
#
# Class names stand in the order of their numbers in `nyu-mll/glue`, and, for Subj and MPQA, in LM-BFF's files.


@dataclass(frozen=True)
class KnownTask:
    """What is known of a task before its rows are read.

    Attributes:
        hub: the data set's id on the Hub.
        config: of that data set.
        text: one column, or two for pairs.
        classes: names in the order of their numbers; empty for a regression.
        metrics: names in `adamix_lab.tasks.metrics`; the first is the one in the paper's Table 1.
        judged: splits to be judged on, the one that stands for the task first (test labels of GLUE are not public).
        bounds: of a regression's labels.
        hub_text: the text columns' names on the Hub, where they differ.
        hub_classes: the classes in the Hub's order, where it differs.
    """

    hub: str
    config: str | None
    text: tuple[str, ...]
    classes: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    judged: tuple[str, ...] = ("validation",)
    bounds: tuple[float, float] | None = None
    hub_text: tuple[str, ...] = ()
    hub_classes: tuple[str, ...] = ()


def _glue(config: str, text: tuple[str, ...], classes: tuple[str, ...], *metrics: str) -> KnownTask:
    return KnownTask("nyu-mll/glue", config, text, classes, metrics or ("accuracy",))


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

KNOWN: dict[str, KnownTask] = {
    "cola": _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews"),
    "sst2": _glue("sst2", ("sentence",), ("negative", "positive")),
    "mrpc": _glue("mrpc", _PAIR, ("not_equivalent", "equivalent"), "accuracy", "f1"),
    "qqp": _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), "accuracy", "f1"),
    "stsb": KnownTask("nyu-mll/glue", "stsb", _PAIR, (), ("pearson", "spearman"), bounds=(0.0, 5.0)),
    "mnli": KnownTask(
        "nyu-mll/glue",
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        judged=("validation_matched", "validation_mismatched"),
    ),
    "qnli": _glue("qnli", ("question", "sentence"), _ENTAILMENT),
    "rte": _glue("rte", _PAIR, _ENTAILMENT),
    # SetFit/subj numbers its classes the other way round.
    "subj": KnownTask(
        "SetFit/subj",
        None,
        ("sentence",),
        ("subjective", "objective"),
        judged=("test",),
        hub_text=("text",),
        hub_classes=("objective", "subjective"),
    ),
    "mpqa": KnownTask("jxm/mpqa", None, ("sentence",), ("negative", "positive"), judged=("test",), hub_text=("text",)),
}
