"""What is known of tasks before their rows are read: the embedded ones, and those of the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adamix_lab.core.errors import LabError
from adamix_lab.core.sites import Kind

TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("text", "text_pair"),
    ("sentence",),
    ("text",),
)


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
        kind: what is answered; none: classes where there are names, else numbers.
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
    kind: Kind | None = None
    numbers: tuple[str, ...] = ()


def text_columns(
    row: Mapping[str, object], place: str, text: str | Sequence[str] | None = None, spec: TaskSpec | None = None
) -> tuple[str, ...]:
    """The columns that are text: those named, those that are known, or the usual ones. Raises ValueError."""
    if text is not None:
        given = (text,) if isinstance(text, str) else tuple(text)
        if not 1 <= len(given) <= 2:
            raise LabError(f"text = {text!r}: expected one column, or two for pairs.")
        return given
    if spec and spec.text:
        return spec.text
    for columns in TEXT_COLUMNS:
        if all(column in row for column in columns):
            return columns
    if {"source", "target"} <= row.keys():
        raise LabError(f"{place} has sources and targets, texts to write: expected classes. Use load_generation_task.")
    usual = ", ".join(" + ".join(columns) for columns in TEXT_COLUMNS)
    raise LabError(
        f"{place} has columns {', '.join(map(repr, row))}, none of them a usual name for text: expected {usual}. "
        'Say which with text="column" or text=("first", "second").'
    )


EMBEDDED = {
    "aspects": TaskSpec(("sentence",), ("negative", "positive")),
    "subjectivity": TaskSpec(("sentence",), ("subjective", "objective")),
    "reviews": TaskSpec(("sentence",), ("negative", "positive")),
}
EMBEDDED_TEXTS = ("notices",)  # those with texts to write


def _glue(config: str, text: tuple[str, ...], classes: tuple[str, ...], *metrics: str) -> TaskSpec:
    return TaskSpec(text, classes, metrics or ("accuracy",), ("validation",), hub="nyu-mll/glue", config=config)


def _lm_bff(hub: str, classes: tuple[str, ...], hub_classes: tuple[str, ...] = ()) -> TaskSpec:
    return TaskSpec(_ONE, classes, ("accuracy",), ("test",), hub=hub, hub_text=("text",), hub_classes=hub_classes)


_ONE, _PAIR, _QUESTIONS = ("sentence",), ("sentence1", "sentence2"), ("question1", "question2")
_ENTAILMENT = ("entailment", "not_entailment")

# Class names stand in the order of their numbers in `nyu-mll/glue`, and, for Subj and MPQA, in LM-BFF's files.
PAPER_TASKS: dict[str, TaskSpec] = {
    "cola": _glue("cola", _ONE, ("unacceptable", "acceptable"), "matthews"),
    "sst2": _glue("sst2", _ONE, ("negative", "positive")),
    "mrpc": _glue("mrpc", _PAIR, ("not_equivalent", "equivalent"), "accuracy", "f1"),
    "qqp": _glue("qqp", _QUESTIONS, ("not_duplicate", "duplicate"), "accuracy", "f1"),
    "stsb": replace(_glue("stsb", _PAIR, (), "pearson", "spearman"), bounds=(0.0, 5.0)),
    "mnli": replace(
        _glue("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
        splits=("validation_matched", "validation_mismatched"),
    ),
    "qnli": _glue("qnli", ("question", "sentence"), _ENTAILMENT),
    "rte": _glue("rte", _PAIR, _ENTAILMENT),
    # SetFit/subj numbers its classes the other way round.
    "subj": _lm_bff("SetFit/subj", ("subjective", "objective"), ("objective", "subjective")),
    "mpqa": _lm_bff("jxm/mpqa", ("negative", "positive")),
}
