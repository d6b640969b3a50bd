"""Points of adapter space, and lines, planes and simplices of them.

A point is one module's effective weights at every site, and the head's, by name. A set of points is a combination of
a few *anchors*: lines, planes and simplices differ only in their coefficients, and the head moves with the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from adamix_lab.core.errors import LabError, positive, whole
from adamix_lab.core.objective import without_labels
from adamix_lab.core.views import Batch, by_row, logits_of, repeat
from adamix_lab.fast.blocks import fanned_logits, fans_out
from adamix_lab.fast.prefix import shallow_copy, with_module
from adamix_lab.models.model import MixtureModel

Point = dict[str, Tensor]


def point_of(mixture: MixtureModel, selection: Tensor | None = None, head: bool = True) -> Point:
    """The effective weights at a route `[sites, sides]` or mixture point `[sites, sides, M]`; None: the merge.

    Returns:
        `experts.<site>.<name>` without the axis of experts and, with `head`, `head.<path>.<name>`: detached copies.
        Raises ValueError for a selection that does not fit.
    """
    if selection is not None:
        check = mixture.space.check_point if selection.is_floating_point() else mixture.space.check
        check(selection)
    point: Point = {}
    for n, (path, layer) in enumerate(mixture.sites.items()):
        here = None if selection is None else selection[n].to(layer.weight.device)
        point |= {f"experts.{path}.{name}": w.detach().clone() for name, w in layer.weights(here).items()}
    if head:
        point |= {f"head.{name}": p.detach().clone() for name, p in mixture.head_parameters()}
    return point


def experts_of(mixture: MixtureModel, number: int) -> dict[str, Point]:
    """The first experts as named points. Raises ValueError where the mixture has fewer."""
    if mixture.space.experts < number:
        raise LabError(f"The mixture has {mixture.space.experts} experts: expected {number} or more for this kind.")
    return {f"expert {n}": point_of(mixture, mixture.space.fixed(n)) for n in range(number)}


def stack_points(points: Sequence[Point], names: Sequence[str] | None = None) -> Point:
    """Points side by side, `[A, ...]` each.

    Raises ValueError for points of different models (what differs is named) and for weights that are not finite.
    """
    if not points:
        raise LabError("No points were given: expected at least one (see point_of).")
    names, first = names or [f"point {n}" for n in range(len(points))], points[0]
    for name, point in zip(names, points, strict=True):
        shapes = [{key: list(weight.shape) for key, weight in each.items()} for each in (first, point)]
        differing = [key for key in sorted(first.keys() | point.keys()) if shapes[0].get(key) != shapes[1].get(key)]
        if differing:
            what = " and ".join(str(shape.get(differing[0], "missing")) for shape in shapes)
            raise LabError(
                f"{names[0]} and {name} are points of different models: {differing[0]} is {what}. Expected the same "
                "adaptation, sites and head; compare models that were attached alike."
            )
        broken = [key for key, weight in point.items() if not bool(torch.isfinite(weight).all())]
        if broken:
            raise LabError(
                f"{name} holds NaN or infinite weights in {broken[0]} ({len(broken)} of {len(point)} tensors): "
                "expected finite ones. Its training diverged; take an earlier checkpoint."
            )
    return {key: torch.stack([point[key] for point in points]) for key in first}


@dataclass(frozen=True)
class Grid:
    """N points and some named ones (marks), each a combination of A anchors.

    Attributes:
        kind: "line", "plane", "random plane" or "simplex".
        coefficients: `[N + marks, A]`, float64; the marks come last.
        axes: the coordinates by name, `[N + marks]` each.
        shape: of the N points as a grid; (N,) where they form none.
        marks: names of the last points.
        references: the marks that consistency is measured against.
    """

    kind: str
    coefficients: Tensor
    axes: dict[str, Tensor]
    shape: tuple[int, ...]
    marks: tuple[str, ...]
    references: tuple[str, ...]

    def __len__(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Points(Grid):
    """A grid and what its points are combined of.

    Attributes:
        anchors: stacked weights `[A, ...]` by name.
    """

    anchors: Point

    def weights(self, start: int, stop: int) -> Point:
        """The weights of points `start` to `stop` (marks count on after the N), `[K, ...]` each."""
        rows = self.coefficients[start:stop]
        return {name: torch.tensordot(rows.to(anchors), anchors, dims=1) for name, anchors in self.anchors.items()}


def line(ends: Mapping[str, Point], steps: int = 21, beyond: float = 0.0) -> Points:
    """From one named point to another; t runs from 0 to 1, and a share `beyond` past both ends.

    Raises ValueError unless two different points are given.
    """
    names, anchors = _named(ends, 2, "A line")
    way = _difference(anchors, 1)
    if dot(way, way) == 0:
        raise LabError(f"{names[0]} and {names[1]} are the same point: expected two that differ.")
    t = torch.cat([_ticks(-beyond, 1 + beyond, steps), _double([0, 1])])
    return Points("line", torch.stack([1 - t, t], -1), {"t": t}, (steps,), names, names, anchors)


def plane(corners: Mapping[str, Point], steps: int = 21, margin: float = 0.2) -> Points:
    """The plane through three named points (Garipov et al., 2018), in units of distance between weights.

    The first point is the origin, the second lies on the x axis. The grid is the box around the three with a share
    `margin` of its sides on each side. Raises ValueError for three points on one line.
    """
    names, anchors = _named(corners, 3, "A plane")
    to_second, to_third = _difference(anchors, 1), _difference(anchors, 2)
    width, length = math.sqrt(dot(to_second, to_second)), math.sqrt(dot(to_third, to_third))
    along = dot(to_second, to_third) / width if width else 0.0
    rest = {key: to_third[key] - along / (width or 1.0) * to_second[key] for key in to_third}
    height = math.sqrt(dot(rest, rest))
    if not width or height <= 1e-6 * max(length, width):
        raise LabError(
            f"{', '.join(names)} lie on one line (the third is {height:.2g} away from it, the points {width:.2g} "
            "apart): a plane needs three points that do not. Take line() through two of them, or another third point."
        )
    corner = _double([[0, 0], [width, 0], [along, height]])
    low, high = corner.amin(0), corner.amax(0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    x, y = _mesh(*(_ticks(float(a), float(b), steps) for a, b in zip(low, high, strict=True)))
    third = y / height
    second = (x - along * third) / width
    inside = torch.stack([1 - second - third, second, third], -1)
    axes = {"x": torch.cat([x, corner[:, 0]]), "y": torch.cat([y, corner[:, 1]])}
    return Points("plane", torch.cat([inside, _double(torch.eye(3))]), axes, (steps, steps), names, names, anchors)


def random_plane(origin: Mapping[str, Point], generator: Generator, steps: int = 21) -> Points:
    """Two random directions around a named point, each filter as long as the point's own (Li et al., 2018).

    Coordinates run from -1 to 1, where a direction adds to every filter as much as it measures.
    """
    names, anchors = _named(origin, 1, "A random plane")
    centre = {key: stacked[0] for key, stacked in anchors.items()}
    first, second = (filter_normalised(centre, generator) for _ in range(2))
    anchors = {key: torch.stack([centre[key], first[key], second[key]]) for key in centre}
    ticks = _ticks(-1, 1, steps)
    x, y = (torch.cat([axis, _double([0])]) for axis in _mesh(ticks, ticks))
    coefficients = torch.stack([torch.ones_like(x), x, y], -1)
    return Points("random plane", coefficients, {"x": x, "y": y}, (steps, steps), names, names, anchors)


def filter_normalised(point: Point, generator: Generator) -> Point:
    """A random direction; each row of a matrix, and each vector, has the norm of the point's (Li et al., 2018)."""
    direction: Point = {}
    for name, weight in point.items():
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)
        direction[name] = drawn * (weight.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))
    return direction


