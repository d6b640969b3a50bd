"""Experts compared, the loss around them, and what merging costs: likeness, curvature, second-order estimates.

Curvature is that of the loss restricted to the adapters. Hessian-vector products are exact (two backward passes);
eigenvalues are ARPACK's Lanczos iteration over them, the trace is Hutchinson's estimate.

The estimates compare averaged weights with averaged *logits*. Expanding both around the average gives

- for two end points (Wortsman et al., 2022, section 4), `L(average) - L(ensemble) ~ a(1 - a)/2 [-L'' + E Var(df)]`;
- for M experts on independent sides s, at the barycentre,
  `L_AM - L_Ens ~ 1/2 sum_s 1/M sum_i [-D_si^2 L + E Var(D_si f)]`.

L'' is the loss's second derivative along the way from one to the other, df the difference of logits, Var over the
classes with the probabilities that the averaged weights predict. Fused attention has no second derivative, so
attention runs eagerly meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from adamix_lab.analysis.landscape import check_batches, check_points, target_logits, targets
from adamix_lab.analysis.points import Point, cache_batches, inputs_of, logits_at, point_of, stack_points
from adamix_lab.core.calls import noting
from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.mixture import MixtureLayer, evaluating
from adamix_lab.core.objective import predicts_next
from adamix_lab.core.views import Batch
from adamix_lab.fast.views import shared_prefix
from adamix_lab.models.model import MixtureModel

Row = dict[str, Any]
AT_ONCE = 16  # points a pass

# -- likeness: directions of experts' weights, the spaces they span, what they add to the hidden states ---------------


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two tensors of equal shape, flattened; nan where one is zero."""
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features `[n, d]` and `[n, e]` of the same rows (Kornblith et al., 2019).

    1 where they agree up to a rotation and a scale. Raises ValueError for different numbers of rows.
    """
    if len(x) != len(y):
        raise LabError(f"Features of {len(x)} and {len(y)} rows cannot be aligned: expected the same rows.")
    x, y = (f.double() - f.double().mean(0) for f in (x, y))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def expert_similarity(mixture: MixtureModel, batch: Batch) -> list[Row]:
    """Every pair of experts at every site, one row a measure.

    - "cosine": of a side's weights, flattened; shared sides are left out;
    - "angle": the mean principal angle in degrees between the spaces that a side's matrices span in model width
      (rows of a down-projection or A, columns of an up-projection or B); 90 is orthogonal;
    - "cka": of what the two add to the frozen output, on the site's inputs in the merged pass (padding left out).

    Returns:
        Rows with site, side ("" for cka), measure, first, second, value.
    """
    inputs = site_inputs(mixture, batch)
    rows: list[Row] = []
    for path, layer in mixture.sites.items():
        updates = [_update(layer, inputs[path], expert) for expert in range(max(layer.counts()))]
        for first, second in itertools.combinations(range(len(updates)), 2):
            found = [*_weight_similarity(layer, first, second)]
            found.append(("", "cka", linear_cka(updates[first], updates[second])))
            rows += [
                {"site": path, "side": side, "measure": measure, "first": first, "second": second, "value": value}
                for side, measure, value in found
            ]
    return rows


def _weight_similarity(layer: MixtureLayer, first: int, second: int) -> Iterator[tuple[str, str, float]]:
    from scipy.linalg import subspace_angles

    for number, side in enumerate(layer.adaptation.sides):
        mine = [w.detach() for name, w in layer.experts.items() if layer.side_of[name] == number and len(w) > 1]
        if not mine:
            continue
        yield side, "cosine", cosine(*(torch.cat([w[n].flatten() for w in mine]) for n in (first, second)))
        # the long way is model width, whichever side it is
        matrices = [(w if w.shape[1] >= w.shape[2] else w.mT).double().cpu().numpy() for w in mine if w.dim() == 3]
        angles = [torch.as_tensor(subspace_angles(w[first], w[second])) for w in matrices]
        if angles:
            yield side, "angle", float(torch.cat(angles).rad2deg().mean())


@torch.no_grad()
def _update(layer: MixtureLayer, x: Tensor, expert: int) -> Tensor:
    route = torch.tensor([min(expert, count - 1) for count in layer.counts()], device=x.device)
    return (layer.adaptation.apply(layer.base, x, layer.weights(route), False) - layer.base(x)).float()


@torch.no_grad()
def site_inputs(mixture: MixtureModel, batch: Batch) -> dict[str, Tensor]:
    """What each site reads in the merged pass, `[tokens, in]`, without padding; in evaluation mode."""
    mask = batch.get("attention_mask")

    def real(x: Tensor) -> Tensor:
        return x[mask.bool()] if mask is not None and x.shape[:2] == mask.shape else x.flatten(0, -2)

    with evaluating(mixture), noting(mixture.sites) as inputs:
        mixture(selection="merge", **inputs_of(mixture, batch))
    return {path: real(x) for path, x in inputs.items()}


# -- curvature -------------------------------------------------------------------------------------------------------


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


class AdapterLoss:
    """The mean loss over batches as a function of one flat vector: a displacement `[P]` of a point's weights.

    Args:
        mixture: never changed.
        batches: with labels; what lies below the first site is computed once, here.
        point: where displacements start; None is the merge.
        head: whether the head moves, too.

    Raises ValueError for no batches, a regression, or a point that is not finite or does not fit.
    """

    def __init__(
        self, mixture: MixtureModel, batches: Sequence[Batch], point: Point | None = None, head: bool = False
    ) -> None:
        check_batches(mixture, batches)
        stacked = stack_points([point_of(mixture, head=head) if point is None else point], ["The point"])
        self.point = {name: weight[0] for name, weight in stacked.items() if head or name.startswith("experts.")}
        self.mixture = mixture
        self.shift = predicts_next(mixture.model)
        self.top, self.batches = cache_batches(mixture, batches)
        self.rows = sum(len(targets(batch["labels"], self.shift)[1]) for batch in self.batches)

    @property
    def size(self) -> int:
        """P, the number of weights that move."""
        return sum(weight.numel() for weight in self.point.values())

    def zero(self) -> Tensor:
        """No displacement, `[P]`, in the weights' dtype and place."""
        return torch.zeros(self.size).to(next(iter(self.point.values())))

    def value(self, displacement: Tensor | None = None) -> float:
        """The loss in nats a row."""
        with torch.no_grad():
            return float(sum(self._sums(self._displaced(displacement))) / self.rows)

    def gradient(self, displacement: Tensor | None = None) -> Tensor:
        """The gradient `[P]`."""
        at = self._displaced(displacement).requires_grad_()
        with torch.enable_grad():
            parts = [torch.autograd.grad(loss, at)[0] for loss in self._sums(at)]
        return torch.stack(parts).sum(0) / self.rows

    def hvp(self, direction: Tensor, displacement: Tensor | None = None) -> Tensor:
        """The Hessian times a direction, `[P]`."""
        at, product = self._displaced(displacement).requires_grad_(), self.zero()
        with torch.enable_grad():
            for loss in self._sums(at):
                (gradient,) = torch.autograd.grad(loss, at, create_graph=True)
                product += torch.autograd.grad(gradient @ direction, at)[0]
        return product / self.rows

    def _displaced(self, displacement: Tensor | None) -> Tensor:
        return (self.zero() if displacement is None else displacement).detach().clone()

    def _sums(self, displacement: Tensor) -> Iterator[Tensor]:
        # the loss summed over the rows of one batch after another
        for batch in self.batches:
            with evaluating(self.mixture), eager_attention(self.mixture.model):
                weights = {name: weight[None] for name, weight in self._moved(displacement).items()}
                keep, gold = targets(batch["labels"], self.shift)
                logits = target_logits(logits_at(self.top, batch, weights), keep, self.shift)[0]
            yield F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), gold, reduction="sum")

    def _moved(self, displacement: Tensor) -> Point:
        parts = displacement.split([weight.numel() for weight in self.point.values()])
        return {
            name: weight + part.view_as(weight) for (name, weight), part in zip(self.point.items(), parts, strict=True)
        }


