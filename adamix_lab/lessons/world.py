"""The one-dimensional world: the frozen model is a straight line, adapters bend it, and all of it can be drawn.

A layer is the library's own (`core.adaptations.Bottleneck`, weighed by `core.mixture.effective`) around a frozen line
from one number to one number. So an expert is a curve, the ensemble is the mean of the curves, and the merge is one
more curve, which lies on that mean or does not. `HIDES` says what one dimension does not show.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, fix_margins, new_figure
from adamix_lab.analysis.points import Tensors, aligned, bottleneck_sites, permute_units
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.errors import LabError, finite, fraction, one_of, whole
from adamix_lab.core.mixture import effective
from adamix_lab.core.routing import RouteSpace, generator_for
from adamix_lab.experiments.performing import cpu_threads
from adamix_lab.lessons.controls import described
from adamix_lab.lessons.widgets import Explorer, State, View

HIDES = described("one dimension")["hides"]
SIDES = {"down": 0, "down_bias": 0, "up": 1, "up_bias": 1}
SLOPE = 0.4  # of the frozen line
EDGE = 2.0  # rows lie between -EDGE and EDGE; curves are drawn a little beyond
ROWS, BATCH = 40, 16


@dataclass(frozen=True)
class World:
    """How the curves are trained.

    Attributes:
        experts: M, from 1 to 16.
        size: units of each bottleneck.
        shared: the side that all experts have in common, "up" or "down"; None: no side, an expert keeps both.
        together: True: AdaMix, a random route a step (Eq. 4). False: each expert alone, all the steps on rows of its
            own order, so M times the work; nothing is shared then.
        near: how far apart the experts start, from 0 (one start for all) to 1 (independent starts).
        consistency: weight of the second route's disagreement (Eq. 5): squared for a curve, symmetric KL for classes.
        steps: of Adam, on batches of 16 rows.
        noise: standard deviation of the rows around the curve; of two classes, the share of wrong labels.
        rate: the learning rate.
        layers: 1 or 2; with two a route is a pair of experts.
        classes: False: a curve to fit. True: two classes to tell, and the curves are probabilities.
        seed: of rows, starts, routes and batches.
    """

    experts: int = 4
    size: int = 12
    shared: str | None = "up"
    together: bool = True
    near: float = 0.0
    consistency: float = 0.0
    steps: int = 300
    noise: float = 0.25
    rate: float = 0.02
    layers: int = 1
    classes: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("experts", 1, 16), ("size", 1, 256), ("steps", 0, 100_000), ("layers", 1, 2)):
            whole(name, getattr(self, name), least, most)
        for name in ("near", "consistency", "noise", "rate"):
            finite(name, getattr(self, name), 0)
        if self.near > 1:
            raise LabError(f"near = {self.near:g}: expected a distance from 0 (one start) to 1 (independent starts).")
        if self.classes:
            fraction("noise, the share of wrong labels,", self.noise)
        if self.shared is not None:
            one_of("Side to share", self.shared, Bottleneck.sides)
        if not self.together and (self.shared or self.consistency):
            raise LabError(
                f"Experts trained apart with shared = {self.shared!r} and consistency = {self.consistency:g}: expected "
                "shared=None and consistency=0, for they never meet. Set these, or together=True."
            )


@dataclass(frozen=True)
class Curves:
    """What was trained, on the places of a grid.

    Attributes:
        world: how.
        weights: stacked by site, `[M, ...]`, `[1, ...]` on a shared side.
        grid: places `[G]`.
        routes: `[R, layers, 2]`, which experts each curve takes.
        experts: `[R, G]`, the curve of each expert or, with two layers, of each pair; of classes, probabilities.
        ensemble: `[G]`, the mean of those.
        merged: `[G]`, the curve of the mean weights (Eq. 6).
        rows: (x, y), `[40]` each.
        errors: "experts" (their mean), "ensemble", "merged": distance to the truth between -2 and 2. For a curve the
            root of the mean square; for classes the cross-entropy in nats of the right labels.
    """

    world: World
    weights: Tensors
    grid: Tensor
    routes: Tensor
    experts: Tensor
    ensemble: Tensor
    merged: Tensor
    rows: tuple[Tensor, Tensor]
    errors: dict[str, float]


def truth(world: World, x: Tensor) -> Tensor:
    """What is to be learnt at places x: a wave on the frozen line; of two classes, the sign of that wave as 0 and 1."""
    wave = torch.sin(2.5 * x)
    return (wave > 0).to(x) if world.classes else wave + SLOPE * x


def make_rows(world: World) -> tuple[Tensor, Tensor]:
    """The rows (x, y), `[40]` each, with their noise."""
    generator = generator_for(world.seed, 0)
    x = EDGE * (2 * torch.rand(ROWS, generator=generator) - 1)
    y = truth(world, x)
    if not world.classes:
        return x, y + world.noise * torch.randn(ROWS, generator=generator)
    wrong = torch.randperm(ROWS, generator=generator)[: round(world.noise * ROWS)]
    y[wrong] = 1 - y[wrong]
    return x, y


def start(world: World) -> Tensors:
    """Weights before the first step: a part common to all experts, and one of each expert's own."""
    generator = generator_for(world.seed, 1)

    def draw(side: str, scale: float, *shape: int) -> Tensor:
        common = torch.randn(1, *shape, generator=generator)
        own = torch.randn(world.experts, *shape, generator=generator)
        return scale * (common if side == world.shared else (1 - world.near**2) ** 0.5 * common + world.near * own)

    weights: Tensors = {}
    for layer in range(world.layers):
        weights |= {
            f"experts.{layer}.down": draw("down", 1.5, world.size, 1),
            f"experts.{layer}.down_bias": draw("down", 1.5, world.size),
            f"experts.{layer}.up": draw("up", 0.1, 1, world.size),
            f"experts.{layer}.up_bias": draw("up", 0.0, 1),
        }
    return weights