def simplex(vertices: Mapping[str, Point], steps: int = 10) -> Points:
    """All mixtures of three named points (a triangle), weights in multiples of 1 / steps.

    A coordinate is a weight; the mean of the vertices is marked "mean". Raises ValueError unless three are given.
    """
    positive("steps", steps)
    names, anchors = _named(vertices, 3, "A simplex")
    counts = [each for each in itertools.product(range(steps + 1), repeat=3) if sum(each) == steps]
    coefficients = torch.cat([_double(counts) / steps, _double(torch.eye(3)), _double([[1 / 3] * 3])])
    axes = {name: coefficients[:, n] for n, name in enumerate(names)}
    return Points("simplex", coefficients, axes, (len(counts),), (*names, "mean"), names, anchors)


def dot(first: Point, second: Point) -> float:
    """The inner product of two points, in float64."""
    return sum(float((first[name].double() * second[name].double()).sum()) for name in first)


def _named(points: Mapping[str, Point], number: int, what: str) -> tuple[tuple[str, ...], Point]:
    if len(points) != number:
        raise LabError(f"{what} was given {len(points)} points: expected {number}, by name.")
    return tuple(points), stack_points(list(points.values()), list(points))


def _difference(anchors: Point, n: int) -> Point:
    return {name: stacked[n].double() - stacked[0].double() for name, stacked in anchors.items()}


def _ticks(start: float, stop: float, steps: int) -> Tensor:
    whole("steps", steps, 2)
    return torch.linspace(start, stop, steps, dtype=torch.float64)


def _mesh(first: Tensor, second: Tensor) -> list[Tensor]:
    return [axis.flatten() for axis in torch.meshgrid(first, second, indexing="ij")]


