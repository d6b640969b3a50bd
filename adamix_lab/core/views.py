"""Several routed views of one batch in one call, in named ways.

- "independent": the batch is repeated, each view has its own dropout masks everywhere (the reference);
- "same_dropout": one pass after another from one saved generator state, so that routing noise stands alone.

A third, "shared_prefix", lies in `adamix_lab.fast.blocks` and works less: what lies below the first site runs once for
all views, so that they share its dropout masks. Without dropout all three answer the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.errors import Views as Views

Batch = dict[str, Tensor]
Way = Callable[[Any, Batch, Tensor], Tensor]  # (mixture, batch, routes of K views) to logits [K, B, ...]


class Mixture(nn.Module):
    """A model that holds mixtures: what the core asks of it, and `adamix_lab.models.MixtureModel` is.

    Attributes:
        model: the model with its mixture layers.
        mixture: the settings of what was attached (`MixtureConfig`).
        sites: the mixture layers by module path.
        space: the routes there are.
        head: the trained head's modules by path.
        selections: gives a selection's parts by site.
        takes_groups: tells of a batch whether K groups of rows may have K routes in one call (`permitted`, `reason`).
        restore: undoes to a copy of the model what attaching did.
    """

    model: Any
    mixture: Any
    sites: Any
    space: Any
    head: Any
    task: str
    selections: Any
    takes_groups: Any
    restore: Any
    _tasks: Any
    _owned: Any


def by_row(batch: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """A batch whose tensors with a row axis, as the first of them has one, are changed; what else there is stays."""
    rows = next((len(value) for value in batch.values() if isinstance(value, Tensor)), 0)
    with_rows = {name: v for name, v in batch.items() if isinstance(v, Tensor) and v.dim() and len(v) == rows}
    return {**batch, **{name: change(value) for name, value in with_rows.items()}}


def repeat(value: Tensor, times: int) -> Tensor:
    """All rows so many times, one group after another."""
    return value.repeat(times, *([1] * (value.dim() - 1)))


def logits_of(output: Any) -> Tensor:
    """A model's logits `[B, ...]`; of a head that marks spans those of start and end over the tokens, `[B, 2, T]`.

    Raises ValueError where there are none: a head of another kind, or no head.
    """
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return logits
    if isinstance(start := getattr(output, "start_logits", None), Tensor):
        return torch.stack([start, output.end_logits], 1)
    raise LabError(
        f"The model answers with {type(output).__name__}, which has no logits: expected a head for classes, numbers, "
        "tokens, spans or texts. Load such a model (AutoModelForSequenceClassification, ...)."
    )


def spans_as_labels(inputs: Mapping[str, Any]) -> Batch:
    """The batch; of a span's start and end, if it has them, `labels` `[B, 2]`."""
    batch = dict(inputs)
    if batch.get("start_positions") is not None:
        batch["labels"] = torch.stack([batch.pop("start_positions"), batch.pop("end_positions")], 1)
    return batch


def rows_of(batch: Batch) -> int:
    """B."""
    return len(next(iter(batch.values())))


def flatten_views(routes: Tensor, rows: int) -> Tensor:
    """Routes of K views as one selection for K * B rows: `[K, ...]`, `[K * B, ...]`, or `[K * B, T, ...]`.

    `routes`: `[K, sites, sides]`, per example `[K, B, sites, sides]`, per token `[K, B, T, sites, sides]`.
    """
    if routes.dim() == 3:
        return routes
    if routes.shape[1] != rows:
        raise LabError(f"Routes of shape {list(routes.shape)} do not fit {rows} rows: expected [views, rows, ...].")
    return routes.flatten(0, 1)


def independent(mixture: Mixture, batch: Batch, routes: Tensor) -> Tensor:
    """All views as one batch of K * B rows; a pass for each on a model that does not take several routes in one."""
    views, rows = len(routes), rows_of(batch)
    selection = flatten_views(routes, rows)
    if len(selection) > 1 and not (known := mixture.takes_groups(batch)).permitted:
        name = type(mixture.model).__name__
        warnings.warn(
            f"Each route takes a pass of its own in {name}, with equal results: {known.reason}.", stacklevel=5
        )
        return torch.stack([one_view(mixture, batch, route) for route in routes])
    repeated = by_row(batch, lambda value: repeat(value, views))
    logits = logits_of(mixture(selection=selection, **repeated))
    return logits.unflatten(0, (views, -1))


def one_view(mixture: Mixture, batch: Batch, route: Tensor) -> Tensor:
    """Logits `[B, ...]` of one view; a pass for each row where the model does not take a route per example."""
    if route.dim() != 3 or mixture.takes_groups(batch).permitted:
        return logits_of(mixture(selection=route, **batch))
    rows = [by_row(batch, lambda value, n=n: value[n : n + 1]) for n in range(len(route))]  # type: ignore[misc]
    return torch.cat([logits_of(mixture(selection=one, **row)) for one, row in zip(route, rows, strict=True)])


def same_dropout(mixture: Mixture, batch: Batch, routes: Tensor) -> Tensor:
    """One pass a view, each from the same state of the random generators."""
    device = next(mixture.parameters()).device
    outputs = []
    for n, route in enumerate(routes):
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=n < len(routes) - 1):
            outputs.append(one_view(mixture, batch, route))
    return torch.stack(outputs)


WAYS: dict[str, Way] = {"independent": independent, "same_dropout": same_dropout}


def check_way(views: str, ways: Mapping[str, Way]) -> None:
    """Raises ValueError for a way of viewing that is not among the ways."""
    if views == "shared_prefix" and views not in ways:
        raise LabError(
            f"views = {views!r} is a short-cut of adamix_lab.fast: expected ways that hold it, not {', '.join(ways)} "
            "alone. Give ways=adamix_lab.fast.blocks.WAYS, as train does, or take one of these."
        )
    one_of("way of viewing", views, ways)


def routed_logits(
    mixture: Mixture, batch: Batch, routes: Tensor, views: str = "independent", ways: Mapping[str, Way] = WAYS
) -> Tensor:
    """Logits `[K, B, ...]` of a batch (without labels) under K routes `[K, sites, sides]`.

    Raises ValueError for routes that do not fit, a single one without the leading axis included.
    """
    check_way(views, ways)
    if routes.dim() not in (3, 4, 5):
        raise LabError(
            f"Routes of shape {list(routes.shape)} do not fit: expected [views, sites, sides], with rows, or rows "
            "and tokens, after the views. Put one route in a batch of one: route[None]."
        )
    mixture.space.check(routes.flatten(0, -3))
    return ways[views](mixture, batch, routes)
