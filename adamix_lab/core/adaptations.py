"""What an adaptation is: a small trainable function around one frozen layer.

An adaptation declares its weights (name, shape, side, start, decay) and one pure function, `Adaptation.apply`. Mixing,
sharing, routing, merging, ensembling and landscapes then work for it at once: the layer in `adamix_lab.core.mixture`
keeps M copies of every weight and hands `apply` the *effective* ones. To add your own, subclass `Adaptation`;
ARCHITECTURE.md shows one in fifteen lines.

Effective weights may carry one leading axis K (views, points, runs or examples). The input then holds K groups of
rows, group after group: `[K * B, T, d]`. A shared side's weight has no K axis beside others
that do: combine them through `linear` and `along`, which take care of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from adamix_lab.core.errors import LabError, finite, fraction, one_of, positive, unknown

Base = Callable[[Tensor], Tensor]
Start = Callable[[tuple[int, ...], Generator], Tensor]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Weight:
    """One weight of an adaptation: its shape, the side it belongs to, how it starts, whether it decays.

    start: called with (shape, generator), it gives one copy's first values.
    copies_start_alike: the M copies start as one draw, not as a draw each.

    >>> weight = Weight((4,), "scale", lambda shape, generator: torch.ones(shape))
    >>> weight.start(weight.shape, None)
    tensor([1., 1., 1., 1.])
    """

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
    """N(0, 0.02), the start of every linear map in the reference."""
    return torch.randn(shape, generator=generator) * 0.02


def kaiming(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Kaiming-uniform with a = sqrt(5), as `nn.Linear` and LoRA's A start."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * (1 / math.sqrt(shape[-1]))


def along(x: Tensor, vector: Tensor) -> Tensor:
    """A vector `[d]`, or K of them `[K, d]`, shaped so that it broadcasts over the rows of x."""
    if vector.dim() == 1:
        return vector
    if x.shape[0] != vector.shape[0]:  # K groups of B rows: repeat each vector B times
        vector = vector.repeat_interleave(x.shape[0] // vector.shape[0], dim=0)
    return vector.reshape(vector.shape[0], *([1] * (x.dim() - 2)), vector.shape[-1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, with one weight `[out, in]` or K of them `[K, out, in]`.

    x: `[K * B, ..., in]` (or `[K, B, ..., in]`), returns the same leading shape with `out` last, in the weight's dtype
    (experts stay float32 inside a bfloat16 base; autocast casts by itself).
    """
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)
    if bias is not None and bias.dim() != weight.dim() - 1:  # one of the two is shared: K meets one
        out = linear(x, weight)
        return out + along(out, bias)
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    groups = x.reshape(weight.shape[0], -1, x.shape[-1])  # [K, rows, in]
    out = torch.bmm(groups, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), groups, weight.mT)
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
        keeps_input: the frozen layer sees the input unchanged, so that several experts can share its output.
        reads_input: False if `apply` uses x only to call base: a cache keeps base's output alone, for x, too.

    >>> LoRA(4).kind, LoRA(4).sides, LoRA(4).config()["rank"]
    ('lora', ('A', 'B'), 4)
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

        Raises ValueError unless the adaptation has a `fold` of its own, which takes one that is linear in its input.
        """
        raise LabError(
            f"{self.kind} cannot be folded into the frozen weight: it has no `fold`, as it is not linear in its input, "
            "or nobody wrote it. Keep it as a module (merge), or use LoRA, IA3 or bias."
        )

    def at(self, path: str) -> Adaptation:
        """What one site gets; itself, unless the sites of one adaptation differ (with equally many sides)."""
        return self

    def config(self) -> dict[str, object]:
        """The settings as plain values, `kind` included."""
        return {"kind": self.kind, **asdict(self)}


# -- the adaptations that come with the library --

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class Bottleneck(Adaptation):
    """Bottleneck adapter after the frozen layer: `y = Wx; y + up(f(down(y)))` (Eq. 3).

    init: "reference" draws both maps from N(0, 0.02) with zero biases, so the model is perturbed at step 0, as the
    authors' is; "identity" starts the up-projection at zero.

    >>> Bottleneck(16).sides
    ('down', 'up')
    """

    size: int = 16
    activation: str = "gelu"
    dropout: float = 0.0
    init: Literal["reference", "identity"] = "reference"

    kind: ClassVar[str] = "bottleneck"
    sides: ClassVar[tuple[str, ...]] = ("down", "up")
    reads_input: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("bottleneck size", self.size)
        fraction("dropout", self.dropout)
        one_of("init", self.init, ("reference", "identity"))
        one_of("activation", self.activation, ACTIVATIONS)

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """Down `[r, d]`, up `[d, r]` and their biases, d the frozen layer's output width."""
        up = normal if self.init == "reference" else zeros
        return {
            "down": Weight((self.size, out_features), "down", normal),
            "down_bias": Weight((self.size,), "down", zeros, decay=False),
            "up": Weight((out_features, self.size), "up", up),
            "up_bias": Weight((out_features,), "up", zeros, decay=False),
        }

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """`y + up(f(down(y)))` with y the frozen output."""
        y = base(x)
        hidden = ACTIVATIONS[self.activation](linear(y, w["down"], w["down_bias"]))
        update = linear(dropout(hidden, self.dropout, training), w["up"], w["up_bias"])
        if torch.is_grad_enabled():
            return update + y
        return update.add_(y)  # in place: inference is bound by memory (a gradient through a changed view is dearer)


