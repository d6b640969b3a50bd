"""A task: rows to train on, rows to be judged on, which columns are the text and the label; and fewer of them."""

from __future__ import annotations

import hashlib
import html
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from adamix_lab.core.errors import Kind, LabError, positive, unknown
from adamix_lab.core.errors import fraction as check_fraction

DATA_VARIABLE = "ADAMIX_LAB_DATA"

Row = dict[str, Any]
PLAIN = (str, int, float, bool, type(None))
SHOWN = 8  # classes that a report names
ROWS_SHOWN = 10  # of a task in a notebook


def shipped_folder(name: str) -> Path:
    """A checkout's folder "data" or "notebooks", else what the wheel holds of it, `_data` or `_notebooks`."""
    package = Path(__file__).resolve().parents[1]
    in_checkout = (package.parent / "data" / "aspects").is_dir()
    return package.parent / name if in_checkout else package / f"_{name}"


def data_root() -> Path:
    """The folder of shipped data: ADAMIX_LAB_DATA names it, else it is `shipped_folder("data")`."""
    return Path(os.environ.get(DATA_VARIABLE) or shipped_folder("data"))


def embedded_folder(name: str, file: str = "") -> Path:
    """Where an embedded task, or a shipped model, lies. Raises FileNotFoundError where it, or a file of it, is not."""
    folder = data_root() / name
    if not (folder / file).exists():
        raise FileNotFoundError(
            f"{folder / file} is not there: expected what is shipped as {name!r}. Install adamix-lab again, or let "
            f"{DATA_VARIABLE} name a folder that holds it."
        )
    return folder


