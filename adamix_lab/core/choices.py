"""What a user chooses among, apart from the tensors: to be checked, as `--help` and refusals are, without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from adamix_lab.core.errors import LabError, finite, one_of

Kind = Literal["classes", "labels", "numbers", "tokens", "spans", "texts"]  # what a model's answers mean
Scope = Literal["batch", "example", "token"]  # what shares a route
Views = Literal["independent", "shared_prefix", "same_dropout"]  # how several views of a batch are taken
Distance = Literal["reference", "symmetric", "jensen-shannon", "mse"]  # between two views: `objective.DISTANCES`
POOLINGS = ("cls", "mean")  # what a classifier's head reads: the family's own place, or the mean of all tokens
# How experts are used at inference (`training.evaluation.strategy_of`), and when texts are decoded.
STRATEGIES = ("merged", "fixed", *(f"fixed-{n}" for n in range(8)), "random", "random-example", "random-token")
STRATEGIES += ("ensemble", "ensemble-probabilities")
DECODED = ("merged", "fixed", "fixed-N", "random", "random-example")


@dataclass(frozen=True)
class Consistency:
    """How two views are held together. Weight 0 means one view a step.

    kind: "reference" (targets detached), "symmetric", "jensen-shannon", "mse" (regression).
    weight: lambda of Eq. 5; the reference takes 1 for classification, 100 a target token for generation.
    views: "independent", "same_dropout" (see `adamix_lab.core.views`) or "shared_prefix" (`adamix_lab.fast.views`).

    >>> Consistency(weight=0).number, Consistency(weight=1).number  # views a step
    (1, 2)
    """

    weight: float = 1.0
    kind: str = "reference"
    views: Views = "independent"

    def __post_init__(self) -> None:
        one_of("consistency", self.kind, get_args(Distance))
        one_of("views", self.views, get_args(Views))
        finite("consistency", self.weight, 0)

    @property
    def number(self) -> int:
        """Views a step: two, or one where the weight is 0."""
        return 2 if self.weight > 0 else 1


def check_decoded(what: str, strategy: str) -> None:
    """Refuses strategies that texts are not decoded by; N of fixed-N is any expert's number."""
    if not re.fullmatch(r"fixed-\d+", strategy):
        one_of(what, strategy, DECODED)


def check_repository(name: str) -> None:
    """Refuses what is no repository's name on the Hub."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise LabError(f"{name!r} is no repository's name: expected owner/name.")
