"""The paper's language-understanding tasks as data: where they are, their columns, classes and metrics.

Class names stand in the order of their numbers in `nyu-mll/glue`, and, for Subj and MPQA, in LM-BFF's files.
"""

from __future__ import annotations

from dataclasses import dataclass


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
