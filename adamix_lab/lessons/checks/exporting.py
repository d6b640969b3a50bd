"""Lesson 08: an adaptation of one's own, and the weight at which peft's combination is the merge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.mixture import declared_weights
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, compare, match, number, passed, same, wrong

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

    if not same(call(made.apply, base, x, started, False), x @ frozen.T):
        wrong("The output at the start", "the frozen layer's", "another", "One factor of B A has to start at zero.")
    if len(calls) != 1:
        wrong("Calls of the frozen layer", 1, len(calls), "Call base(x) once and keep what it answers.")
    one = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    other = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    _check_output(call(made.apply, base, x, one, False), x, frozen, one)
    both = {name: torch.stack([one[name], other[name]]) for name in shapes}
    expected = torch.cat([_output(x[:2], frozen, one), _output(x[2:], frozen, other)])
    try:
        came = call(made.apply, base, x, both, False)
    except AssertionError as error:
        wrong("Two views in one pass, weights [2, ...]", "an output", "an error",
              f"A vector [K, out] needs along(update, gate) to meet its K groups of rows. {error}")  # fmt: skip
    if not same(came, expected):
        wrong("Two views in one pass, weights [2, ...]", "each group with its own weights", "another output",
              "A vector [K, out] needs along(update, gate) to meet its K groups of rows.")  # fmt: skip
    passed("check_gated_lora")


def _output(x: Tensor, frozen: Tensor, w: dict[str, Tensor]) -> Tensor:
    return x @ frozen.T + w["gate"] * (x @ w["A"].T @ w["B"].T)


def _check_output(came: Tensor, x: Tensor, frozen: Tensor, w: dict[str, Tensor]) -> None:
    y, update = x @ frozen.T, x @ w["A"].T @ w["B"].T
    mistakes = {
        "The gate is missing.": y + update,
        "The frozen output is missing: add base(x).": w["gate"] * update,
        "The gate acts on the update only, not on the frozen output.": w["gate"] * (y + update),
    }
    match("The output", "Wx + gate * (B A x)", _output(x, frozen, w), came, mistakes)


def check_peft_weight(weight: Callable[[int, str], float]) -> None:
    """Checks `weight(experts, combination)`: what each of M experts gets in `add_weighted_adapter` to equal a merge.

    "linear" is to give the mean of factors, "cat" the mean of products.
    """
    for experts in (2, 4, 5):
        found = number(call(weight, experts, "linear"), f"weight({experts}, 'linear')")
        compare(f"weight({experts}, 'linear')", 1 / experts**2, found, {
            "That is a mean's weight, but linear puts its root on A and on B: the update comes out M times too large.":
                1 / experts,
            "The root goes on by itself: give the square of what each factor is to get.": experts**-0.5,
            "Ones add up M factors on each side: the update comes out M² times too large.": 1.0,
        })  # fmt: skip
        found = number(call(weight, experts, "cat"), f"weight({experts}, 'cat')")
        compare(f"weight({experts}, 'cat')", 1 / experts, found, {
            "cat keeps the pairs and adds their products: weigh each product once.": 1 / experts**2,
            "Ones add up M products.": 1.0,
        })  # fmt: skip
    passed("check_peft_weight")
