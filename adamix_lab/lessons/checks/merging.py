"""Lessons 03 to 06: experts that cancel or lie in another order, who agrees with the merge, averages, barriers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import alike, call, judge, passed, wrong

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
        expert = _ordered(near, order)
        came = call(align, *({name: w.clone() for name, w in given.items()} for given in (reference, expert)))
        _same_function(came, expert, generator)
        if float((came["down"] - reference["down"]).norm()) > 0.5 * float((expert["down"] - reference["down"]).norm()):
            cause = "Compare each unit (row of down, bias, column of up) with each of the reference."
            if torch.equal(came["down"], expert["down"]):
                cause = "Nothing was moved."
            elif alike(came["down"], expert["down"][order]):
                cause = "The permutation was applied again rather than undone: use its inverse."
            wrong(f"Units of {r}, after alignment", "in the reference's order", "another order", cause)
    passed("check_align")


def _ordered(expert: Expert, order: Tensor) -> Expert:
    down, bias, up = expert["down"][order], expert["down_bias"][order], expert["up"][:, order]
    return {**expert, "down": down, "down_bias": bias, "up": up}


def _same_function(came: Expert, expert: Expert, generator: torch.Generator) -> None:
    shapes, found = ({name: [*w.shape] for name, w in e.items()} if isinstance(e, dict) else e for e in (expert, came))
    if found != shapes:
        wrong("The aligned expert, its weights and their shapes", shapes, found)
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

        right, together = (
            share(said),
            dict(ensemble=p.mean(1), logits=logits.mean(1), vote=one_hot(said, classes).sum(1)),
        )
        known = {name: share(each.argmax(-1)[:, None]) for name, each in together.items()}
        known |= dict(number=right * routes, others=1 - right, first=share(said, said[:, 0]))
        known |= dict(probability=p.mean(1).gather(-1, own[:, None])[:, 0])
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
        above, by_number = (
            losses - torch.lerp(losses[0], losses[-1], s) for s in (t, torch.linspace(0, 1, len(t)).double())
        )
        known = dict(lowest=top - min(values), first=top - first, last=top - last, level=top - (first + last) / 2)
        known |= dict(by_number=max(0.0, float(by_number.max())), no_sign=float(above.abs().max()))
        known |= dict(mean=float(above.mean()))
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