def space_of(weights: Tensors) -> RouteSpace:
    """The routes through stacked weights: one expert a layer, which takes both of its sides along."""
    downs = [name for name in weights if name.endswith(".down")]
    counts = tuple((len(weights[name]), len(weights[name.replace("down", "up")])) for name in downs)
    return RouteSpace(counts, tied=True)


def outputs(world: World, weights: Tensors, x: Tensor, routes: Tensor | None) -> Tensor:
    """From x `[K, B]` by K routes `[K, layers, 2]` (None: by the merge) to `[K, B]`; of two classes, logits."""
    adaptation, h = Bottleneck(world.size), x.reshape(-1, 1)
    for layer in range(world.layers):
        slope = SLOPE if layer == world.layers - 1 else 1.0
        chosen = None if routes is None else routes[:, layer]
        own = {name: effective(weights[f"experts.{layer}.{name}"], side, chosen) for name, side in SIDES.items()}
        h = adaptation.apply(lambda h, slope=slope: slope * h, h, own, True)  # type: ignore[misc]
    return h.reshape(x.shape)


@cpu_threads(1)  # on matrices this small threads wait for each other, seconds where others work
def train(world: World) -> Tensors:
    """The trained weights, a pure function of the world. 300 steps of one layer take 0.2 s of a processor."""
    x, y = make_rows(world)
    weights = {name: weight.requires_grad_() for name, weight in start(world).items()}
    space, generator = space_of(weights), generator_for(world.seed, 2)
    optimizer = torch.optim.Adam(list(weights.values()), world.rate)
    loss_of = F.binary_cross_entropy_with_logits if world.classes else F.mse_loss
    if world.together:
        routes, orders = space.draw(generator, (world.steps, 2)), 1
        routes = routes if world.consistency else routes[:, :1]
    else:
        apart = torch.stack([space.fixed(expert) for expert in range(world.experts)])
        routes, orders = apart.expand(world.steps, -1, -1, -1), world.experts
    batches = torch.randint(ROWS, (world.steps, orders, BATCH), generator=generator)
    for batch, views in zip(batches, routes, strict=True):
        z = outputs(world, weights, x[batch].expand(len(views), -1), views)
        loss = orders * loss_of(z[:orders], y[batch])  # the first view's, or the sum over experts trained apart
        if world.consistency:
            loss = loss + world.consistency * disagreement(world, *z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def disagreement(world: World, first: Tensor, second: Tensor) -> Tensor:
    """How far two views `[B]` disagree: symmetric KL of two classes, squared difference of a curve."""
    apart = first.sigmoid() - second.sigmoid() if world.classes else first - second
    return (apart * (first - second)).mean() * (0.5 if world.classes else 1.0)


def curves_of(world: World, weights: Tensors) -> Curves:
    """The curves of weights."""
    grid = torch.linspace(-1.25 * EDGE, 1.25 * EDGE, 201)
    routes, inside = space_of(weights).enumerate(), grid.abs() <= EDGE
    with torch.no_grad():
        experts = outputs(world, weights, grid.expand(len(routes), -1), routes)
        merged = outputs(world, weights, grid[None], None)[0]
    if world.classes:
        experts, merged = experts.sigmoid(), merged.sigmoid()
    told = {"experts": experts, "ensemble": experts.mean(0), "merged": merged}

    def error(curve: Tensor) -> float:
        here, right = curve[..., inside], truth(world, grid)[inside].expand_as(curve[..., inside])
        if world.classes:
            return float(F.binary_cross_entropy(here, right))
        return float((here - right).square().mean(-1).sqrt().mean())

    errors = {name: error(curve) for name, curve in told.items()}
    return Curves(world, weights, grid, routes, rows=make_rows(world), errors=errors, **told)


def train_world(world: World) -> Curves:
    """Trains a world and draws its curves on a grid.

    >>> curves = train_world(World(shared="down"))  # experts are up projections, which enter affinely
    >>> bool((curves.merged - curves.ensemble).abs().max() < 1e-5)
    True
    """
    return curves_of(world, train(world))


def permute(curves: Curves, expert: int = 1, seed: int = 0) -> Curves:
    """One expert's units in a random order, at each layer: its curve stays, the merge moves. No side is shared then.

    Raises ValueError for an expert that is not there.
    """
    whole("expert", expert, 0, curves.world.experts - 1)
    weights, generator = unshared(curves), generator_for(seed, expert)
    for site in bottleneck_sites(weights):
        order = torch.randperm(curves.world.size, generator=generator)
        weights = permute_units(weights, site, expert, order)
    return curves_of(curves.world, weights)


def align(curves: Curves) -> Curves:
    """Every expert's units in the order that fits those of expert 0 best (`aligned`)."""
    return curves_of(curves.world, aligned(unshared(curves)))


def unshared(curves: Curves) -> Tensors:
    """The weights with a copy of a shared side for each expert: the same functions."""
    return {name: w.expand(curves.world.experts, *w.shape[1:]).clone() for name, w in curves.weights.items()}


# -- the picture and the widget --------------------------------------------------------------------------------------

DRAWN = ("experts", "ensemble", "merge")  # each one and those before it


def draw_world(curves: Curves, title: str = "", drawn: str = "merge", route: int | None = None) -> View:
    """The rows, the experts' thin curves, the ensemble (dashed) and the merge (thick), for the back of a class.

    drawn: the last one of "experts", "ensemble", "merge" that is drawn. route: the number of a curve to be lit.

    Raises ValueError for another name, and for a route that is not there.
    """
    one_of("What is drawn", drawn, DRAWN)
    world, (x, y), grid = curves.world, curves.rows, curves.grid.numpy()
    if route is not None:
        whole("route", route, 0, len(curves.experts) - 1)
    figure, ax = new_figure(9.0, 5.0)
    wrong = (y != truth(world, x)) if world.classes else torch.zeros(len(y), dtype=torch.bool)
    ax.plot(x[~wrong], y[~wrong], "o", color="#999999", markersize=9, alpha=0.7)
    ax.plot(x[wrong], y[wrong], "X", color="#D55E00", markersize=11, label="wrong labels" if wrong.any() else None)
    ax.plot(grid, truth(world, curves.grid), ":", color="black", linewidth=2, label="truth")
    lines = ax.plot(grid, curves.experts.T.numpy(), color=STYLES["fixed"][0], linewidth=2.5, alpha=0.8)
    lines[0].set_label("experts" if world.layers == 1 else "routes: pairs of experts")
    last = DRAWN.index(drawn)
    if last >= 2:
        ax.plot(grid, curves.merged, color=STYLES["merged"][0], linewidth=6, label="merge: mean of weights")
    if last >= 1:
        ax.plot(grid, curves.ensemble, "--", color=STYLES["ensemble"][0], linewidth=4, label="ensemble: mean of curves")
    lit = ""
    if route is not None:
        taken = curves.routes[route].amax(1).tolist()  # the expert of each layer
        lit = f"expert {taken[0]}" if len(taken) == 1 else f"route ({taken[0]}, {taken[1]})"
        ax.plot(grid, curves.experts[route], color=STYLES["random"][0], linewidth=5, label=lit)
    ax.set(xlim=(grid[0], grid[-1]), ylim=(-0.1, 1.1) if world.classes else (-2.6, 2.6))
    ax.set_xlabel("x", fontsize=16)
    ax.set_ylabel("probability of class 1" if world.classes else "answer", fontsize=16)
    ax.tick_params(labelsize=14)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=13.5, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1.2)
    ax.set_title(title, fontsize=17, pad=62)
    fix_margins(figure, left=0.1, right=0.98, bottom=0.13, top=0.76 if title else 0.85)
    readout = " ".join(tell(curves, drawn, lit))
    return View(readout, Picture(figure, f"{title + '. ' if title else ''}Curves over one number. {readout}"))


