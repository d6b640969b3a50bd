"""A learned Switch gate (Fedus et al., 2022): the contrast to routes that are drawn blindly.

The gate looks at hidden states and sends each token to one expert, scaled by its probability. It returns its choices
and its balancing loss through a collector opened around the call, and it cannot be merged: the weights that serve a
token depend on the token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adamix_lab.core.mixture import MixtureLayer, memoized
from adamix_lab.core.routing import generator_for
from adamix_lab.models.model import MixtureModel


@dataclass
class GateRecord:
    """What the gates of one call did, by site in calling order.

    Attributes:
        choices: expert of each token, `[rows, T]` a site.
        probabilities: `[rows, T, M]` a site.
    """

    choices: list[Tensor] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)

    def balance(self) -> Tensor:
        """The balancing loss `M * sum_i f_i P_i`, mean over sites: 1 for an even load, M where one expert has all."""
        means = torch.stack([probability.flatten(0, -2).mean(0) for probability in self.probabilities])  # P_i
        return (means.shape[-1] * (self.load() * means).sum(-1)).mean()

    def load(self) -> Tensor:
        """Share of tokens each expert serves, `[sites, M]`: f_i, which has no gradient."""
        pairs = zip(self.choices, self.probabilities, strict=True)
        return torch.stack([torch.bincount(c.flatten(), minlength=p.shape[-1]) / c.numel() for c, p in pairs])


_OPEN: ContextVar[GateRecord | None] = ContextVar("gate_record", default=None)


@contextmanager
def collect_gates() -> Iterator[GateRecord]:
    """Collects what the gates do inside the block."""
    record = GateRecord()
    token = _OPEN.set(record)
    try:
        yield record
    finally:
        _OPEN.reset(token)


class SwitchLayer(nn.Module):
    """A mixture layer behind a learned top-1 gate: `y + p_i(x) * (E_i(x) - y)`, i the most probable expert."""

    def __init__(self, layer: MixtureLayer, seed: int, site: int) -> None:
        super().__init__()
        self.layer = layer
        self.adaptation = layer.adaptation
        experts = max(layer.counts())
        start = torch.randn(experts, layer.in_features, generator=generator_for(seed, site)) * 0.02
        self.gate = nn.Parameter(start.to(layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states `[rows, T, in]` to `[rows, T, out]`."""
        probabilities = torch.softmax(x.to(self.gate.dtype) @ self.gate.mT, -1)
        chosen, choice = probabilities.max(-1)
        base = memoized(self.layer.base) if self.layer.adaptation.keeps_input else self.layer.base
        y = base(x)
        change = torch.zeros_like(y, dtype=self.gate.dtype)
        for expert in range(self.gate.shape[0]):
            route = torch.tensor([min(expert, count - 1) for count in self.layer.counts()], device=x.device)
            adapted = self.layer.adaptation.apply(base, x, self.layer.weights(route), self.training)
            change = torch.where((choice == expert)[..., None], adapted - y, change)
        if (record := _OPEN.get()) is not None:
            record.choices.append(choice.detach())
            record.probabilities.append(probabilities)
        return (y + chosen[..., None] * change).to(y.dtype)

    @property
    def weight(self) -> Tensor:
        """The frozen layer's weight."""
        return self.layer.weight


def attach_gates(mixture: MixtureModel, seed: int = 0) -> nn.Module:
    """The model with a Switch gate at each site, sharing the mixture's experts; `detach_gates` takes them off."""
    for n, (path, layer) in enumerate(mixture.sites.items()):
        mixture.model.set_submodule(path, SwitchLayer(layer, seed, n))
    return mixture.model


def detach_gates(mixture: MixtureModel) -> None:
    """Takes the gates off again; the mixture is as before."""
    for path in mixture.mixture.sites:
        layer = mixture.model.get_submodule(path)
        if isinstance(layer, SwitchLayer):
            mixture.model.set_submodule(path, layer.layer)
