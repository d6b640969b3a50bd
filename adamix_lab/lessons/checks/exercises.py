"""Checks of the lessons' exercises, in the lessons' order: each passes a right answer and names a wrong one's cause."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from adamix_lab.core.adaptations import Adaptation, Bottleneck
from adamix_lab.core.mixture import declared_weights
from adamix_lab.core.objective import symmetric_kl
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks import alike, call, judge, number, passed, several, tensor, wrong

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
    from sklearn.metrics import mutual_info_score

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
    shares = one_hot(flat, EXPERTS).double().mean(0)  # [sites, sides, experts]
    worst = int((shares - 1 / EXPERTS).abs().amax((0, 1)).argmax())
    low, high = (float(end) for end in shares[..., worst].aminmax())
    if max(1 / EXPERTS - low, high - 1 / EXPERTS) > 0.08:
        what, rule = f"Share of expert {worst} over {len(flat)} routes", "about 0.25 at each site and side"
        cause = "Routes are uniform: is the last expert left out, or one favoured?"
        wrong(what, rule, f"{low:.2f} to {high:.2f}", cause)
    columns = {f"site {s}, side {d}": flat[:, s, d] for s in range(SITES) for d in range(SIDES)}
    views = {f"view {v} of site 0, side 0": drawn[:, v, 0, 0] for v in (0, 1)}
    for (one, a), (other, b) in (*combinations(columns.items(), 2), *combinations(views.items(), 2)):
        if (shared := mutual_info_score(a, b) / math.log(2)) > 0.2:
            cause = "They share a draw: each site, each side (Eq. 4) and each view has one of its own."
            wrong(f"What {one} tells about {other}", "nothing", f"{shared:.1f} bits", cause)
    passed("check_draw_route")


def _route(draw: Callable[[int, int, int], Any], *numbers: int) -> Tensor:
    route = tensor(call(draw, *numbers), "A route", (SITES, SIDES))
    if tuple(route.shape) != (SITES, SIDES):
        wrong("A route", f"shape [{SITES}, {SIDES}], an expert for each site and side", list(route.shape))
    if route.is_floating_point() or route.is_complex() or bool((route < 0).any()) or bool((route >= EXPERTS).any()):
        wrong("A route", f"whole numbers from 0 to {EXPERTS - 1}", route.tolist(), "Experts count from 0.")
    return route.long()


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


# -- lesson 03: bringing units back into order ---------------------------------------------------------------------

Expert = dict[str, Tensor]  # "down" [r, d], "down_bias" [r], "up" [d, r], "up_bias" [d]


def check_align(align: Callable[[Expert, Expert], Expert]) -> None:
    """Checks `align(reference, expert)`: the expert with its units in the order that matches the reference's.

    An expert is a dict of "down" `[r, d]`, "down_bias" `[r]`, "up" `[d, r]` and "up_bias" `[d]`.
    """
    for r, d, noise, seed in ((4, 6, 0.0, 1), (8, 12, 0.0, 2), (8, 12, 0.05, 3)):
        generator = generator_for(seed)
        shapes = {"down": (r, d), "down_bias": (r,), "up": (d, r), "up_bias": (d,)}
        reference = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        order = torch.randperm(r, generator=generator).roll(1)
        near = {name: w + noise * torch.randn(w.shape, generator=generator) for name, w in reference.items()}
        moved = {"down": near["down"][order], "down_bias": near["down_bias"][order], "up": near["up"][:, order]}
        expert = near | moved
        came = call(align, *({name: w.clone() for name, w in given.items()} for given in (reference, expert)))
        if isinstance(came, dict):
            came = {name: tensor(w, f"The weight {name!r}", shapes.get(name, ())).float() for name, w in came.items()}
        _same_function(came, expert, generator)
        if float((came["down"] - reference["down"]).norm()) > 0.5 * float((expert["down"] - reference["down"]).norm()):
            cause = "Compare each unit (row of down, bias, column of up) with each of the reference."
            if torch.equal(came["down"], expert["down"]):
                cause = "Nothing was moved."
            elif alike(came["down"], expert["down"][order]):
                cause = "The permutation was applied again rather than undone: use its inverse."
            wrong(f"Units of {r}, after alignment", "in the reference's order", "another order", cause)
    passed("check_align")


def _same_function(came: Expert, expert: Expert, generator: torch.Generator) -> None:
    shapes, given = ({name: [*w.shape] for name, w in e.items()} if isinstance(e, dict) else e for e in (expert, came))
    if given != shapes:
        wrong("The aligned expert, its weights and their shapes", shapes, given)
    x = torch.randn(5, expert["down"].shape[1], generator=generator)
    found, before = (Bottleneck(len(w["down"])).apply(lambda y: y, x, w, False) for w in (came, expert))
    if not alike(found, before):
        moved = [name for name in ("down", "down_bias", "up") if not torch.equal(came[name], expert[name])]
        cause = "A unit is a row of down, an entry of down_bias and a column of up: move all three"
        what = "What the aligned expert computes"
        wrong(what, "the same as before", "something else", f"{cause} ({moved or 'none'} changed).")
    if not torch.equal(came["up_bias"], expert["up_bias"]):
        wrong("up_bias", "unchanged", "changed", "It belongs to outputs, not to units.")


# -- lesson 04: how many routes say what the merge says -------------------------------------------------------------


def check_agree(agree: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Checks `agree(routes, merged)`: the share of routes `[rows, routes, C]` that answer as the merge `[rows, C]`."""
    for rows, routes, classes in ((40, 4, 3), (30, 16, 2)):
        generator = generator_for(rows, routes)
        logits = torch.randn(rows, routes, classes, generator=generator)
        merged = torch.randn(rows, classes, generator=generator)
        came = call(agree, logits.clone(), merged.clone())
        p, said, own = logits.softmax(-1), logits.argmax(-1), merged.argmax(-1)

        def share(answers: Tensor, of: Tensor = own) -> Tensor:
            return (answers == of[:, None]).float().mean(1)

        right, votes = share(said), one_hot(said, classes).sum(1)
        together = dict(ensemble=p.mean(1), logits=logits.mean(1), vote=votes)
        known = {name: share(each.argmax(-1)[:, None]) for name, each in together.items()}
        known |= dict(number=right * routes, others=1 - right, first=share(said, said[:, 0]))
        known["probability"] = p.mean(1).gather(-1, own[:, None])[:, 0]
        judge("check_agree", "The share of routes that agree", right, came, known, "one of each row's answers")
    passed("check_agree")


