"""What a user chooses among, apart from the tensors: to be checked, as `--help` and refusals are, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from adamix_lab.core.errors import finite, one_of

Kind = Literal["classes", "labels", "numbers", "tokens", "spans", "texts"]  # what a model's answers mean
Scope = Literal["batch", "example", "token"]  # what shares a route
Views = Literal["independent", "shared_prefix", "same_dropout"]  # how several views of a batch are taken
Distance = Literal["reference", "symmetric", "jensen-shannon", "mse"]  # between two views: `objective.DISTANCES`


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