def tell(curves: Curves, drawn: str, lit: str) -> Iterator[str]:
    """How a world was trained and what was measured of the curves that are drawn, in sentences."""
    world, inside = curves.world, curves.grid.abs() <= EDGE
    number = "One expert was" if world.experts == 1 else f"{world.experts} experts were"
    apart = "from one start" if world.near == 0 else f"from starts at distance {world.near:g} (1: independent)"
    how = "together by random routes" if world.together else "apart"
    shared = f"the {world.shared} projection shared" if world.shared else "nothing shared"
    weight = f", consistency {world.consistency:g}" if world.together else ""
    yield f"{number} trained {how} {apart}, {shared}{weight}, {world.steps} steps."
    errors = [f"the {name} {curves.errors[key]:.2f}" for name, key in zip(DRAWN, curves.errors, strict=True)]
    errors[0] += " (their mean)"
    unit = ", nats of cross-entropy" if world.classes else ""
    yield f"Distance from the truth{unit}: {', '.join(errors[: DRAWN.index(drawn) + 1])}."
    if world.classes and len(curves.experts) > 1:
        pairs = torch.combinations(torch.arange(len(curves.experts)))
        first, second = curves.experts.double().logit(1e-9)[pairs].unbind(1)
        yield f"Two routes are {disagreement(world, first, second):.4f} nats apart (KL, mean of both ways)."
    yield f"The fan of curves has a standard deviation of {curves.experts.std(0, False)[inside].mean():.3f}."
    if drawn == "merge":
        yield f"The merge lies up to {(curves.merged - curves.ensemble).abs()[inside].max():.3f} from the ensemble."
    if lit:
        yield f"The thick line is {lit}."


