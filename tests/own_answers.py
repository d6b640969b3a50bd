"""Answers to lesson 08's checks: the right ones, and wrong ones with the cause that the check has to name."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from adamix_lab.core.adaptations import Adaptation, Weight, along, kaiming, linear, ones, zeros


@dataclass(frozen=True)
class GatedLoRA(Adaptation):
    rank: int = 4
    kind: ClassVar[str] = "gated-lora"
    sides: ClassVar[tuple[str, ...]] = ("A", "B")

    def weights(self, in_features, out_features):
        return {
            "A": Weight((self.rank, in_features), "A", kaiming),
            "B": Weight((out_features, self.rank), "B", zeros),
            "gate": Weight((out_features,), "B", ones, decay=False),
        }

    def apply(self, base, x, w, training):
        update = linear(linear(x, w["A"]), w["B"])
        return base(x) + along(update, w["gate"]) * update


def weight(experts, combination):
    return 1 / experts**2 if combination == "linear" else 1 / experts


def declaring(name, *, shape=None, side="B", start=ones, decay=False):
    """The right class but for one weight."""

    class Other(GatedLoRA):
        def weights(self, in_features, out_features):
            made = super().weights(in_features, out_features)
            given = shape or made[name].shape
            return made | {name: Weight(given, side, start, decay=decay)}

    return Other


def applying(function):
    """The right class but for `apply`: function(y, update, w)."""

    class Other(GatedLoRA):
        def apply(self, base, x, w, training):
            return function(base(x), linear(linear(x, w["A"]), w["B"]), w)

    return Other


class Twice(GatedLoRA):
    def apply(self, base, x, w, training):
        return super().apply(base, x, w, training) + 0 * base(x)


WRONG_CLASSES = {
    "an instance": (GatedLoRA(), "the class itself"),
    "gate of the input's width": (declaring("gate", shape=(6,)), r"\[out\] = \[5\]"),
    "the gate decays": (declaring("gate", decay=True), "decay would pull the update"),
    "the gate on A's side": (declaring("gate", side="A"), "acts where B writes"),
    "B starts at random": (declaring("B", start=kaiming), "start at zero"),
    "the base runs twice": (Twice, "Call base"),
    "no gate": (applying(lambda y, u, w: y + u), "gate is missing"),
    "no base": (applying(lambda y, u, w: along(u, w["gate"]) * u), "frozen layer's"),
    "everything gated": (applying(lambda y, u, w: along(u, w["gate"]) * (y + u)), "on the update only"),
    "a plain product": (applying(lambda y, u, w: y + w["gate"] * u), "needs along"),
    "the first view's gate": (applying(lambda y, u, w: y + w["gate"].reshape(-1, u.shape[-1])[0] * u), "needs along"),
}

WRONG_WEIGHTS = {
    "1/M": (lambda m, c: 1 / m, "root on A and on B"),
    "by hand": (lambda m, c: m**-0.5 if c == "linear" else 1 / m, "root goes on by itself"),
    "ones": (lambda m, c: 1.0, "M² times too large"),
    "squares": (lambda m, c: 1 / m**2, "weigh each product once"),
    "two numbers": (lambda m, c: torch.ones(2), "one number"),
}