@dataclass(frozen=True)
class LoRA(Adaptation):
    """Low-rank update beside the frozen layer: `y = Wx + (alpha / r) B A x` (Hu et al., 2022).

    slices: output ranges `((start, stop), ...)` of a fused projection that get an update each, all drawn with
    one route (GPT-2's q and v: `((0, d), (2d, 3d))`). None means the whole output.
    init: "reference" starts all M copies of A alike, as the authors' LoRA does; "identity" draws each copy.
    B starts at zero in both, so the model is unchanged at step 0.

    >>> attach(model, LoRA(8), share="B").merge_and_unload() is not None  # no mixture is left in it
    True
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    slices: tuple[tuple[int, int], ...] | None = None
    init: Literal["reference", "identity"] = "identity"

    kind: ClassVar[str] = "lora"
    sides: ClassVar[tuple[str, ...]] = ("A", "B")

    def __post_init__(self) -> None:
        positive("LoRA rank", self.rank)
        finite("LoRA alpha", self.alpha)
        fraction("dropout", self.dropout)
        one_of("init", self.init, ("reference", "identity"))
        if self.slices is not None:  # JSON gives lists
            object.__setattr__(self, "slices", tuple((int(a), int(b)) for a, b in self.slices))

    @property
    def scale(self) -> float:
        """The factor alpha / r."""
        return self.alpha / self.rank

    def ranges(self, out_features: int) -> list[tuple[str, int, int]]:
        """(suffix of A's and B's names, first row, end) of each part of the output that gets an update."""
        if self.slices is None:
            return [("", 0, out_features)]
        stop_before = 0
        for start, stop in self.slices:
            if not stop_before <= start < stop <= out_features:
                raise LabError(
                    f"LoRA slice ({start}, {stop}) does not fit: expected ascending, disjoint ranges inside "
                    f"0..{out_features}, the frozen layer's output. Give the ranges of q, k or v you want."
                )
            stop_before = stop
        return [(str(n), a, b) for n, (a, b) in enumerate(self.slices)]

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """A `[r, in]` and B `[out, r]`; with slices A0, B0, A1, B1, ..."""
        alike = self.init == "reference"
        named: dict[str, Weight] = {}
        for n, start, stop in self.ranges(out_features):
            named[f"A{n}"] = Weight((self.rank, in_features), "A", kaiming, copies_start_alike=alike)
            named[f"B{n}"] = Weight((stop - start, self.rank), "B", zeros)
        return named

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """`Wx + scale * B A dropout(x)`, zero outside the slices."""
        y = base(x)
        x = dropout(x, self.dropout, training)
        out = y.shape[-1]
        for n, start, stop in self.ranges(out):
            update = linear(linear(x, w[f"A{n}"]), w[f"B{n}"]) * self.scale
            y = y + (update if stop - start == out else F.pad(update, (start, out - stop)))
        return y

    def fold(self, w: Weights, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W plus `scale * B A` in the rows of each slice."""
        weight = weight.clone()
        for n, start, stop in self.ranges(weight.shape[0]):
            weight[start:stop] += self.scale * (w[f"B{n}"].float() @ w[f"A{n}"].float())
        return weight, bias


