"""Lessons 03 to 06: experts that cancel or lie in another order, who agrees with the merge, averages, barriers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, compare, match, number, passed, same, wrong

# -- lesson 03: equal functions whose average is none, and bringing units back into order --------------------------


Expert = dict[str, Tensor]  # "down" [r, d], "down_bias" [r], "up" [d, r], "up_bias" [d]


def check_align(align: Callable[[Expert, Expert], Expert]) -> None:
    """Checks `align(reference, expert)`: the expert with its units in the order that matches the reference's.

    An expert is a dict of "down" `[r, d]`, "down_bias" `[r]`, "up" `[d, r]` and "up_bias" `[d]`.
    """
    for r, d, noise, seed in ((4, 6, 0.0, 1), (8, 12, 0.0, 2), (8, 12, 0.05, 3)):
        generator = generator_for(seed)
        reference = {
            "down": torch.randn(r, d, generator=generator), "down_bias": torch.randn(r, generator=generator),
            "up": torch.randn(d, r, generator=generator), "up_bias": torch.randn(d, generator=generator),
        }  # fmt: skip
        order = torch.randperm(r, generator=generator).roll(1)
        expert = {name: w + noise * torch.randn(w.shape, generator=generator) for name, w in reference.items()}
        expert |= {"down": expert["down"][order], "down_bias": expert["down_bias"][order], "up": expert["up"][:, order]}
        given = {name: weight.clone() for name, weight in expert.items()}
        came = call(align, {name: w.clone() for name, w in reference.items()}, given)
        _same_function(came, expert, generator)
        if float((came["down"] - reference["down"]).norm()) > 0.5 * float((expert["down"] - reference["down"]).norm()):
            untouched = torch.equal(came["down"], expert["down"])
            inverse = same(came["down"], expert["down"][order])
            wrong(f"Units of {r}, after alignment", "in the reference's order", "another order",
                  "Nothing was moved." if untouched else
                  "The permutation was applied again rather than undone: use its inverse." if inverse else
                  "Compare each unit (row of down, bias, column of up) with each of the reference.")  # fmt: skip
    passed("check_align")


def _same_function(came: Expert, expert: Expert, generator: torch.Generator) -> None:
    if not isinstance(came, dict) or came.keys() != expert.keys():
        wrong(
            "The aligned expert",
            f"a dict of {', '.join(expert)}",
            came if not isinstance(came, dict) else ", ".join(came),
        )
    for name, weight in expert.items():
        if came[name].shape != weight.shape:
            wrong(f"The aligned {name!r}", list(weight.shape), list(came[name].shape))
    x = torch.randn(5, expert["down"].shape[1], generator=generator)

    def output(weights: Expert) -> Tensor:
        return Bottleneck(len(weights["down"])).apply(lambda y: y, x, weights, False)

    if not same(output(came), output(expert)):
        moved = [name for name in ("down", "down_bias", "up") if not torch.equal(came[name], expert[name])]
        wrong("What the aligned expert computes", "the same as before", "something else",
              f"A unit is a row of down, an entry of down_bias and a column of up: move all three ({moved or 'none'} "
              "changed).")  # fmt: skip
    passed_over = expert["up_bias"]
    if not torch.equal(came["up_bias"], passed_over):
        wrong("up_bias", "unchanged", "changed", "It belongs to outputs, not to units.")


# -- lesson 04: how many routes say what the merge says -------------------------------------------------------------


def check_agree(agree: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Checks `agree(routes, merged)`: the share of routes `[rows, routes, C]` that answer as the merge `[rows, C]`."""
    for rows, routes, classes in ((40, 4, 3), (30, 16, 2)):
        generator = generator_for(rows, routes)
        logits = torch.randn(rows, routes, classes, generator=generator)
        merged = torch.randn(rows, classes, generator=generator)
        said, own = logits.argmax(-1), merged.argmax(-1)
        right = (said == own[:, None]).float().mean(1)
        came = _tensor(call(agree, logits.clone(), merged.clone()), "The share", (rows,))
        vote = torch.nn.functional.one_hot(said, classes).sum(1).argmax(-1)
        mistakes = {
            "That is their number: divide by the number of routes.": right * routes,
            "That is the share of routes that disagree.": 1 - right,
            "That is whether the ensemble agrees: compare each route's answer, then take the mean.":
                (logits.softmax(-1).mean(1).argmax(-1) == own).float(),
            "That is whether the ensemble of logits agrees: compare each route's answer, then take the mean.":
                (logits.mean(1).argmax(-1) == own).float(),
            "That is whether most routes agree: take the share of them.": (vote == own).float(),
            "Routes were compared with the first route: compare them with the merge.":
                (said == said[:, :1]).float().mean(1),
            "That is the mean probability of the merge's answer: compare answers, the class with the largest logit.":
                logits.softmax(-1).mean(1).gather(-1, own[:, None])[:, 0],
        }  # fmt: skip
        match("The share of routes that agree", "one of each row's answers", right, came, mistakes)
    passed("check_agree")