def _double(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


# -- several points of adapter space in one pass: K weights a site over one batch, and K heads -----------------------
# The model itself is never written to. A pass runs in a shallow copy whose head takes K sets of weights; the sites get
# theirs by a selection that is taken back when the pass ends, whatever happens in it.


def device_and_dtype(mixture: MixtureModel) -> tuple[torch.device, torch.dtype]:
    """Where the mixture is and in which dtype its frozen layers answer."""
    weight = next(p for p in mixture.model.parameters() if p.is_floating_point())
    return weight.device, weight.dtype


def logits_at(mixture: MixtureModel, batch: Batch, points: Point) -> Tensor:
    """Logits `[K, B, ...]` of a batch at K points, `[K, ...]` each; `batch` may hold cached states.

    What lies below the first site runs once for all K where the model's family allows it. Points without a head
    take the mixture's own.
    """
    number = len(next(iter(points.values())))
    selection = {
        path: {name: points[f"experts.{path}.{name}"] for name in layer.experts}
        for path, layer in mixture.sites.items()
    }
    served = with_heads(mixture, points)
    inputs = without_labels(served.model, batch)
    if fans_out(mixture, inputs):
        return fanned_logits(served, inputs, selection, number, mixture.model)
    if number > 1 and not mixture.takes_groups(inputs).permitted:
        alone = [{name: weight[n : n + 1] for name, weight in points.items()} for n in range(number)]
        return torch.cat([logits_at(mixture, batch, point) for point in alone])
    with served.select(selection):
        logits = logits_of(served.model(**by_row(inputs, lambda value: repeat(value, number))))
    return logits.unflatten(0, (number, -1))


def with_heads(mixture: MixtureModel, points: Point) -> MixtureModel:
    """A shallow copy of the mixture whose head applies K sets of weights; itself where the points have no head."""
    if not any(name.startswith("head.") for name in points):
        return mixture
    served = shallow_copy(mixture)
    for path, module in mixture.head.items():
        weights = {name: points[f"head.{path}.{name}"].to(p.dtype) for name, p in module.named_parameters()}
        served.model = with_module(served.model, path, StackedHead(module, weights))
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


# -- one function has many weights: the units inside a bottleneck have no order ---------------------------------------
# Permute the rows of the down projection, its bias and the columns of the up projection alike, and the function is the
# same. Means of weights are not.

Tensors = dict[str, Tensor]  # `experts.<site>.<name>`, `[M, ...]` each, as `trained_tensors` gives them


def bottleneck_sites(tensors: Tensors) -> Iterator[str]:
    """The prefixes `experts.<site>.` of bottleneck sites. Raises ValueError for none, or for a shared side."""
    found = [name.removesuffix("down") for name in tensors if name.endswith(".down")]
    if not found:
        raise LabError("No bottleneck was found: expected weights down, down_bias, up and up_bias at some site.")
    for site in found:
        if len(tensors[f"{site}down"]) != len(tensors[f"{site}up"]):
            raise LabError(f"{site[8:-1]} shares a side among experts: expected experts that have both sides each.")
    yield from found


def permute_units(tensors: Tensors, site: str, expert: int, order: Tensor) -> Tensors:
    """One expert's units in another order, at one site; the function it computes is unchanged."""
    changed = {name: tensors[f"{site}{name}"].clone() for name in ("down", "down_bias", "up")}
    changed["down"][expert] = changed["down"][expert][order]  # [r, d]
    changed["down_bias"][expert] = changed["down_bias"][expert][order]  # [r]
    changed["up"][expert] = changed["up"][expert][:, order]  # [d, r]
    return {**tensors, **{f"{site}{name}": weight for name, weight in changed.items()}}


def permuted_copies(tensors: Tensors, expert: int, generator: Generator) -> Tensors:
    """All M experts become one expert, each copy with its units in a random order (the first as it is)."""
    copies = {
        name: stacked[expert].expand_as(stacked).clone() if name.startswith("experts.") else stacked
        for name, stacked in tensors.items()
    }
    for site in bottleneck_sites(tensors):
        experts, units = copies[f"{site}down"].shape[:2]
        for copy in range(1, experts):
            copies = permute_units(copies, site, copy, torch.randperm(units, generator=generator))
    return copies


def aligned(tensors: Tensors) -> Tensors:
    """Every expert's units in the order that matches those of expert 0 best, site by site.

    The match is the assignment with the largest sum of inner products of units (a unit: its row of down, its bias and
    its column of up), after Singh and Jaggi (2020) and Ainsworth et al. (2023). Needs scipy.
    """
    from scipy.optimize import linear_sum_assignment

    for site in bottleneck_sites(tensors):
        units = torch.cat(
            [tensors[f"{site}down"], tensors[f"{site}down_bias"][..., None], tensors[f"{site}up"].mT], -1
        )  # [M, r, 2d + 1]
        for expert in range(len(units)):
            likeness = (units[0] @ units[expert].mT).double()
            order = torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])
            tensors = permute_units(tensors, site, expert, order)
    return tensors
