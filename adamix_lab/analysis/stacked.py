"""Several points of adapter space in one pass: K weights a site over one batch, and K heads.

The model itself is never written to. A pass runs in a shallow copy whose head takes K sets of weights; the sites get
theirs by a selection that is taken back when the pass ends, whatever happens in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.analysis.points import Point
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import reads_labels
from adamix_lab.core.views import Batch, rows_of
from adamix_lab.fast.blocks import cut_last_block, fan_out, plan_blocks
from adamix_lab.fast.prefix import cached_prefix, shallow_copy


def above_prefix(mixture: MixtureModel) -> tuple[MixtureModel, Callable[[Batch], Batch]]:
    """The mixture from its first site on and what makes a batch ready for it; unsupported models as they are."""
    plan = plan_blocks(mixture)
    if plan is None or plan.family.cut is None:
        return mixture, lambda batch: batch
    top, cache = cached_prefix(mixture)
    return top.eval(), cache


def logits_at(mixture: MixtureModel, batch: Batch, points: Point) -> Tensor:
    """Logits `[K, B, ...]` of a batch at K points, `[K, ...]` each; `batch` may hold cached states (`above_prefix`).

    What lies below the first site runs once for all K where the model's family allows it. Points without a head
    take the mixture's own.
    """
    number, rows = len(next(iter(points.values()))), rows_of(batch)
    selection = {
        path: {name: points[f"experts.{path}.{name}"] for name in layer.experts}
        for path, layer in mixture.sites.items()
    }
    served = with_heads(mixture, points)
    inputs = inputs_of(served, batch)
    plan = plan_blocks(served)
    if plan is None:
        repeated = {name: value.repeat(number, *([1] * (value.dim() - 1))) for name, value in inputs.items()}
        logits: Tensor = served(selection=selection, **repeated).logits
    else:
        with cut_last_block(served.model), fan_out(served, plan, number, rows):
            logits = served(selection=selection, **inputs).logits
    return logits.unflatten(0, (number, -1))


def inputs_of(mixture: MixtureModel, batch: Batch) -> Batch:
    """The batch without its labels; an encoder-decoder also gets what its decoder reads."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if reads_labels(mixture.model) and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = mixture.model.prepare_decoder_input_ids_from_labels(batch["labels"])  # type: ignore[operator]
    return inputs


def with_heads(mixture: MixtureModel, points: Point) -> MixtureModel:
    """A shallow copy of the mixture whose head applies K sets of weights; itself where the points have no head."""
    if not any(name.startswith("head.") for name in points):
        return mixture
    served = shallow_copy(mixture)
    served.model = shallow_copy(mixture.model)
    for path, module in mixture.head.items():
        weights = {
            name: points[f"head.{path}.{name}"].to(parameter.dtype) for name, parameter in module.named_parameters()
        }
        setattr(served.model, path, StackedHead(module, weights))
    return served


class StackedHead(nn.Module):
    """Stands in for a head module: K groups of rows, each with weights of its own `[K, ...]`."""

    def __init__(self, inner: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.weights = weights
        self.training = inner.training

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        """From `[K * B, ...]` to the head's answers `[K * B, ...]`."""

        def one(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self.inner, weights, (x,), more)

        groups = x.unflatten(0, (len(next(iter(self.weights.values()))), -1))
        return torch.vmap(one, randomness="different")(self.weights, groups).flatten(0, 1)
