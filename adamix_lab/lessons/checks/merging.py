"""Lesson 03: equal functions whose average is none, and bringing units back into order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.numerics import REORDERED
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, passed, same, wrong

Expert = dict[str, Tensor]  # "down" [r, d], "down_bias" [r], "up" [d, r], "up_bias" [d]


def check_cancelling(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    """Checks two LoRAs (A `[r, in]`, B `[out, r]`): equal updates B A that are not zero, and a mean that is zero."""
    (a, b), (c, d) = ((torch.as_tensor(part).float() for part in pair) for pair in (first, second))
    for name, one, other in (("A", a, c), ("B", b, d)):
        if one.shape != other.shape:
            wrong(f"The two {name}", "equal shapes", f"{list(one.shape)} and {list(other.shape)}")
    if a.dim() != 2 or b.dim() != 2 or b.shape[1] != a.shape[0]:
        wrong("A pair", "A [r, in] and B [out, r]", f"{list(a.shape)} and {list(b.shape)}")
    rounding = REORDERED[torch.float32]
    if float((b @ a).norm()) <= rounding * float(b.norm() * a.norm()):
        wrong(
            "The update B A", "something else than zero", "zero", "Zero matrices agree trivially: start from any B A."
        )
    if not same(d @ c, b @ a):
        cause = "The updates are opposite: change the sign of both A and B." if same(-d @ c, b @ a) else ""
        wrong("The two updates B A", "equal ones", f"a distance of {float((b @ a - d @ c).norm()):.3f}", cause)
    if float(((b + d) / 2 @ ((a + c) / 2)).norm()) > rounding * float((b @ a).norm()):
        repeated = torch.equal(a, c) and torch.equal(b, d)
        wrong("The update of the averaged factors", 0.0, float(((b + d) / 2 @ ((a + c) / 2)).norm()),
              "These are the same matrices twice: their mean is themselves." if repeated else
              "Average A with A and B with B, then multiply: which second pair makes both means vanish?")  # fmt: skip
    passed("check_cancelling")


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
