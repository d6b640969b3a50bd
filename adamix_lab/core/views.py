"""Several routed views of one batch in one call, in three named ways.

- "independent": the batch is repeated, each view has its own dropout masks everywhere (the reference);
- "shared_prefix": what lies below the first site runs once and shares its dropout masks; the last block is cut to
  the position that the head reads. Exactly the same function with dropout off, and less work;
- "same_dropout": one pass after another from one saved generator state, so that routing noise stands alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from adamix_lab.core.errors import one_of
from adamix_lab.core.model import MixtureModel
from adamix_lab.fast.blocks import cut_last_block, fan_out, plan_blocks

Views = Literal["independent", "shared_prefix", "same_dropout"]
Batch = dict[str, Tensor]


def rows_of(batch: Batch) -> int:
    """B."""
    return len(next(iter(batch.values())))


def grouped(routes: Tensor, rows: int) -> Tensor:
    """Routes of K views as one selection for K * B rows: `[K, ...]`, `[K * B, ...]`, or `[K * B, T, ...]`.

    `routes`: `[K, sites, sides]`, per example `[K, B, sites, sides]`, per token `[K, B, T, sites, sides]`.
    """
    if routes.dim() == 3:
        return routes
    if routes.shape[1] != rows:
        raise ValueError(f"Routes of shape {list(routes.shape)} do not fit {rows} rows: expected [views, rows, ...].")
    return routes.flatten(0, 1)


def independent(mixture: MixtureModel, batch: Batch, routes: Tensor) -> Tensor:
    """All views as one batch of K * B rows."""
    views, rows = len(routes), rows_of(batch)
    repeated = {name: value.repeat(views, *([1] * (value.dim() - 1))) for name, value in batch.items()}
    return _logits(mixture(selection=grouped(routes, rows), **repeated), views)


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
        return _logits(mixture(selection=routes, **batch), views)


def same_dropout(mixture: MixtureModel, batch: Batch, routes: Tensor) -> Tensor:
    """One pass a view, each from the same state of the random generators."""
    device = next(mixture.parameters()).device
    outputs = []
    for n, route in enumerate(routes):
        last = n == len(routes) - 1
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=not last):
            outputs.append(mixture(selection=route, **batch).logits)
    return torch.stack(outputs)


WAYS: dict[str, Callable[[MixtureModel, Batch, Tensor], Tensor]] = {
    "independent": independent,
    "shared_prefix": shared_prefix,
    "same_dropout": same_dropout,
}


def routed_logits(mixture: MixtureModel, batch: Batch, routes: Tensor, views: Views = "independent") -> Tensor:
    """Logits `[K, B, ...]` of a batch (without labels) under K routes `[K, sites, sides]`.

    Raises ValueError for routes that do not fit, a single one without the leading axis included.
    """
    one_of("way of viewing", views, WAYS)
    if routes.dim() not in (3, 4, 5):
        raise ValueError(
            f"Routes of shape {list(routes.shape)} do not fit: expected [views, sites, sides], with rows, or rows "
            "and tokens, after the views. Put one route in a batch of one: route[None]."
        )
    mixture.space.check(routes.flatten(0, -3))
    return WAYS[views](mixture, batch, routes)


def _logits(output: Any, views: int) -> Tensor:
    logits: Tensor = output.logits
    return logits.unflatten(0, (views, -1))
