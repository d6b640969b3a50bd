"""All ways to take several routed views of one batch: the plain ones of `adamix_lab.core.views`, and the short-cut.

"shared_prefix": what lies below the first site runs once and shares its dropout masks; the last block is cut to the
position that the head reads. Exactly the same function with dropout off, and less work.
"""

from __future__ import annotations

from torch import Tensor

from adamix_lab.core import views as plain
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.views import Batch, Views, Way, independent, logits_of, rows_of
from adamix_lab.fast.blocks import cut_last_block, fan_out, plan_blocks


def shared_prefix(mixture: MixtureModel, batch: Batch, routes: Tensor) -> Tensor:
    """One pass that fans out at the first adapted block; `independent` serves models that are not supported."""
    views, rows = len(routes), rows_of(batch)
    plan = plan_blocks(mixture)
    if not mixture.mixture.sites:  # a baseline of the model's own weights: nothing fans out, the cut still serves
        with cut_last_block(mixture.model):
            return independent(mixture, batch, routes)
    if plan is None or routes.dim() != 3:
        return independent(mixture, batch, routes)
    with cut_last_block(mixture.model), fan_out(mixture, plan, views, rows):
        logits = logits_of(mixture(selection=routes, **batch))
    return logits.unflatten(0, (views, -1))


WAYS: dict[str, Way] = {**plain.WAYS, "shared_prefix": shared_prefix}


def routed_logits(mixture: MixtureModel, batch: Batch, routes: Tensor, views: Views = "independent") -> Tensor:
    """Logits `[K, B, ...]` of a batch (without labels) under K routes `[K, sites, sides]`, in any of the three ways.

    Raises ValueError for routes that do not fit, a single one without the leading axis included.
    """
    return plain.routed_logits(mixture, batch, routes, views, WAYS)
