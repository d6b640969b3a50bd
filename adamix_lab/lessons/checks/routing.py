"""Lesson 01: routes that can be drawn again, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import log2
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.routing import RouteSpace
from adamix_lab.lessons.checks.telling import call, compare, number, passed, wrong

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
        compare(
            f"Routes with {down} experts down, {up} up, at {sites} sites",
            RouteSpace(((down, up),) * sites).number,
            came,
            {
                "That is the number of experts: a route picks one at every site.": max(down, up),
                "Choices multiply over sites, they do not add.": sites * down * up,
                "Both sides choose: down and up are drawn apart.": down**sites,
                "The two sides multiply, they do not add.": (down + up) ** sites,
            },
        )
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
