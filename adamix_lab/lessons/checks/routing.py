"""Lessons 00 to 02: counting weights and routes, routes that can be drawn again, the consistency loss."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import log
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.objective import symmetric_kl
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, judge, passed, several, wrong

# -- lesson 00: counting weights -------------------------------------------------------------------------------------


def check_count(count: Callable[[int, int, int, int, bool], tuple[int, int]]) -> None:
    """Checks `count(d, r, experts, sites, shared) -> (trained, merged)` for bottleneck adapters.

    d: width of the model; r: of the bottleneck; shared: the up-projection is one for all experts of a site. The head
    is not counted.
    """
    for d, r, experts, sites, shared in ((12, 3, 4, 2, False), (12, 3, 4, 2, True), (384, 16, 4, 2, True)):
        answer = several(call(count, d, r, experts, sites, shared), 2, "two numbers, (trained, merged)")
        case = f"d = {d}, r = {r}, {experts} experts, {sites} sites, {'shared' if shared else 'not shared'}"
        down, up, ups = d * r + r, r * d + d, 1 if shared else experts
        every, once = sites * experts * (down + up), sites * (experts * down + up)
        trained, merged = sites * (experts * down + ups * up), sites * (down + up)
        known = dict(biases=sites * (experts + ups) * d * r, shared_each=every, own_once=once)
        known |= dict(one_site=trained // sites, merged=merged)
        judge("check_count", f"Trained weights ({case})", trained, answer[0], known)
        known = dict(biases=sites * 2 * d * r, all_left=every, downs_left=once, one_site=down + up)
        judge("check_count", f"Merged weights ({case})", merged, answer[1], known)
    passed("check_count")


# -- lesson 01: routes that can be drawn again, and how many there are ---------------------------------------------

SITES, SIDES, EXPERTS, STEPS = 3, 2, 4, 400


def check_draw_route(draw: Callable[[int, int, int], Any]) -> None:
    """Checks `draw(seed, step, view)`: a route `[3, 2]` of experts 0 to 3, a function of its three arguments."""
    first = _route(draw, 0, 0, 0)
    with torch.random.fork_rng(devices=[]):
        torch.rand(7)  # others draw numbers, too
        again = _route(draw, 0, 0, 0)
    if not torch.equal(first, again):
        cause = "A global generator gives something else every time: make a generator from (seed, step, view)."
        wrong("The route of seed 0, step 0, view 0, drawn twice", "the same route", "two different ones", cause)
    for place, name in enumerate(("seed", "step", "view")):
        routes = [_route(draw, *(n if p == place else 1 for p in range(3))) for n in range(8)]
        if all(torch.equal(route, routes[0]) for route in routes):
            cause = f"Does the generator depend on the {name}?"
            wrong(f"Routes of eight different {name}s", "different ones", "eight times the same", cause)
    drawn = torch.stack([torch.stack([_route(draw, 5, step, view) for view in (0, 1)]) for step in range(STEPS)])
    flat = drawn.flatten(0, 1)
    shares = torch.nn.functional.one_hot(flat, EXPERTS).double().mean(0)  # [sites, sides, experts]
    worst = int((shares - 1 / EXPERTS).abs().amax((0, 1)).argmax())
    low, high = (float(end) for end in shares[..., worst].aminmax())
    if max(1 / EXPERTS - low, high - 1 / EXPERTS) > 0.08:
        what, rule = f"Share of expert {worst} over {len(flat)} routes", "about 0.25 at each site and side"
        cause = "Routes are uniform: is the last expert left out, or one favoured?"
        wrong(what, rule, f"{low:.2f} to {high:.2f}", cause)
    columns = {f"site {s}, side {d}": flat[:, s, d] for s in range(SITES) for d in range(SIDES)}
    views = {f"view {v} of site 0, side 0": drawn[:, v, 0, 0] for v in (0, 1)}
    for (one, a), (other, b) in (*combinations(columns.items(), 2), *combinations(views.items(), 2)):
        if (shared := _shared_bits(a, b)) > 0.2:
            cause = "They share a draw: each site, each side (Eq. 4) and each view has one of its own."
            wrong(f"What {one} tells about {other}", "nothing", f"{shared:.1f} bits", cause)
    passed("check_draw_route")


def _route(draw: Callable[[int, int, int], Any], *numbers: int) -> Tensor:
    route = torch.as_tensor(call(draw, *numbers))
    if tuple(route.shape) != (SITES, SIDES):
        wrong("A route", f"shape [{SITES}, {SIDES}], an expert for each site and side", list(route.shape))
    if route.is_floating_point() or bool((route < 0).any()) or bool((route >= EXPERTS).any()):
        wrong("A route", f"whole numbers from 0 to {EXPERTS - 1}", route.tolist(), "Experts count from 0.")
    return route.long()


def _shared_bits(one: Tensor, other: Tensor) -> float:
    """Mutual information in bits, from counts."""
    from sklearn.metrics import mutual_info_score

    return float(mutual_info_score(one, other)) / log(2)


def check_number_of_routes(count: Callable[[int, int, int], int]) -> None:
    """Checks `count(down, up, sites)`: routes with so many experts on each side (1: shared) at each of the sites."""
    for down, up, sites in ((4, 1, 2), (4, 4, 2), (2, 3, 3), (8, 1, 1)):
        known = dict(experts=max(down, up), sites_added=sites * down * up, one_side=down**sites)
        known |= dict(sides_added=(down + up) ** sites)
        what = f"Routes with {down} experts down, {up} up, at {sites} sites"
        judge("check_number_of_routes", what, (down * up) ** sites, call(count, down, up, sites), known)
    passed("check_number_of_routes")


# -- lesson 02: the consistency loss, its value and its gradient ---------------------------------------------------


def check_consistency(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Checks `loss(a, b)` of logits `[rows, classes]`: half of KL(p || q) + KL(q || p), mean over rows."""
    for rows, classes in ((5, 3), (8, 2), (1, 4)):
        generator = generator_for(rows, classes)
        a, b = (torch.randn(rows, classes, generator=generator) for _ in range(2))
        right, there, back = float(symmetric_kl(a, b)), _kl(a, b), _kl(b, a)
        over_batch = 0.5 * (_kl(a.T, b.T) + _kl(b.T, a.T))
        known = dict(both=there + back, there=there, back=back, rows=rows * right, classes=right / classes)
        known |= dict(over_batch=over_batch, over_batch_by_rows=over_batch * classes / rows)
        known |= dict(squared=float((a - b).square().mean()))
        what = f"The loss of {rows} rows and {classes} classes"
        judge("check_consistency", what, right, call(loss, a, b), known)
        what = "The loss of logits and the same logits plus 3"
        judge("check_consistency", what, 0.0, call(loss, a, a + 3.0), {}, other="shifted")
    passed("check_consistency")


def _kl(a: Tensor, b: Tensor) -> float:
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