# -- lesson 06: the average over routes -------------------------------------------------------------------------------


def check_marginal(average: Callable[[Tensor], Tensor]) -> None:
    """Checks `average(logits)`: the mean of the routes' probabilities, `[rows, routes, C]` to `[rows, C]`."""
    for rows, routes, classes in ((5, 4, 3), (4, 4, 2), (1, 3, 4)):
        logits = 3 * torch.randn(rows, routes, classes, generator=generator_for(rows, routes, classes))
        came = _tensor(call(average, logits.clone()), "The average", (rows, classes))
        what, rule = f"The average over {routes} routes", "the mean of their probabilities"
        match(what, rule, logits.softmax(-1).mean(1), came, _other_averages(logits))
    passed("check_marginal")


def _other_averages(logits: Tensor) -> dict[str, Tensor]:
    p = logits.softmax(-1)
    of_mean = logits.mean(1).softmax(-1)
    votes = torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).float()
    return {
        "The logits were averaged, then the softmax taken: a sure route counts more than its share.": of_mean,
        "These are logits: take each route's softmax first.": logits.mean(1),
        "These are log-probabilities: Eq. 7 averages probabilities.": p.mean(1).log(),
        "These are averaged log-probabilities: Eq. 7 averages probabilities.": p.log().mean(1),
        "That is a vote: each route's answer without how sure it is.": votes.mean(1),
        "That is the sum over routes: take the mean.": p.sum(1),
        "The softmax ran over the routes: each route's classes must sum to 1 (dim=-1).": logits.softmax(1).mean(1),
        "That is one route alone.": p[:, 0],
    }


def _tensor(value: object, what: str, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        came = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        wrong(what, f"a tensor {list(shape)}", came, "Which axis is averaged, which is kept?")
    return value.float()


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
    for places, values, expected in LINES:
        t, losses = torch.tensor(places, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
        came = number(call(barrier, t.clone(), losses.clone()), "The barrier")
        steps = torch.linspace(0, 1, len(t), dtype=torch.float64)
        chord, by_number = ((1 - s) * losses[0] + s * losses[-1] for s in (t, steps))
        first, last, top = float(losses[0]), float(losses[-1]), float(losses.max())
        mistakes = {
            "That is the height above the lowest point; a slope or a valley is no barrier. Measure from the chord.":
                top - float(losses.min()),
            "That is the height above the first model, the better end: a climb to a worse one is no barrier.":
                top - first,
            "That is the height above the last model, the worse end: the chord lies below it before.": top - last,
            "The chord runs from one end's loss to the other's; here it was level, at their mean.":
                top - (first + last) / 2,
            "The chord was drawn by number of point: the places are not evenly spaced, use t.":
                max(0.0, float((losses - by_number).max())),
            "Distances from the chord were taken without their sign: below it there is no barrier.":
                float((losses - chord).abs().max()),
            "That is a mean height: a barrier is the greatest.": float((losses - chord).mean()),
        }  # fmt: skip
        compare(f"The barrier of losses {list(values)} at {list(places)}", expected, came, mistakes)
    passed("check_barrier")
