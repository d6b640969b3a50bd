"""UniPELT-style: gated bottleneck adapters and gated LoRA in one adaptation (Mao et al., 2022), without its prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adamix_lab.core.adaptations import Adaptation, Base, Bottleneck, LoRA, Weight, Weights, linear, normal, zeros
from adamix_lab.core.errors import positive
from adamix_lab.core.mixture import constant
from adamix_lab.core.sites import known_patterns, pattern_to_regex


@dataclass(frozen=True)
class GatedBottleneck(Bottleneck):
    """`y + g * up(f(down(y)))`, the gate `g = sigmoid(w y + b)` a number a token."""

    kind: ClassVar[str] = "gated-bottleneck"

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """The bottleneck's, and the gate over the adapter's input, the frozen output."""
        return super().weights(in_features, out_features) | _gate(out_features)

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """The frozen output and the gated update."""
        y = base(x)
        adapted = super().apply(constant(y), x, w, training)
        return y + gate(y, w) * (adapted - y)


@dataclass(frozen=True)
class GatedLoRA(LoRA):
    """`Wx + g * (alpha / r) B A x`, the gate `g = sigmoid(w x + b)` a number a token.

    A is the side "down" and B the side "up", so that these sites have the adapters' sides.
    """

    kind: ClassVar[str] = "gated-lora"
    sides: ClassVar[tuple[str, ...]] = ("down", "up")

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """LoRA's, and the gate over the layer's input."""
        side = {"A": "down", "B": "up"}
        ours = super().weights(in_features, out_features)
        return {
            name: Weight(weight.shape, side[weight.side], weight.start, weight.decay, weight.copies_start_alike)
            for name, weight in ours.items()
        } | _gate(in_features)

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """The frozen output and the gated update."""
        y = base(x)
        adapted = super().apply(constant(y), x, w, training)
        return y + gate(x, w) * (adapted - y)

    def fold(self, w: Weights, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Refused: the gate makes the update depend on the input."""
        return Adaptation.fold(self, w, weight, bias)


@dataclass(frozen=True)
class UniPELT(Adaptation):
    """Gated adapters after the feed-forward part and gated LoRA at every other site (query and value).

    Departs from the paper: no prefix, and a gate a token where the authors average it over the sentence, which
    would read padding. Being an adaptation, it can be mixed, shared and merged.
    """

    size: int = 48
    rank: int = 8
    alpha: float = 16.0
    slices: tuple[tuple[int, int], ...] | None = None

    kind: ClassVar[str] = "unipelt"
    sides: ClassVar[tuple[str, ...]] = ("down", "up")

    def __post_init__(self) -> None:
        positive("bottleneck size", self.size)
        positive("LoRA rank", self.rank)
        if self.slices is not None:  # JSON gives lists
            object.__setattr__(self, "slices", tuple((int(a), int(b)) for a, b in self.slices))

    def at(self, path: str) -> Adaptation:
        """The gated adapter where the feed-forward part ends, gated LoRA elsewhere."""
        if any(pattern_to_regex(*pattern).fullmatch(path) for pattern in known_patterns("ffn").values()):
            return GatedBottleneck(self.size, init="identity")
        return GatedLoRA(self.rank, self.alpha, slices=self.slices)


def gate(x: Tensor, w: Weights) -> Tensor:
    """`sigmoid(w x + b)`, `[..., 1]`; it starts near 1/2."""
    return torch.sigmoid(linear(x, w["gate"], w["gate_bias"]))


def _gate(features: int) -> dict[str, Weight]:
    return {
        "gate": Weight((1, features), "down", normal),
        "gate_bias": Weight((1,), "down", zeros, decay=False),
    }