def top_eigenvalues(loss: AdapterLoss, number: int = 3, seed: int = 0) -> list[float]:
    """The largest eigenvalues of the Hessian, greatest first (Lanczos).

    Raises ValueError unless 1 <= number < P - 1.
    """
    from numpy import ndarray
    from scipy.sparse.linalg import LinearOperator, eigsh

    positive("number", number)
    if number >= loss.size - 1:
        raise LabError(f"number = {number}: expected fewer than the {loss.size} weights that move, less one.")

    def product(vector: ndarray) -> ndarray:
        return loss.hvp(torch.from_numpy(vector.reshape(-1).copy()).to(loss.zero())).double().cpu().numpy()

    start = torch.randn(loss.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    operator = LinearOperator((loss.size, loss.size), matvec=product, dtype="float64")
    found = eigsh(operator, number, which="LA", v0=start, tol=1e-3, return_eigenvectors=False)
    return sorted(map(float, found), reverse=True)


def trace(loss: AdapterLoss, generator: Generator, probes: int = 16) -> tuple[float, float]:
    """(the Hessian's trace, its standard error), from random signs (Hutchinson, 1990). Raises ValueError below 2."""
    if probes < 2:
        raise LabError(f"probes = {probes}: expected at least 2, for a standard error.")
    found = []
    for _ in range(probes):
        signs = torch.randint(0, 2, (loss.size,), generator=generator).mul(2).sub(1).to(loss.zero())
        found.append(float(signs @ loss.hvp(signs)))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std() / probes**0.5)