MEANS = {"none": None, "together": True, "apart": False, "a curve": False, "two classes": True}
PRESSED = {"permute": {"units": "permuted"}, "align": {"units": "aligned"}, "merge": {"drawn": "merge"}}


def world_explorer(
    title: str,
    goal: str,
    controls: Sequence[str] = ("consistency", "near", "steps"),
    buttons: Mapping[str, State] | None = None,
    shown: State | None = None,
    **fixed: Any,
) -> Explorer:
    """The widget: at most three controls, chosen by the lesson; each movement trains again.

    Args:
        title: of the widget.
        goal: what the learner should reach.
        controls: names of "one dimension" in `data/lessons/widgets.yaml`, or "route". "units" brings the buttons
            permute and align, "drawn" the button merge, "route" the button draw a route.
        buttons: further ones, by label, with the controls that they set.
        shown: what "Show me" sets.
        fixed: fields of `World`, and "units", "drawn", "route"; a control's start, as it spells it. Others are refused.
    """
    number = fixed.get("experts", 4) ** fixed.get("layers", 1)
    known = {each.name: each for each in described("one dimension", route={"high": number - 1})["controls"]}
    for name in controls:
        one_of("Control", name, known)
    chosen = [replace(known[name], start=fixed.pop(name, known[name].start)) for name in controls]
    trained = lru_cache(maxsize=64)(train_world)  # lighting a route need not train again

    def compute(**state: Any) -> dict[str, Any]:
        given = {name: MEANS.get(value, value) for name, value in {**fixed, **state}.items()}
        drawn = {"drawn": given.pop("drawn", "merge"), "route": given.pop("route", None)}
        order = {"permuted": permute, "aligned": align}.get(given.pop("units", ""), lambda curves: curves)
        if not given.get("together", True) and "shared" not in controls:
            given["shared"] = None
        return {"curves": order(trained(World(**given))), **drawn}

    own: dict[str, Any] = {label: state for label, state in PRESSED.items() if {*state} <= {*controls}}
    if "route" in controls:
        own["draw a route"] = lambda: {"route": random.randrange(number)}
    own |= buttons or {}
    return Explorer(title, goal, chosen, compute, lambda seen: draw_world(**seen), shown or {}, own)
