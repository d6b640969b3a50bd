"""What merging costs: the second-order estimate of the merge's loss beside the ensemble's, and both measured.

Averaged weights are compared with averaged *logits*. Expanding both around the average gives, for M experts on
independent sides s at the barycentre (after Wortsman et al., 2022, section 4),

    L_AM - L_Ens ~ 1/2 sum_s 1/M sum_i [-D_si^2 L + E Var(D_si f)]

with D_si the derivative along the way from the merge to expert i of side s, L the loss, f the logits, and Var over the
classes with the probabilities that the merge predicts. Fused attention has no second derivative, so attention runs
eagerly meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamix_lab.analysis.landscape import check_batches
from adamix_lab.analysis.points import Point, device_and_dtype, logits_at, point_of
from adamix_lab.core.errors import LabError
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.objective import without_labels
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import shared_prefix
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import to_device
from adamix_lab.training.evaluation import try_cached_prefix

AT_ONCE = 16  # points a pass


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Attention in plain operations inside the block; what was chosen comes back."""
    configs: list[Any] = list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())
    before = [(config, chosen) for config in configs if (chosen := getattr(config, "_attn_implementation", None))]
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, chosen in before:
            config._attn_implementation = chosen


@dataclass(frozen=True)
class Gap:
    """Averaged weights against averaged logits, in nats a row.

    Attributes:
        merged: loss of the averaged weights.
        ensemble: loss of the averaged logits.
        curvature: the estimate's term of the loss's second derivatives, its sign included.
        variance: the estimate's term of the logits' variance.
    """

    merged: float
    ensemble: float
    curvature: float
    variance: float

    @property
    def measured(self) -> float:
        """The difference itself."""
        return self.merged - self.ensemble

    @property
    def estimate(self) -> float:
        """What the second-order expansion says it is."""
        return self.curvature + self.variance

    def row(self) -> dict[str, float]:
        """Everything, for a table."""
        return {**asdict(self), "measured": self.measured, "estimate": self.estimate}


def barycentre(mixture: MixtureModel, batches: Sequence[Batch], routes: Tensor | None = None) -> Gap:
    """The gap between the merge (Eq. 6) and the logits averaged over routes.

    routes: `[T, sites, sides]`; None takes every route there is. Raises ValueError for more than 4,096 of them: then
    draw some, `mixture.space.draw(generator, (T,))`.
    """
    check_batches(mixture, batches)
    device, _ = device_and_dtype(mixture)
    all_routes = mixture.space.enumerate() if routes is None else routes
    merge = {name: weight[None] for name, weight in point_of(mixture, head=False).items()}
    directions, weights = expert_directions(mixture)
    sums, rows = torch.zeros(4, dtype=torch.float64), 0
    with torch.no_grad(), evaluating(mixture), eager_attention(mixture.model):
        top, cache = try_cached_prefix(mixture)
        for given in batches:
            batch = cache(to_device(given, device))
            gold, inputs = batch["labels"], without_labels(mixture.model, batch)
            parts = [shared_prefix(top, inputs, part).double().sum(0) for part in all_routes.split(AT_ONCE)]
            mean = torch.stack(parts).sum(0) / len(all_routes)
            for n, logits in enumerate((logits_at(top, batch, merge), mean[None])):
                sums[n] += losses(logits, gold).double().sum().cpu()
            for part in torch.arange(len(weights)).split(AT_ONCE):
                here = {name: weight.expand(len(part), *weight.shape[1:]) for name, weight in merge.items()}
                value, slope, second = derivatives(top, batch, here, {name: d[part] for name, d in directions.items()})
                sums[2:] += torch.stack([second, variance(value, slope).sum(-1)]).double().cpu() @ weights[part]
            rows += len(gold)
    merged, ensemble, curvature, spread = (sums / rows).tolist()
    return Gap(merged, ensemble, -curvature / 2, spread / 2)


def expert_directions(mixture: MixtureModel) -> tuple[Point, Tensor]:
    """From the merge to each expert of each independent side: displacements `[D, ...]` by name, and 1/M `[D]` each.

    Sides that are routed together (tied) move together; shared ones do not move.
    """
    merge = point_of(mixture, head=False)
    directions: list[Point] = []
    weights: list[float] = []
    for path, layer in mixture.sites.items():
        counts = layer.counts()
        for group in [range(len(counts))] if mixture.mixture.tied else [(n,) for n in range(len(counts))]:
            experts = max(counts[side] for side in group)
            for expert in range(experts if experts > 1 else 0):
                moved = {name: torch.zeros_like(weight) for name, weight in merge.items()}
                for name, stacked in layer.experts.items():
                    if layer.side_of[name] in group and len(stacked) > 1:
                        key = f"experts.{path}.{name}"
                        moved[key] = stacked[expert].detach() - merge[key]
                directions.append(moved)
                weights.append(1 / experts)
    if not directions:
        raise LabError("The mixture has one expert a side: expected two or more, else merge and ensemble are one.")
    return {name: torch.stack([d[name] for d in directions]) for name in merge}, torch.tensor(weights).double()


def derivatives(mixture: MixtureModel, batch: Batch, points: Point, directions: Point) -> tuple[Tensor, Tensor, Tensor]:
    """At K points: logits `[K, B, C]`, their derivatives along K directions, and the loss's second ones `[K]`.

    The first are a forward-mode pass, the second two backward passes, both exact. (Forward mode twice would be one
    pass, but PyTorch's second derivative of a layer norm is wrong that way.) The loss is summed over rows. Attention
    must be eager (`eager_attention`).
    """
    first = next(iter(points.values()))
    at = torch.zeros(len(first), dtype=first.dtype, device=first.device)

    def logits(along: Tensor) -> Tensor:
        moved = {
            name: weight + along.view(-1, *([1] * (weight.dim() - 1))) * directions[name]
            for name, weight in points.items()
        }
        return logits_at(mixture, batch, moved)

    f, slope, *_ = torch.func.jvp(logits, (at,), (torch.ones_like(at),))
    with torch.enable_grad():
        at.requires_grad_()
        (rise,) = torch.autograd.grad(losses(logits(at), batch["labels"]).sum(), at, create_graph=True)
        (second,) = torch.autograd.grad(rise.sum(), at)
    return f, slope, second


def losses(logits: Tensor, gold: Tensor) -> Tensor:
    """Cross-entropy `[K, B]` of logits `[K, B, C]`."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), gold.repeat(len(logits)), reduction="none").view(len(logits), -1)


def variance(logits: Tensor, values: Tensor) -> Tensor:
    """Var over classes of values `[K, B, C]` with the probabilities softmax(logits): `[K, B]`."""
    p = logits.softmax(-1)
    mean = (p * values).sum(-1, keepdim=True)
    return (p * (values - mean).square()).sum(-1)