@dataclass(frozen=True, repr=False)
class Task:
    """What is learned and what it is judged on.

    Attributes:
        name: for tables and logs.
        train: rows; a label is a class's number, a float (numbers), or a list: of 0 and 1 for several labels, of floats
            for several numbers. Other columns are kept.
        evaluation: rows of the same kind, looked at once, at the end.
        text: one column, or two for pairs.
        label: the label's column.
        classes: the names of classes, or of several labels or numbers, in their order; empty for one number.
        metrics: names in `adamix_lab.tasks.metrics`, the task's own first; none given: accuracy, F1 for several labels,
            or the two correlations.
        further: more rows to be judged on, by name (MNLI's "mismatched").
        source: where `load_task` found it: a name, or the whole path.
        kind: what is answered: "classes", "labels" (several may hold), "numbers", "tokens", "spans" or "texts"; none
            given: classes or several labels where there are names, else numbers.
        options: of `load_task`, where they were not the usual ones: `load_task(source, **options)` loads it again.
        report: what `load_task` took and what it left, in sentences to print.

    Values of numpy and pandas in the columns that are read become Python's own.

    >>> rows = [{"sentence": "a fine film", "label": 1}, {"sentence": "a dull film", "label": 0}]
    >>> Task("films", rows, rows, ("sentence",), classes=("negative", "positive")).num_labels
    2
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
    kind: Kind | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    report: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.text, str):
            object.__setattr__(self, "text", (self.text,))
        if len(set(self.classes)) < len(self.classes):
            raise LabError(f"Task {self.name!r} has the classes {', '.join(self.classes)}: expected each name once.")
        for name in ("train", "evaluation"):
            if not all(isinstance(row, Mapping) for row in getattr(self, name)):
                given = type(getattr(self, name)).__name__
                raise LabError(f"{name} is a {given}: expected a list of dicts, one a row. load_task reads tables.")
            object.__setattr__(self, name, self._plain(getattr(self, name)))
        object.__setattr__(self, "further", {name: self._plain(rows) for name, rows in self.further.items()})
        if self.kind is None:
            several = bool(self.train) and isinstance(self.train[0].get(self.label), list)
            object.__setattr__(self, "kind", ("labels" if several else "classes") if self.classes else "numbers")
        if not self.metrics:
            own = {"labels": ("f1",), "numbers": ("pearson", "spearman")}
            object.__setattr__(self, "metrics", own.get(str(self.kind), ("accuracy",)))

    def _plain(self, rows: Sequence[Row]) -> Sequence[Row]:
        read = (*self.text, self.label)
        return rows if all(type(row.get(name)) in PLAIN for row in rows for name in read) else [plain(r) for r in rows]

    def __repr__(self) -> str:
        kind = f"{self.kind} ({', '.join(self.classes[:SHOWN])}{', ...' if len(self.classes) > SHOWN else ''})"
        return (
            f"Task {self.name!r}: {len(self.train):,} rows to train on, {len(self.evaluation):,} to be judged on; "
            f"{' and '.join(self.text)} to {self.label}, {kind if self.classes else self.kind}"
        )

    def _repr_html_(self) -> str:
        from adamix_lab.tasks.metrics import html_table

        rows = [{**row, self.label: self._named(row.get(self.label))} for row in self.train[:ROWS_SHOWN]]
        shown = [{name: str(row.get(name)) for name in (*self.text, self.label)} for row in rows]
        licence = f" Licence: {html.escape(found)}." if (found := licence_of(self.source)) else ""
        more = f"{min(ROWS_SHOWN, len(rows))} of them:" + html_table(shown) if rows else ""
        return f"<div>{html.escape(repr(self), quote=False)}.{licence} {more}</div>"

    def _named(self, label: Any) -> Any:
        known = self.kind == "classes" and isinstance(label, int) and 0 <= label < len(self.classes)
        return self.classes[label] if known else label

    @property
    def num_labels(self) -> int:
        """Numbers the head answers: one a class, label or number."""
        return len(self.classes) or 1

    @property
    def regression(self) -> bool:
        """Whether labels are numbers rather than classes."""
        return self.kind == "numbers"

    @property
    def generates(self) -> bool:
        """Whether labels are texts to write (`adamix_lab.generation.tasks.GenerationTask`)."""
        return self.kind == "texts"

    def evaluation_tasks(self) -> list[Task]:
        """This task, and one for each further set of rows, judged on those (`mnli`, `mnli-mismatched`)."""
        more = (
            replace(self, name=f"{self.name}-{name}", evaluation=rows, further={})
            for name, rows in self.further.items()
        )
        return [self, *more]


def licence_of(source: str) -> str:
    """The licence that the data card of an embedded task names; "" for any other source."""
    card = data_root() / source / "README.md"
    if not source or Path(source).name != source or not card.is_file():
        return ""
    found = re.search(r"Licence(?:\*\*)?: (.+?)(?: \(|[,;]|\.?$|\. )", card.read_text(encoding="utf-8"), re.M)
    return found[1] if found else ""


def plain(value: Any) -> Any:
    """A row or value in Python's own types: scalars of numpy are numbers, arrays lists, what pandas misses None."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def rows_digest(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """A short hash of some columns of rows, by which they are known again."""
    text = "".join(json.dumps([row[name] for name in columns]) for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def text_of(row: Mapping[str, Any], column: str, place: str) -> str:
    """A row's text. Raises ValueError, with the place, where there is none, or it is no string (it may be empty)."""
    if column not in row:
        raise LabError(f"{place}: {unknown('Column', column, row)}")
    value = row[column]
    if isinstance(value, list):
        raise LabError(
            f"{place}: {column} is a list: expected a string. load_task reads no labels of words: make a "
            'Task(..., kind="tokens"), and give train and evaluate an encoder.'
        )
    if not isinstance(value, str):
        raise LabError(f"{place}: {column} = {value!r:.60}: expected a string (it may be empty).")
    if not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise LabError(
            f"{place}: {column} = {value!r:.60} holds half a character, which no tokenizer takes. Correct it."
        )
    return value


# -- tasks known before their rows are read: the embedded ones, and those of the paper's tables (`known.yaml`) ----


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task before its rows are read.

    Attributes:
        text: one column, or two for pairs; none: the usual names are looked for.
        classes: names in the order of their numbers; none for a regression.
        metrics: names in `adamix_lab.tasks.metrics`; the first is the one in the paper's Table 1.
        splits: those to be judged on, the one that stands for the task first (test labels of GLUE are not public);
            none given: validation, else test.
        bounds: of a regression's labels.
        hub: the data set's id on the Hub.
        config: of that data set.
        hub_text: the text columns' names on the Hub, where they differ.
        hub_classes: the classes in the Hub's order, where it differs.
        numbers: the classes in the order of the numbers that stand in the rows at hand, where that differs.
    """

    text: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    hub: str = ""
    config: str | None = None
    hub_text: tuple[str, ...] = ()
    hub_classes: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


def _spec(known: Mapping[str, Any]) -> TaskSpec:
    return TaskSpec(**{key: tuple(v) if isinstance(v, list) else v for key, v in known.items()})  # type: ignore[arg-type]


_KNOWN = yaml.safe_load(Path(__file__).with_name("known.yaml").read_text(encoding="utf-8"))
EMBEDDED = {name: _spec(known) for name, known in _KNOWN["embedded"].items()}
PAPER_TASKS = {name: _spec(known) for name, known in _KNOWN["paper"].items()}
TEXT_COLUMNS = tuple(map(tuple, _KNOWN["text columns"]))
EMBEDDED_TEXTS = ("notices",)  # those with texts to write


# -- fewer rows, and worse ones --------------------------------------------------------------------------------


def hold_out(
    rows: Sequence[Row], fraction: float, seed: int, label: str = "label", together: Sequence[str] = ()
) -> tuple[list[Row], list[Row]]:
    """(train, dev): a seeded slice of the rows for model selection, the same share of every class.

    Every class with two rows or more stands on both sides; the rows keep their order.

    Args:
        rows: all of them.
        fraction: share of the dev slice, in [0, 1); ValueError otherwise.
        seed: of the choice.
        label: the label's column; floats, and lists, are one class.
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
            groups["one class" if together or isinstance(value, float | list | tuple) else value].append(unit)
        unit.append(n)
    rng = random.Random(seed)
    dev: set[int] = set()
    for value in sorted(groups, key=str) if fraction else ():
        members = groups[value]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        dev.update(n for unit in rng.sample(members, count) for n in unit)
    return [r for n, r in enumerate(rows) if n not in dev], [r for n, r in enumerate(rows) if n in dev]


def few_shot(task: Task, examples: int = 30, seed: int = 0) -> Task:
    """The task with few training rows, drawn by the seed; the rows to be judged on stay.

    Every class gets the same number; where `examples` does not divide, some (drawn, too) get one more. What is no task
    of classes has its rows drawn at random.

    Args:
        task: where to draw from.
        examples: in all.
        seed: of the draw.

    Raises:
        ValueError: a class has fewer rows than asked for, or `examples` are fewer than the classes.

    >>> len(few_shot(task, examples=6).train)
    6
    """
    positive("examples", examples)
    classes = task.classes if task.kind == "classes" else ()
    groups = [[n for n, row in enumerate(task.train) if row[task.label] == number] for number in range(len(classes))]
    groups = groups or [[*range(len(task.train))]]
    if examples < len(groups):
        raise LabError(f"examples = {examples} for {len(groups)} classes: expected one of each at least.")
    rng = random.Random(seed)
    more = rng.sample(range(len(groups)), examples % len(groups))
    picked: list[int] = []
    for number, members in enumerate(groups):
        wanted = examples // len(groups) + (number in more)
        if wanted > len(members):
            what = f"class {classes[number]!r}" if classes else "the task"
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
    further = {name: sample(part, rows, 0) for name, part in task.further.items()}
    return replace(task, evaluation=sample(task.evaluation, rows, 0), further=further)


def sample(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """So many rows, drawn by the seed, in their order; all where there are no more."""
    picked = random.Random(seed).sample(range(len(rows)), min(count, len(rows)))
    return [rows[n] for n in sorted(picked)]


def balanced(rows: Sequence[Row], count: int, seed: int, label: str, classes: Sequence[str]) -> list[Row]:
    """So many rows with the same share of every class, drawn by the seed, in their order; fewer are among more.

    classes: of rows whose label is a class number; none for any other.

    Raises ValueError for more rows than there are, or so few that a class has none.
    """
    positive("rows", count)
    if count > len(rows):
        raise LabError(f"rows = {count}: expected at most the {len(rows)} that there are to train on.")
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    members: dict[Any, list[int]] = defaultdict(list)
    for n in order:
        members[rows[n][label] if classes else None].append(n)
    place = {n: (rank + 0.5) / len(group) for group in members.values() for rank, n in enumerate(group)}
    picked = sorted(order, key=place.__getitem__)[:count]
    there = {rows[n][label] for n in picked} if classes else set()
    if lost := [name for number, name in enumerate(classes) if number in members and number not in there]:
        raise LabError(f"rows = {count} leave no row of class {lost[0]!r}: expected one of each at least. Take more.")
    return [rows[n] for n in sorted(picked)]


def check_noise(share: Any) -> None:
    """Refuses shares of wrong labels that are no number from 0 to 0.5."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 0.5:
        raise LabError(f"label_noise = {share!r}: expected a share from 0 to 0.5.")


def flip_labels(rows: Sequence[Row], share: float, seed: int, label: str, classes: Sequence[str]) -> list[Row]:
    """The rows with that share of every class given another class, drawn by the seed; `true_label` keeps the right one.

    Raises ValueError for a share outside 0 to 0.5, rows without classes, or with a column `true_label` of their own.
    """
    check_noise(share)
    if not classes or isinstance(rows[0][label], list):
        raise LabError(f"label_noise = {share} of labels that are no classes: expected one class a row.")
    if "true_label" in rows[0]:
        raise LabError("Label noise keeps right labels in a column true_label: expected rows without one. Rename it.")
    rng = random.Random(f"label noise {seed}")  # other draws than those of the rows
    made = [{**row, "true_label": row[label]} for row in rows]
    for number in range(len(classes)):
        members = [row for row in made if row["true_label"] == number]
        for row in rng.sample(members, round(share * len(members))):
            row[label] = rng.choice([other for other in range(len(classes)) if other != number])
    return made
