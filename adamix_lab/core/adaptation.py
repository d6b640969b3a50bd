"""What an adaptation is: a small trainable function around one frozen layer.

An adaptation declares its weights (name, shape, side, start, decay) and one pure function,
`Adaptation.apply`. Mixing, sharing, routing, merging, ensembling and landscapes then work for it at
once: the layer in `adamix_lab.core.mixture` keeps M copies of every weight and hands `apply` the
*effective* ones. To add your own, subclass `Adaptation`; ARCHITECTURE.md shows one in fifteen lines.

Effective weights may carry one leading axis K (views, points, runs or examples). The input then holds
K groups of rows, group after group: `[K * B, T, d]`. The helpers `linear` and `along` take care of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Base = Callable[[Tensor], Tensor]
Start = Callable[[tuple[int, ...], Generator], Tensor]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Weight:
    """One weight of an adaptation: its shape, the side it belongs to, how it starts, whether it decays."""

    shape: tuple[int, ...]
    side: str
    start: Start
    decay: bool = True
    copies_start_alike: bool = False


def zeros(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """A start at zero."""
    return torch.zeros(shape)


def ones(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """A start at one."""
    return torch.ones(shape)


def normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """N(0, 0.02), the start of every linear map in the reference (REFERENCE 1.7)."""
    return torch.randn(shape, generator=generator) * 0.02


def kaiming(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Kaiming-uniform with a = sqrt(5), as `nn.Linear` and LoRA's A start."""
    bound = 1 / math.sqrt(shape[-1])
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def along(x: Tensor, vector: Tensor) -> Tensor:
    """A vector `[d]`, or K of them `[K, d]`, shaped so that it broadcasts over the rows of x."""
    if vector.dim() == 1:
        return vector
    rows = x.shape[0] // vector.shape[0]
    if x.shape[0] != vector.shape[0]:  # K groups of B rows: repeat each vector B times
        vector = vector.repeat_interleave(rows, dim=0)
    return vector.reshape(vector.shape[0], *([1] * (x.dim() - 2)), vector.shape[-1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, with one weight `[out, in]` or K of them `[K, out, in]`.

    x: `[K * B, ..., in]` (or `[K, B, ..., in]`), returns the same leading shape with `out` last, in the
    weight's dtype (experts stay float32 inside a bfloat16 base; autocast casts by itself).
    """
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)
    if bias is not None and bias.dim() != weight.dim() - 1:  # one of the two is shared: K meets one
        out = linear(x, weight)
        return out + along(out, bias)
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    groups = x.reshape(weight.shape[0], -1, x.shape[-1])  # [K, rows, in]
    if bias is None:
        out = torch.bmm(groups, weight.mT)
    else:
        out = torch.baddbmm(bias.unsqueeze(1), groups, weight.mT)
    return out.reshape(*x.shape[:-1], weight.shape[1])


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout passed in as numbers, so that an adaptation stays a pure function."""
    return F.dropout(x, p, training) if p else x


@dataclass(frozen=True)
class Adaptation:
    """Settings of an adaptation. Subclasses add `weights` and `apply`.

    Class variables:
        kind: the name in configurations.
        sides: what can be shared or routed on its own.
        keeps_input: the frozen layer sees the input unchanged, so several children can share its output.
        reads_input: `apply` uses x for more than calling base; False lets a cached frozen output stand for both.
    """

    kind: ClassVar[str]
    sides: ClassVar[tuple[str, ...]]
    keeps_input: ClassVar[bool] = True
    reads_input: ClassVar[bool] = True

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """The weights for a frozen layer of these sizes."""
        raise NotImplementedError

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """The adapted output for x `[..., in]`: `[..., out]`. Calls `base` once."""
        raise NotImplementedError

    def fold(self, w: Weights, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The frozen weight `[out, in]` and bias `[out]`, float32, that alone give the adapted output.

        Raises ValueError where the adaptation is not linear in its input.
        """
        raise ValueError(
            f"{self.kind} cannot be folded into the frozen weight: it is not linear in its input. "
            "Keep it as a module (merge), or use LoRA, IA3 or bias."
        )

    def at(self, path: str) -> Adaptation:
        """What one site gets; itself, unless the sites of one adaptation differ (with equally many sides)."""
        return self

    def config(self) -> dict[str, object]:
        """The settings as plain values, `kind` included."""
        return {"kind": self.kind, **asdict(self)}