def sharpness(loss: AdapterLoss, share: float = 0.05) -> float:
    """The rise of the loss after one step up the gradient, as long as a share of the weights (Foret et al., 2021)."""
    gradient = loss.gradient()
    length = share * torch.cat([weight.flatten() for weight in loss.point.values()]).norm()
    return loss.value(gradient * (length / gradient.norm().clamp_min(1e-30))) - loss.value()


def curvature(mixture: MixtureModel, batches: Sequence[Batch], seed: int = 0, probes: int = 16) -> dict[str, Any]:
    """Top eigenvalue, trace and sharpness at the merge, adapters only, as one row of a table."""
    loss = AdapterLoss(mixture, batches)
    spur, error = trace(loss, torch.Generator().manual_seed(seed), probes)
    return {
        "loss": loss.value(), "top_eigenvalue": top_eigenvalues(loss, 1, seed)[0], "trace": spur, "trace_error": error,
        "sharpness": sharpness(loss), "weights": loss.size, "rows": loss.rows, "seed": seed,
    }  # fmt: skip


# -- merging against ensembling: estimates of the difference in loss, beside the difference itself -------------------


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


def two_points(
    mixture: MixtureModel, pairs: Sequence[tuple[Point, Point]], batches: Sequence[Batch], share: float = 0.5
) -> list[Gap]:
    """The gap between each pair's weights averaged (`share` of the second) and their logits averaged likewise.

    Raises ValueError for no pairs or batches, points that do not fit, or a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise LabError(f"share = {share}: expected a number between 0 and 1, both excluded.")
    check_batches(mixture, batches)
    first, second = (stack_points([pair[n] for pair in pairs]) for n in range(2))
    check_points(mixture, stack_points(pairs[0]))
    sums, rows = torch.zeros(4, len(pairs), dtype=torch.float64), 0
    with torch.no_grad(), evaluating(mixture), eager_attention(mixture.model):
        top, cached = cache_batches(mixture, batches)
        for batch in cached:
            gold = batch["labels"]
            for part in torch.arange(len(pairs)).split(AT_ONCE):
                ends = [{name: stacked[part] for name, stacked in side.items()} for side in (first, second)]
                average = {name: torch.lerp(ends[0][name], ends[1][name], share) for name in first}
                direction = {name: ends[1][name] - ends[0][name] for name in first}
                f, _, second_derivative = derivatives(top, batch, average, direction)
                left, right = (logits_at(top, batch, end) for end in ends)
                by_row = (losses(f, gold), losses(torch.lerp(left, right, share), gold), variance(f, right - left))
                sums[:, part] += torch.stack([*(v.double().sum(-1) for v in by_row), second_derivative.double()]).cpu()
            rows += len(gold)
    half = share * (1 - share) / 2
    return [Gap(m, e, -half * c, half * v) for m, e, v, c in (sums / rows).T.tolist()]


def barycentre(mixture: MixtureModel, batches: Sequence[Batch], routes: Tensor | None = None) -> Gap:
    """The gap between the merge (Eq. 6) and the logits averaged over routes.

    routes: `[T, sites, sides]`; None takes every route there is. Raises ValueError for more than 4,096 of them: then
    draw some, `mixture.space.draw(generator, (T,))`.
    """
    check_batches(mixture, batches)
    all_routes = mixture.space.enumerate() if routes is None else routes
    merge = {name: weight[None] for name, weight in point_of(mixture, head=False).items()}
    directions, weights = expert_directions(mixture)
    sums, rows = torch.zeros(4, dtype=torch.float64), 0
    with torch.no_grad(), evaluating(mixture), eager_attention(mixture.model):
        top, cached = cache_batches(mixture, batches)
        for batch in cached:
            gold, inputs = batch["labels"], {name: value for name, value in batch.items() if name != "labels"}
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
    number = len(logits)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), gold.repeat(number), reduction="none").view(number, -1)


def variance(logits: Tensor, values: Tensor) -> Tensor:
    """Var over classes of values `[K, B, C]` with the probabilities softmax(logits): `[K, B]`."""
    p = logits.softmax(-1)
    mean = (p * values).sum(-1, keepdim=True)
    return (p * (values - mean).square()).sum(-1)


def contract(first: Point, second: Point, share: float) -> tuple[Point, Point]:
    """Both points moved towards their middle, to a share of their distance (1: as they are)."""
    middle = {name: (first[name] + second[name]) / 2 for name in first}
    one, other = ({name: torch.lerp(middle[name], end[name], share) for name in end} for end in (first, second))
    return one, other