@dataclass(frozen=True)
class IA3(Adaptation):
    """Rescaling by a learned vector (Liu et al., 2022): of the output, or of the input where `feedforward`.

    >>> attach(model, IA3()).space.counts[0]
    (4,)
    """

    feedforward: bool = False

    kind: ClassVar[str] = "ia3"
    sides: ClassVar[tuple[str, ...]] = ("scale",)

    @property
    def keeps_input(self) -> bool:  # type: ignore[override]
        """The feed-forward form scales the frozen layer's input."""
        return not self.feedforward

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """One vector over the scaled width; it starts at one and never decays."""
        width = in_features if self.feedforward else out_features
        return {"scale": Weight((width,), "scale", ones, decay=False)}

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """`W(l * x)` (feed-forward) or `l * Wx`."""
        if self.feedforward:
            return base((x * along(x, w["scale"])).to(x.dtype))
        y = base(x)
        return y * along(y, w["scale"])

    def fold(self, w: Weights, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Scaled columns (feed-forward) or scaled rows and bias."""
        scale = w["scale"].float()
        if self.feedforward:
            return weight * scale, bias
        return weight * scale.unsqueeze(1), None if bias is None else bias * scale


@dataclass(frozen=True)
class Bias(Adaptation):
    """An added bias on the frozen output (BitFit's idea, one vector a site).

    >>> attach(model, Bias(), experts=2).space.counts[0]
    (2,)
    """

    kind: ClassVar[str] = "bias"
    sides: ClassVar[tuple[str, ...]] = ("bias",)
    reads_input: ClassVar[bool] = False

    def weights(self, in_features: int, out_features: int) -> dict[str, Weight]:
        """One vector `[out]`, from zero."""
        return {"bias": Weight((out_features,), "bias", zeros, decay=False)}

    def apply(self, base: Base, x: Tensor, w: Weights, training: bool) -> Tensor:
        """`Wx + b`."""
        y = base(x)
        return y + along(y, w["bias"])

    def fold(self, w: Weights, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The frozen weight and the sum of both biases."""
        added = w["bias"].float()
        return weight, added if bias is None else bias + added


ADAPTATIONS: dict[str, type[Adaptation]] = {"bottleneck": Bottleneck, "lora": LoRA, "ia3": IA3, "bias": Bias}


def adaptation_from(config: Mapping[str, object]) -> Adaptation:
    """The adaptation a configuration names, e.g. `{"kind": "lora", "rank": 8}`.

    Raises ValueError for an unknown kind or setting; your own kind is known once it stands in `ADAPTATIONS`.
    """
    settings = dict(config)
    kind = str(settings.pop("kind", None))
    if kind not in ADAPTATIONS:
        raise LabError(f"{unknown('adaptation', kind, ADAPTATIONS)} Register your own: ADAPTATIONS[kind] = YourClass.")
    names = [field.name for field in fields(ADAPTATIONS[kind])]
    for name in settings:
        one_of(f"setting of {kind}", name, names)
    return ADAPTATIONS[kind](**settings)
