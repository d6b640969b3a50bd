"""Merging against ensembling: second-order estimates of the difference in loss, beside the difference itself.

Both compare averaged weights with averaged *logits*. Expanding weights and logits around the average gives

- for two end points (Wortsman et al., 2022, section 4), `L(average) - L(ensemble) ~ a(1 - a)/2 [-L'' + E Var(df)]`;
- for M experts on independent sides s, at the barycentre,
  `L_AM - L_Ens ~ 1/2 sum_s 1/M sum_i [-D_si^2 L + E Var(D_si f)]`.

L'' is the loss's second derivative along the way from one to the other, df the difference of logits, Var over the
classes with the probabilities that the averaged weights predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adamix_lab.analysis.curvature import eager_attention
from adamix_lab.analysis.landscape import mixture_place, refuse_batches, refuse_points
from adamix_lab.analysis.points import Point, above_prefix, anchored, logits_at, point_of
from adamix_lab.core.model import MixtureModel, evaluating
from adamix_lab.core.routing import RouteSpace
from adamix_lab.core.views import Batch
from adamix_lab.fast.views import shared_prefix


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
        terms = {name: getattr(self, name) for name in ("merged", "ensemble", "curvature", "variance")}
        return {**terms, "measured": self.measured, "estimate": self.estimate}


def two_points(
    mixture: MixtureModel,
    pairs: Sequence[tuple[Point, Point]],
    batches: Sequence[Batch],
    share: float = 0.5,
    at_once: int = 16,
) -> list[Gap]:
    """The gap between each pair's weights averaged (`share` of the second) and their logits averaged likewise.

    Raises ValueError for no pairs or batches, points that do not fit, or a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share = {share}: expected a number between 0 and 1, both excluded.")
    refuse_batches(mixture, batches)
    first, second = anchored([pair[0] for pair in pairs]), anchored([pair[1] for pair in pairs])
    refuse_points(mixture, anchored([pairs[0][0], pairs[0][1]]))
    found = []
    for start in range(0, len(pairs), at_once):
        ends = [{name: stacked[start : start + at_once] for name, stacked in side.items()} for side in (first, second)]
        found += _two_points(mixture, ends[0], ends[1], batches, share)
    return found


def _two_points(
    mixture: MixtureModel, first: Point, second: Point, batches: Sequence[Batch], share: float
) -> list[Gap]:
    average = {name: torch.lerp(first[name], second[name], share) for name in first}
    direction = {name: second[name] - first[name] for name in first}
    sums, rows = torch.zeros(4, len(next(iter(first.values()))), dtype=torch.float64), 0
    with torch.no_grad(), evaluating(mixture), eager_attention(mixture.model):
        top, cache = above_prefix(mixture)
        for batch in _on_device(mixture, batches):
            states, gold = cache(batch), batch["labels"]
            ends = [logits_at(top, states, end) for end in (first, second)]
            f, _, second_derivative = derivatives(top, states, average, direction)
            a_row = (losses(f, gold), losses(torch.lerp(ends[0], ends[1], share), gold), variance(f, ends[1] - ends[0]))
            sums += torch.stack([*(v.double().sum(-1) for v in a_row), second_derivative.double()]).cpu()
            rows += len(gold)
    half = share * (1 - share) / 2
    return [Gap(m, e, -half * c, half * v) for m, e, v, c in (sums / rows).T.tolist()]


def barycentre(mixture: MixtureModel, batches: Sequence[Batch], routes: Tensor | None = None, at_once: int = 16) -> Gap:
    """The gap between the merge (Eq. 6) and the logits averaged over routes.

    routes: `[T, sites, sides]`; None takes every route there is. Raises ValueError for more than 4,096 of them: then
    draw some, `mixture.space.draw(generator, (T,))`.
    """
    refuse_batches(mixture, batches)
    all_routes = mixture.space.enumerate() if routes is None else routes
    merge = point_of(mixture, head=False)
    directions, weights = expert_directions(mixture)
    sums, rows = torch.zeros(4, dtype=torch.float64), 0
    with torch.no_grad(), evaluating(mixture), eager_attention(mixture.model):
        top, cache = above_prefix(mixture)
        for batch in _on_device(mixture, batches):
            states, gold = cache(batch), batch["labels"]
            inputs = {name: value for name, value in states.items() if name != "labels"}
            f = logits_at(top, states, {name: weight[None] for name, weight in merge.items()})
            parts = [shared_prefix(top, inputs, part).double().sum(0) for part in all_routes.split(at_once)]
            total = torch.stack(parts).sum(0)
            found = [losses(f, gold).double().sum(), losses((total / len(all_routes))[None], gold).double().sum()]
            terms = torch.zeros(2, dtype=torch.float64)
            for start in range(0, len(weights), at_once):
                some = {name: d[start : start + at_once] for name, d in directions.items()}
                number = len(weights[start : start + at_once])
                here = {name: weight.expand(number, *weight.shape) for name, weight in merge.items()}
                value, slope, second = derivatives(top, states, here, some)
                terms += (
                    torch.stack([second, variance(value, slope).sum(-1)]).double().cpu()
                    @ weights[start : start + at_once]
                )
            sums += torch.stack([*(v.cpu() for v in found), *terms])
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
        sides = [range(len(counts))] if mixture.mixture.tied else [(n,) for n in range(len(counts))]
        for group in sides:
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
        raise ValueError("The mixture has one expert a side: expected two or more, else merge and ensemble are one.")
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
    number = len(logits)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), gold.repeat(number), reduction="none").view(number, -1)


def variance(logits: Tensor, values: Tensor) -> Tensor:
    """Var over classes of values `[K, B, C]` with the probabilities softmax(logits): `[K, B]`."""
    p = logits.softmax(-1)
    mean = (p * values).sum(-1, keepdim=True)
    return (p * (values - mean).square()).sum(-1)


def pulled(first: Point, second: Point, share: float) -> tuple[Point, Point]:
    """Both points moved towards their middle, to a share of their distance (1: as they are)."""
    middle = {name: (first[name] + second[name]) / 2 for name in first}
    one, other = ({name: torch.lerp(middle[name], end[name], share) for name in end} for end in (first, second))
    return one, other


@torch.no_grad()
def product_gap(mixture: MixtureModel) -> dict[str, float]:
    """How far the update of the merged weights is from the routes' mean update, a site, relative to the latter.

    For LoRA that is mean(B) mean(A) against the mean of B A over routes: equal where a side is shared or the sides
    are routed independently; where they are tied, the gap is the covariance `1/M sum (B_i - mean B)(A_i - mean A)`.

    Raises ValueError for adaptations that are not linear (bottleneck: see `merging.merge_gap`).
    """
    gaps = {}
    for path, layer in mixture.sites.items():
        weight = layer.weight.float().mT if hasattr(layer.base, "nf") else layer.weight.float()

        def update(selection: Tensor | None, layer=layer, weight=weight) -> Tensor:  # type: ignore[no-untyped-def]
            folded, _ = layer.adaptation.fold(layer.weights(selection), weight, None)
            return folded - weight

        routes = RouteSpace((layer.counts(),), mixture.mixture.tied).enumerate()[:, 0].to(weight.device)
        mean = sum((update(route) for route in routes), torch.zeros_like(weight)) / len(routes)
        size = float(mean.norm())
        gaps[path] = float((update(None) - mean).norm()) / size if size else 0.0
    return gaps


def _on_device(mixture: MixtureModel, batches: Sequence[Batch]) -> list[Batch]:
    device, _ = mixture_place(mixture)
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]
