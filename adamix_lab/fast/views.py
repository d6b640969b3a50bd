"""All ways to take several routed views of one batch: the plain ones of `adamix_lab.core.views`, and the short-cut.

"shared_prefix": what lies below the first site runs once and shares its dropout masks; the last block is cut to the
position that the head reads. Exactly the same function with dropout off, and less work.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from adamix_lab.core import views as plain
from adamix_lab.core.views import Batch, Views, Way, independent, logits_of, rows_of
from adamix_lab.fast.blocks import cut_last_block, fan_out, plan_blocks
from adamix_lab.models.check import Inputs, a_call_a_route, two_routes, verdict
from adamix_lab.models.model import MixtureModel


def shared_prefix(mixture: MixtureModel, batch: Batch, routes: Tensor) -> Tensor:
    """One pass that fans out at the first adapted block; `independent` serves models that are not supported."""
    if not mixture.mixture.sites:  # a baseline of the model's own weights: nothing fans out, the cut still serves
        with cut_last_block(mixture.model, batch):
            return independent(mixture, batch, routes)
    if routes.dim() != 3 or not fans_out(mixture, batch):
        return independent(mixture, batch, routes)
    return fanned_logits(mixture, batch, routes, len(routes), mixture.model)


def fans_out(mixture: MixtureModel, batch: Batch) -> bool:
    """Whether the views may share what lies below the first site: proposed by the table, tried once."""
    if plan_blocks(mixture) is None:
        return False

    def fast(other: Any, few: Inputs) -> Tensor:
        return fanned_logits(other, few, two_routes(other), 2, mixture.model)

    permitted, reason = verdict(mixture, "shared prefix", batch, fast, a_call_a_route)
    if not permitted:
        name = type(mixture.model).__name__
        warnings.warn(f"Views of {name} share no work, with equal results: {reason}.", stacklevel=5)
    return permitted


def fanned_logits(mixture: MixtureModel, batch: Batch, points: Any, number: int, asked: nn.Module) -> Tensor:
    """Logits `[K, B, ...]` at K routes, or points of a mapping, in one pass that fans out, where `fans_out` permits.

    asked: the model that the check of the cut tries.
    """
    plan = plan_blocks(mixture)
    assert plan is not None
    with (
        cut_last_block(mixture.model, batch, asked),
        fan_out(mixture, plan, number, rows_of(batch)),
        mixture.select(points),
    ):
        return logits_of(mixture.model(**batch)).unflatten(0, (number, -1))


WAYS: dict[str, Way] = {**plain.WAYS, "shared_prefix": shared_prefix}


def routed_logits(mixture: MixtureModel, batch: Batch, routes: Tensor, views: Views = "independent") -> Tensor:
    """Logits `[K, B, ...]` of a batch (without labels) under K routes `[K, sites, sides]`, in any of the three ways.

    Raises ValueError for routes that do not fit, a single one without the leading axis included.

    >>> routes = Router(mixture.space, seed=0).views(0, 2)
    >>> routed_logits(mixture, batch, routes).shape[0]
    2
    """
    return plain.routed_logits(mixture, batch, routes, views, WAYS)
