"""The paper's tables as differences between variants: what is printed beside what was measured here.

Another backbone's absolute numbers do not compare; differences between variants of one backbone do, with care.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from adamix_lab.experiments.contrasts import Contrast, Side, minus
from adamix_lab.experiments.paper import printed_difference

Row = dict[str, str]


@dataclass(frozen=True)
class Line:
    """One comparison of a table.

    Attributes:
        says: the two sides in words.
        contrast: ours.
        table, first, second: the paper's table and the cells that name its two rows.
        task: where the columns of the printed table are metrics of one task.
    """

    says: str
    contrast: Contrast
    table: int
    first: Row
    second: Row

    def printed(self) -> dict[str, float]:
        """The paper's difference by column."""
        return printed_difference(self.table, self.first, self.second)


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper.

    columns: printed column to (task, metric here); metric None is the task's primary one.
    """

    name: str
    title: str
    columns: dict[str, tuple[str, str | None]]
    lines: tuple[Line, ...]
    few_shot: bool = False
    remark: str = ""


def _tasks(names: str, **metrics: tuple[str, str | None]) -> dict[str, tuple[str, str | None]]:
    return {name: (name, None) for name in names.split()} | dict(metrics)


def _model(
    table: int, first: str, second: str, ours: str | Side, says: str = "", few: bool = False, **which: str
) -> Line:
    """AdaMix against another, both rows found by `model` and `which`."""
    rows = ({"model": first, **which}, {"model": second, **which})
    return Line(says or f"AdaMix − {second}", minus("AdaMix", ours, few_shot=few), table, *rows)


def _swept(table: int, key: str, first: str, second: str, names: tuple[str, str], says: str) -> Line:
    return Line(says, minus(*names), table, {key: first}, {key: second})


_ONE = "AdaMix − one module (the paper's nearest: Pfeiffer, as many parameters)"
_ROBERTA = partial(_model, encoder="roberta-large")
TABLES = (
    Table(
        "Table 1",
        "AdaMix against full and parameter-efficient tuning (paper: RoBERTa-large)",
        _tasks("mnli qnli sst2 qqp mrpc cola rte stsb"),
        (
            _model(1, "AdaMix Adapter", "Full Fine-tuning", "full"),
            _model(1, "AdaMix Adapter", "Pfeiffer Adapter (small)", "single", _ONE),
            _model(1, "AdaMix Adapter", "Pfeiffer Adapter (small)", "pfeiffer"),
            _model(1, "AdaMix Adapter", "Houlsby Adapter (small)", "houlsby"),
            _model(1, "AdaMix Adapter", "LoRA", "lora"),
        ),
    ),
    Table(
        "Table 2",
        "AdaMix against full and parameter-efficient tuning (paper: BERT-base, with Table 13's tasks)",
        _tasks("mnli qnli sst2 cola rte stsb", qqp_f1=("qqp", "f1"), mrpc_f1=("mrpc", "f1")),
        tuple(
            _model(13, "AdaMix Adapter", name, ours)
            for name, ours in (
                ("Full Fine-tuning", "full"),
                ("Houlsby Adapter", "houlsby"),
                ("BitFit", "bitfit"),
                ("Prefix-tuning", "prefix"),
                ("LoRA", "lora"),
                ("UNIPELT (APL)", "unipelt"),
            )
        ),
        remark="F1 for qqp and mrpc, as the paper averages here. UniPELT here has no prefix.",
    ),
    Table(
        "Table 3",
        "Generation: E2E (paper: GPT-2 medium)",
        {name: ("e2e", name) for name in ("bleu", "nist", "meteor", "rouge_l", "cider")},
        (
            _model(3, "AdaMix LoRA", "LoRA (repr.)", "lora", "AdaMix LoRA − LoRA (repr.)"),
            _model(3, "AdaMix LoRA", "Full Fine-tuning", "full", "AdaMix LoRA − Full Fine-tuning"),
        ),
        remark="Grids of classification tasks do not run it: adamix-lab train-generator makes such a table.",
    ),
    Table(
        "Table 6",
        "30 labelled examples (paper: RoBERTa-large with prompts)",
        _tasks("mnli rte qqp sst2 subj mpqa"),
        tuple(
            _model(6, "AdaMix Adapter", name, ours, few=True)
            for name, ours in (
                ("Full Prompt Fine-tuning", "full"),
                ("Head-only", "head"),
                ("BitFit", "bitfit"),
                ("Prompt-tuning", "prompt"),
                ("Houlsby Adapter", "houlsby"),
            )
        ),
        few_shot=True,
    ),
    Table(
        "Table 7",
        "Merging against answering without it (paper: RoBERTa-large, Table 14; BERT-base's averages are Table 7's)",
        _tasks("mnli qnli sst2 cola rte stsb", qqp_accuracy=("qqp", None), mrpc_accuracy=("mrpc", None)),
        (
            _ROBERTA(14, "AdaMix", "AdaMix-RandomRouting", Side("AdaMix", "random")),
            _ROBERTA(14, "AdaMix", "AdaMix-FixedRouting", Side("AdaMix", "fixed")),
            _ROBERTA(14, "AdaMix", "AdaMix-Ensemble", Side("AdaMix", "ensemble")),
            _ROBERTA(14, "AdaMix", "Full Fine-tuning", "full"),
        ),
        remark="BERT-base's averages: merging is above random routing by 1.2, fixed by 0.8, the ensemble by 1.3.",
    ),
    Table(
        "Table 8",
        "Without consistency, without sharing (paper: RoBERTa-large)",
        _tasks("mnli qnli sst2 mrpc rte"),
        (
            _model(8, "AdaMix", "w/o Consistency", "no consistency"),
            _model(8, "AdaMix", "w/o Sharing", "no sharing"),
            _model(8, "AdaMix", "Full Fine-tuning", "full"),
        ),
    ),
    Table(
        "Table 9",
        "Number of modules (paper: RoBERTa-large)",
        _tasks("mnli qnli sst2 mrpc rte"),
        (
            _swept(9, "experts", "4", "2", ("AdaMix", "AdaMix M=2"), "M = 4 − M = 2"),
            _swept(9, "experts", "8", "4", ("AdaMix M=8", "AdaMix"), "M = 8 − M = 4"),
        ),
    ),
    Table(
        "Table 10",
        "Adapter size (paper: RoBERTa-large)",
        _tasks("mnli qnli sst2 mrpc rte"),
        (
            _swept(10, "size", "16", "8", ("AdaMix", "AdaMix r=8"), "r = 16 − r = 8"),
            _swept(10, "size", "32", "16", ("AdaMix r=32", "AdaMix"), "r = 32 − r = 16"),
        ),
    ),
    Table(
        "Table 11",
        "Which side is shared (paper: RoBERTa-large)",
        _tasks("mnli sst2"),
        (_swept(11, "shared", "up", "down", ("AdaMix", "share down"), "sharing up − sharing down"),),
    ),
)
