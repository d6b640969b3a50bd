"""The paper's twelve claims as data: what each says, where, what is compared, and by which rule it is decided.

Written before the runs that are judged by it; `RULES` has the rules in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adamix_lab.experiments.contrasts import Contrast, Side, minus

SEEDS = 3  # fewer decide nothing
MARGIN = 1.0  # points that count as alike: the paper's own seeds spread further on small tasks (Table 6)
SIGNIFICANT = 0.05
SMALL_BELOW = 10_000  # training rows
# Training rows, as the data sets count them
ROWS = {
    "mnli": 392_702, "qnli": 104_743, "sst2": 67_349, "qqp": 363_846, "mrpc": 3_668, "cola": 8_551, "rte": 2_490,
    "stsb": 5_749, "subj": 8_000, "mpqa": 8_606,
}  # fmt: skip

RULES = {
    "above": "the mean over tasks of the difference, with its 95 % t-interval over seeds. It holds where the mean is "
    f"above 0 and its p, corrected by Holm over all parts of all claims, is below {SIGNIFICANT}, and no single task is "
    "below 0 (Holm over the tasks). It does not hold where all that is so the other way round. Anything else is not "
    "decided.",
    "alike": "it holds where the whole interval lies within the margin, does not hold where it lies outside. Only "
    "tasks count on which both sides score above chance (the commonest label's share) by more than the margin.",
    "not below": "it holds where the interval lies above minus the margin, does not hold where it lies below; tasks "
    "count as under alike.",
    "equal": "it holds where the counts of both are the same on every task: a fact that needs no seeds.",
    "all": f"Fewer than {SEEDS} seeds decide nothing. A claim of several parts holds where all of them hold, and does "
    "not hold where one does not. It is judged at equal steps and, where there are such runs, at equal compute.",
}

Rule = Literal["above", "alike", "not below", "equal"]
Tasks = Literal["all", "small", "small against large"]


@dataclass(frozen=True)
class Part:
    """One thing that a claim says.

    Attributes:
        says: it, in words.
        contrast: what is compared.
        rule: see the module's text.
        tasks: the mean is over all tasks, over those of few training rows, or the mean over those minus the mean
            over the others.
        margin: of the rule, in points.
        most_steps: it is about a first side that may take so many times the steps of the second; it can fail only
            where it was given them.
        count: for "equal", the column that is counted.
    """

    says: str
    contrast: Contrast
    rule: Rule = "above"
    tasks: Tasks = "all"
    margin: float = 0.0
    most_steps: float | None = None
    count: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its number here, what it says, where the paper says it, its parts."""

    number: int
    says: str
    source: str
    parts: tuple[Part, ...]
    remark: str = ""


MERGED = Side("AdaMix")


def _strategy(name: str, **more: bool) -> Contrast:
    return minus(MERGED, Side("AdaMix", name, **more))


def _gains(low: str, middle: str, high: str) -> Contrast:
    """The gain from low to middle beyond the gain from middle to high."""
    return Contrast(((2.0, Side(middle)), (-1.0, Side(low)), (-1.0, Side(high))))


CLAIMS = (
    Claim(
        1,
        "AdaMix, merged, beats the single module that it mixes, at equal inference cost",
        "sections 1 and 4.2, Tables 1 and 2",
        (Part("AdaMix is above one module of its kind", minus("AdaMix", "single")),),
    ),
    Claim(
        2,
        "AdaMix beats full fine-tuning",
        "sections 1 and 4.2.1, Tables 1 and 2",
        (Part("AdaMix is above full fine-tuning", minus("AdaMix", "full")),),
    ),
    Claim(
        3,
        "Merging beats random routing, fixed routing and the logit ensemble of four passes",
        "section 4.3, Tables 7 and 14",
        (
            Part("merging is above the mean of random routing", _strategy("random")),
            Part("merging is above the first expert alone", _strategy("fixed")),
            Part("merging is above the ensemble of logits", _strategy("ensemble")),
        ),
    ),
    Claim(
        4,
        "Merging sits above the mean of random routes and near their best",
        "section 4.3, Figures 5 and 6",
        (
            Part("merging is above the mean of random routes", _strategy("random")),
            Part(
                f"merging is within {MARGIN:g} point of the best of a run's ten or more random draws, or above",
                _strategy("random", best=True),
                "not below",
                margin=MARGIN,
            ),
        ),
    ),
    Claim(
        5,
        "Dropping consistency hurts, most on small data",
        "section 4.3, Table 8",
        (
            Part("AdaMix is above AdaMix without consistency", minus("AdaMix", "no consistency")),
            Part(
                "by more on tasks of few training rows",
                minus("AdaMix", "no consistency"),
                tasks="small against large",
            ),
        ),
    ),
    Claim(
        6,
        "Dropping sharing hurts, most on small data, and slows convergence",
        "section 4.3, Table 8, Figure 7",
        (
            Part("AdaMix is above AdaMix without sharing", minus("AdaMix", "no sharing")),
            Part("by more on tasks of few training rows", minus("AdaMix", "no sharing"), tasks="small against large"),
            Part(
                "its training loss, averaged over the steps, is lower",
                minus("AdaMix", "no sharing", measure="loss"),
            ),
        ),
    ),
    Claim(
        7,
        "The number of modules has diminishing returns; small data degrades at M = 8",
        "section 4.3, Table 9",
        (
            Part("M = 4 is above M = 2", minus("AdaMix", "AdaMix M=2")),
            Part("the gain from M = 2 to 4 is above that from 4 to 8", _gains("AdaMix M=2", "AdaMix", "AdaMix M=8")),
            Part("on tasks of few rows, M = 4 is above M = 8", minus("AdaMix", "AdaMix M=8"), tasks="small"),
        ),
    ),
    Claim(
        8,
        "The bottleneck's size improves the model, with diminishing returns",
        "section 4.3, Tables 10 and 12",
        (
            Part("r = 16 is above r = 8", minus("AdaMix", "AdaMix r=8")),
            Part(
                "the gain from r = 8 to 16 is above that from 16 to 32", _gains("AdaMix r=8", "AdaMix", "AdaMix r=32")
            ),
        ),
    ),
    Claim(
        9,
        "Sharing the up- or the down-projection gives similar results",
        "section 4.3, Table 11",
        (Part(f"the two are within {MARGIN:g} point", minus("AdaMix", "share down"), "alike", margin=MARGIN),),
    ),
    Claim(
        10,
        "Inference cost and size equal one module's",
        "sections 1 and 3.3",
        (
            Part(
                "AdaMix, merged, answers with as many parameters beside the backbone as one module",
                minus("AdaMix", "single"),
                "equal",
                count="inference",
            ),
        ),
        "The paper's 444 times smaller than a full copy is arithmetic: 355 million by 0.8 million, RoBERTa-large.",
    ),
    Claim(
        11,
        "Training takes one to two times the iterations of standard parameter-efficient tuning",
        "section 7",
        (
            Part(
                f"with at most twice its steps AdaMix is at most {MARGIN:g} point below one module",
                minus("AdaMix", "single"),
                "not below",
                margin=MARGIN,
                most_steps=2.0,
            ),
        ),
        "An AdaMix step has two views and costs about twice the operations: the table of costs has both.",
    ),
    Claim(
        12,
        "With 30 labelled examples, prompt-based, AdaMix beats full prompt fine-tuning",
        "section 4.2.3, Table 6",
        (Part("AdaMix is above full fine-tuning on few examples", minus("AdaMix", "full", few_shot=True)),),
        "Runs whose backbone has no masked-LM head train a new head instead of answering with words: another setting.",
    ),
)