# -- lesson 05: barriers above the chord ------------------------------------------------------------------------------

# places t, losses, the barrier; the second tells by its number what was measured from
LINES = (
    ((0.0, 0.5, 1.0), (0.4, 0.9, 0.4), 0.5),
    ((0.0, 0.25, 0.5, 0.75, 1.0), (0.3, 0.1, 0.9, 0.4, 0.5), 0.5),
    ((0.0, 0.25, 0.5, 0.75, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0), 0.0),
    ((0.0, 0.25, 0.5, 0.75, 1.0), (1.0, 0.1, 0.05, 0.1, 0.2), 0.0),
    ((0.0, 0.1, 0.8, 1.0), (0.2, 0.5, 1.1, 1.2), 0.2),
)


def check_barrier(barrier: Callable[[Tensor, Tensor], Any]) -> None:
    """Checks `barrier(t, losses)`: the greatest height above the chord, at least 0.

    Places t `[N]` run from 0 to 1; losses `[N]` in nats were measured there.
    """
    for places, values, right in LINES:
        t, losses = torch.tensor(places, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
        came = call(barrier, t.clone(), losses.clone())
        first, last, top = values[0], values[-1], max(values)
        steps = torch.linspace(0, 1, len(t), dtype=torch.float64)
        above, by_number = (losses - torch.lerp(losses[0], losses[-1], s) for s in (t, steps))
        known = dict(lowest=top - min(values), first=top - first, last=top - last, level=top - (first + last) / 2)
        known |= dict(by_number=max(0.0, float(by_number.max())), no_sign=float(above.abs().max()))
        known["mean"] = float(above.mean())
        judge("check_barrier", f"The barrier of losses {list(values)} at {list(places)}", right, came, known)
    passed("check_barrier")


# -- lesson 06: the average over routes -------------------------------------------------------------------------------


def check_marginal(average: Callable[[Tensor], Tensor]) -> None:
    """Checks `average(logits)`: the mean of the routes' probabilities, `[rows, routes, C]` to `[rows, C]`."""
    for rows, routes, classes in ((5, 4, 3), (4, 4, 2), (1, 3, 4)):
        logits = 3 * torch.randn(rows, routes, classes, generator=generator_for(rows, routes, classes))
        came, p = call(average, logits.clone()), logits.softmax(-1)
        known = dict(of_logits=logits.mean(1).softmax(-1), logits=logits.mean(1), log=p.mean(1).log())
        known |= dict(logs=p.log().mean(1), vote=one_hot(p.argmax(-1), classes).float().mean(1), sum=p.sum(1))
        known |= dict(over_routes=logits.softmax(1).mean(1), one=p[:, 0])
        what = f"The average over {routes} routes"
        judge("check_marginal", what, p.mean(1), came, known, "the mean of their probabilities")
    passed("check_marginal")


# -- lesson 07: a difference paired by seed with its interval, and how small a difference so many rows can show ----

CASES = (
    ((55.2, 61.0, 52.7, 58.4, 63.1), (54.1, 59.6, 52.9, 56.8, 61.9)),
    ((70.0, 74.0, 69.0), (71.5, 73.0, 71.0)),
)


def check_paired_interval(interval: Callable[[Sequence[float], Sequence[float]], Any]) -> None:
    """Checks `interval(first, second) -> (mean, low, high)`: the mean of first minus second and its 95 % t-interval.

    first, second: scores of the same seeds, in the same order.
    """
    for first, second in CASES:
        answer = several(call(interval, list(first), list(second)), 3, "three numbers, (mean, low, high)")
        mean, low, high = (number(value, "A number of the interval") for value in answer)
        gaps = [a - b for a, b in zip(first, second, strict=True)]
        n, right = len(gaps), statistics.mean(gaps)
        judge("check_paired_interval", f"The mean ({n} seeds)", right, mean, dict(turned=-right))
        if not alike(high - mean, mean - low):
            wrong(f"The interval ({n} seeds)", "as far below the mean as above it", f"{low:.4g} to {high:.4g}")
        t, root = _quantile(n - 1), math.sqrt(n)
        spread, population = statistics.stdev(gaps), statistics.pstdev(gaps)
        apart = math.hypot(statistics.stdev(first), statistics.stdev(second)) / root
        known = dict(unpaired=_quantile(2 * n - 2) * apart, unpaired_normal=1.96 * apart)
        known |= dict(normal=1.96 * spread / root, population=t * population / root, seeds=t * spread)
        known |= dict(normal_population=1.96 * population / root, freedom=_quantile(n) * spread / root)
        known |= dict(one_tail=_quantile(n - 1, 0.95) * spread / root)
        what = f"Half of the interval ({n} seeds)"
        judge("check_paired_interval", what, t * spread / root, high - mean, known, n=n, freedom=n - 1)
    passed("check_paired_interval")


def _quantile(freedom: int, level: float = 0.975) -> float:
    from scipy.stats import t

    return float(t.ppf(level, freedom))


def check_detectable(smallest: Callable[[int, float], Any]) -> None:
    """Checks `smallest(rows, disagree)`: the half width in points of a 95 % interval of a paired difference near 0.

    disagree: share of rows that exactly one of the two models answers rightly; each such row counts +1 or -1.
    """
    for rows, disagree in ((277, 0.2), (872, 0.1)):
        right, root = 196 * math.sqrt(disagree / rows), math.sqrt(rows)
        known = dict(share=right / 100, binomial=right * math.sqrt(1 - disagree), one_error=right / 1.96)
        known |= dict(no_root=196 * disagree / rows, two_models=196 * math.sqrt(0.5) / root)
        what = f"On {rows} rows, {100 * disagree:g} % of which have one right answer"
        judge("check_detectable", what, right, call(smallest, rows, disagree), known, tolerance=2e-3)  # or 1.959964
    passed("check_detectable")


# -- lesson 08: an adaptation of one's own, and the weight at which peft's combination is the merge ----------------

SHAPES = {"A": "[rank, in]", "B": "[out, rank]", "gate": "[out]"}


def check_gated_lora(adaptation: type[Adaptation]) -> None:
    """Checks an `Adaptation` of rank `rank`: `y = Wx + gate * (B A x)`, unchanged at the start, right for K views."""
    if not (isinstance(adaptation, type) and issubclass(adaptation, Adaptation)):
        wrong("What is checked", "the class itself, a subclass of Adaptation", adaptation)
    inside, outside, rank = 6, 5, 3
    made = call(adaptation, rank)
    declared = call(declared_weights, made, inside, outside)
    shapes = {"A": (rank, inside), "B": (outside, rank), "gate": (outside,)}
    for name, shape in shapes.items():
        if name not in declared or declared[name].shape != shape:
            came = declared[name].shape if name in declared else "none"
            wrong(f"The weight {name!r}", f"{SHAPES[name]} = {list(shape)}", came)
    if declared["gate"].decay:
        wrong("Decay of the gate", False, True, "It starts at 1: decay would pull the update to nothing.")
    if declared["gate"].side != declared["B"].side:
        wrong("The gate's side", repr(declared["B"].side), repr(declared["gate"].side), "It acts where B writes.")
    generator = generator_for(0)
    started = {name: weight.start(weight.shape, generator) for name, weight in declared.items()}
    x, frozen = torch.randn(4, 2, inside, generator=generator), torch.randn(outside, inside, generator=generator)
    calls: list[Tensor] = []

    def base(x: Tensor) -> Tensor:
        calls.append(x)
        return x @ frozen.T

    if not alike(call(made.apply, base, x, started, False), base(x)):
        wrong("The output at the start", "the frozen layer's", "another", "One factor of B A has to start at zero.")
    if len(calls) != 2:
        wrong("Calls of the frozen layer", 1, len(calls) - 1, "Call base(x) once and keep what it answers.")
    one, other = ({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(2))
    y, (update, second) = x @ frozen.T, (x @ w["A"].T @ w["B"].T for w in (one, other))
    right, what = y + one["gate"] * update, "Two views in one pass, weights [2, ...]"
    known = dict(no_gate=y + update, no_base=one["gate"] * update, all_gated=one["gate"] * (y + update))
    judge("check_gated_lora", "The output", right, call(made.apply, base, x, one, False), known, "Wx + gate * (B A x)")
    cause = "A vector [K, out] needs along(update, gate) to meet its K groups of rows."
    both = {name: torch.stack([one[name], other[name]]) for name in shapes}
    try:
        came = call(made.apply, base, x, both, False)
    except AssertionError as error:
        wrong(what, "an output", "an error", f"{cause} {error}")
    if not alike(came, torch.cat([right[:2], (y + other["gate"] * second)[2:]])):
        wrong(what, "each group with its own weights", "another output", cause)
    passed("check_gated_lora")


def check_peft_weight(weight: Callable[[int, str], float]) -> None:
    """Checks `weight(experts, combination)`: what each of M experts gets in `add_weighted_adapter` to equal a merge.

    "linear" is to give the mean of factors, "cat" the mean of products.
    """
    for experts in (2, 4, 5):
        linear = dict(mean=1 / experts, by_hand=experts**-0.5, ones=1.0)
        cat = dict(once=1 / experts**2, products=1.0)
        for combination, right, known in (("linear", 1 / experts**2, linear), ("cat", 1 / experts, cat)):
            what = f"weight({experts}, {combination!r})"
            judge("check_peft_weight", what, right, call(weight, experts, combination), known)
    passed("check_peft_weight")


# -- lesson 09: labels behind a masked prefix, and the slots that a text realises ----------------------------------

IGNORED = -100


def check_prefix_labels(labels_of: Callable[[list[int], list[int], int, int], Sequence[int]]) -> None:
    """Checks `labels_of(source, target, separator, end)`: unshifted labels of `source, separator, target, end`.

    -100 on source and separator; elsewhere the id of the same position.
    """
    for source, target in (([5, 6, 7], [8, 9]), ([5], [8, 9, 10]), ([5, 6, 7, 4, 3], [8])):
        ids, before, behind = [*source, 1, *target, 2], len(source) * [IGNORED], [*target, 2]
        came = tensor(call(labels_of, list(source), list(target), 1, 2), "The labels", [len(ids)]).tolist()
        if not isinstance(came, list | tuple):
            wrong("The labels", "a list of numbers", type(came).__name__)
        known = dict(source=ids, separator=before + ids[len(source) :], shifted=[*before, *behind, IGNORED])
        known |= dict(first=[*before, IGNORED, IGNORED, *behind[1:]], end=[*before, IGNORED, *target, IGNORED])
        right, other = [*before, IGNORED, *behind], "others" if len(came) == len(ids) else "count"
        judge("check_prefix_labels", f"Labels of {ids}", right, list(came), known, other=other, ids=len(ids))
    passed("check_prefix_labels")


def check_coverage(coverage: Callable[[str, dict[str, str]], float]) -> None:
    """Checks `coverage(text, slots)`: the share of values that stand in the text as whole words, in capitals or not."""
    slots = {"event": "race", "place": "school", "month": "June", "host": "king"}
    cases = (
        ("In June there is a race.", 0.5, "marks"),
        ("KING: A RACE, AT THE SCHOOL, JUNE.", 1.0, "capitals"),
        ("Asking for an embrace.", 0.0, "inside"),
        ("A race, a race, a race.", 0.25, "repeated"),
        ("", 0.0, "empty"),
    )
    for text, right, cause in cases:
        known = {"percent": 100 * right} if right else {}
        judge("check_coverage", f"Coverage of {text!r}", right, call(coverage, text, dict(slots)), known, other=cause)
    passed("check_coverage")
