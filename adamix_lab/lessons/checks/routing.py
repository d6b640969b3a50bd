"""Lessons 00 to 02: counting weights and routes, routes that can be drawn again, the consistency loss."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import log2
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.core.objective import symmetric_kl
from adamix_lab.core.routing import RouteSpace, generator_for
from adamix_lab.lessons.checks.telling import call, close, compare, number, passed, several, wrong

# -- lesson 00: counting weights -------------------------------------------------------------------------------------


Count = Callable[[int, int, int, int, bool], "tuple[int, int]"]


def check_count(count: Count) -> None:
    """Checks `count(d, r, experts, sites, shared) -> (trained, merged)` for bottleneck adapters.

    d: width of the model; r: of the bottleneck; shared: the up-projection is one for all experts of a site. The head
    is not counted.
    """
    for d, r, experts, sites, shared in ((12, 3, 4, 2, False), (12, 3, 4, 2, True), (384, 16, 4, 2, True)):
        answer = several(call(count, d, r, experts, sites, shared), 2, "two numbers, (trained, merged)")
        case = f"d = {d}, r = {r}, {experts} experts, {sites} sites, {'shared' if shared else 'not shared'}"
        trained, merged = _counted(d, r, experts, shared)
        every, _ = _counted(d, r, experts, False)
        one_up, _ = _counted(d, r, experts, True)
        biases = "The biases are missing: r for the way down, d for the way up."
        one_site = "One site was counted: multiply by the number of sites."
        mistakes = {
            biases: sites * (experts * d * r + (1 if shared else experts) * d * r),
            "The shared up-projection was counted once for each expert: it exists once a site.": sites * every,
            "The up-projection was counted once a site, but here every expert has its own.": sites * one_up,
            one_site: trained,
            "This is the merged number: in training every expert counts.": sites * merged,
        }
        compare(f"Trained weights ({case})", sites * trained, number(answer[0], "A count"), mistakes)
        mistakes = {
            biases: sites * 2 * d * r,
            "After merging one module a site is left, not one an expert.": sites * every,
            "After merging one down-projection a site is left, too.": sites * one_up,
            one_site: merged,
        }
        compare(f"Merged weights ({case})", sites * merged, number(answer[1], "A count"), mistakes)
    passed("check_count")


def _counted(d: int, r: int, experts: int, shared: bool) -> tuple[int, int]:
    """(trained, merged) weights of a real layer."""
    sides = frozenset({"up"} if shared else ())
    with torch.random.fork_rng(devices=[]):
        layer = MixtureLayer(nn.Linear(d, d), Bottleneck(r), experts, sides, generator_for(0))
    return sum(p.numel() for p in layer.experts.values()), sum(p[0].numel() for p in layer.experts.values())


# -- lesson 01: routes that can be drawn again, and how many there are ---------------------------------------------


SITES, SIDES, EXPERTS, STEPS = 3, 2, 4, 400


def check_draw_route(draw: Callable[[int, int, int], Any]) -> None:
    """Checks `draw(seed, step, view)`: a route `[3, 2]` of experts 0 to 3, a function of its three arguments."""
    first = _route(draw, 0, 0, 0)
    with torch.random.fork_rng(devices=[]):
        torch.rand(7)  # others draw numbers, too
        again = _route(draw, 0, 0, 0)
    if not torch.equal(first, again):
        wrong(
            "The route of seed 0, step 0, view 0, drawn twice", "the same route", "two different ones",
            "A global generator gives something else every time: make a generator from (seed, step, view).",
        )  # fmt: skip
    for name, place in (("seed", 0), ("step", 1), ("view", 2)):
        drawn = {tuple(_route(draw, *(n if p == place else 1 for p in range(3))).flatten().tolist()) for n in range(8)}
        if len(drawn) == 1:
            wrong(f"Routes of eight different {name}s", "different ones", "eight times the same",
                  f"Does the generator depend on the {name}?")  # fmt: skip
    routes = torch.stack([_route(draw, 5, step, view) for step in range(STEPS) for view in (0, 1)])
    flat = routes.reshape(-1, SITES, SIDES)
    shares = torch.stack([(flat == expert).float().mean(0) for expert in range(EXPERTS)])
    if float((shares - 1 / EXPERTS).abs().max()) > 0.08:
        worst = int((shares - 1 / EXPERTS).abs().flatten(1).amax(1).argmax())
        wrong(f"Share of expert {worst} over {len(flat)} routes", "about 0.25 at each site and side",
              f"{float(shares[worst].min()):.2f} to {float(shares[worst].max()):.2f}",
              "Routes are uniform: is the last expert left out, or one favoured?")  # fmt: skip
    columns = {f"site {s}, side {d}": flat[:, s, d] for s in range(SITES) for d in range(SIDES)}
    views = {f"view {v} of site 0, side 0": routes.reshape(STEPS, 2, SITES, SIDES)[:, v, 0, 0] for v in (0, 1)}
    for (one, a), (other, b) in (*combinations(columns.items(), 2), *combinations(views.items(), 2)):
        if (shared := _shared_bits(a, b)) > 0.2:
            wrong(f"What {one} tells about {other}", "nothing", f"{shared:.1f} bits",
                  "They share a draw: each site, each side (Eq. 4) and each view has one of its own.")  # fmt: skip
    passed("check_draw_route")


def check_number_of_routes(count: Callable[[int, int, int], int]) -> None:
    """Checks `count(down, up, sites)`: routes with so many experts on each side (1: shared) at each of the sites."""
    for down, up, sites in ((4, 1, 2), (4, 4, 2), (2, 3, 3), (8, 1, 1)):
        came = number(call(count, down, up, sites), "The number of routes")
        expected, what = RouteSpace(((down, up),) * sites).number, f"{down} experts down, {up} up, at {sites} sites"
        mistakes = {
            "That is the number of experts: a route picks one at every site.": max(down, up),
            "Choices multiply over sites, they do not add.": sites * down * up,
            "Both sides choose: down and up are drawn apart.": down**sites,
            "The two sides multiply, they do not add.": (down + up) ** sites,
        }
        compare(f"Routes with {what}", expected, came, mistakes)
    passed("check_number_of_routes")


def _route(draw: Callable[[int, int, int], Any], *numbers: int) -> Tensor:
    route = torch.as_tensor(call(draw, *numbers))
    if tuple(route.shape) != (SITES, SIDES):
        wrong("A route", f"shape [{SITES}, {SIDES}], an expert for each site and side", list(route.shape))
    if route.is_floating_point() or bool((route < 0).any()) or bool((route >= EXPERTS).any()):
        wrong("A route", f"whole numbers from 0 to {EXPERTS - 1}", route.tolist(), "Experts count from 0.")
    return route


def _shared_bits(one: Tensor, other: Tensor) -> float:
    """Mutual information in bits, from counts."""
    joint = torch.zeros(EXPERTS, EXPERTS)
    joint.index_put_((one, other), torch.ones(len(one)), accumulate=True)
    joint = joint / joint.sum()
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return sum(float(j) * log2(float(j) / float(a)) for j, a in zip(joint.flatten(), apart.flatten(), strict=True) if j)


# -- lesson 02: the consistency loss, its value and its gradient ---------------------------------------------------


Loss = Callable[[Tensor, Tensor], Tensor]


def check_consistency(loss: Loss) -> None:
    """Checks `loss(a, b)` of logits `[rows, classes]`: half of KL(p || q) + KL(q || p), mean over rows."""
    for rows, classes in ((5, 3), (8, 2), (1, 4)):
        generator = generator_for(rows, classes)
        a, b = (torch.randn(rows, classes, generator=generator) for _ in range(2))
        came = number(call(loss, a, b), "The loss")
        expected, there, back = float(symmetric_kl(a, b)), _kl(a, b), _kl(b, a)
        over_batch = 0.5 * (_kl(a.mT, b.mT) + _kl(b.mT, a.mT))
        by_rows, squared = over_batch * classes / rows, float((a - b).square().mean())
        mistakes = {
            "That is the sum of both directions: Eq. 5 takes half of it.": there + back,
            "That is KL(p || q) alone: the other direction is missing.": there,
            "That is KL(q || p) alone: the other direction is missing.": back,
            "That is the sum over rows: take the mean over rows.": rows * expected,
            "That is the mean over rows and classes (reduction='mean'): divide by the rows only.": expected / classes,
            "The softmax ran over the batch: each row must sum to 1 (dim=-1).": over_batch,
            "The softmax ran over the batch (dim=0), then the sum was divided by the rows.": by_rows,
            "That is the squared distance of the logits: a constant added to them changes no answer.": squared,
        }
        compare(f"The loss of {rows} rows and {classes} classes", expected, came, mistakes)
        shifted = number(call(loss, a, a + 3.0), "The loss")
        if not close(shifted, 0.0):
            wrong("The loss of logits and the same logits plus 3", 0.0, shifted,
                  "A constant added to a row's logits changes no probability: is the softmax missing?")  # fmt: skip
    passed("check_consistency")


def _kl(a: Tensor, b: Tensor) -> float:
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
