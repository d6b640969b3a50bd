"""Honest counts and a picture of the structure in text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.core.views import Batch
from adamix_lab.fast.views import WAYS


@dataclass(frozen=True)
class ParameterReport:
    """Parameter counts, kept apart: what trains, what is left after merging, the head, the base.

    own: the base's own weights that train along, in baselines.
    """

    experts: int
    merged: int
    head: int
    base: int
    own: int = 0

    @property
    def share_of_base(self) -> float:
        """What is kept beside the frozen weights, as a share of the base."""
        return (self.merged + self.head + self.own) / (self.base + self.own)

    def __str__(self) -> str:
        mb = (self.merged + self.head) * 4 / 1e6
        return (
            f"trained experts {self.experts:,} + head {self.head:,}; after merging {self.merged:,} + head "
            f"{self.head:,} "
            f"= {100 * self.share_of_base:.2f} % of the base's {self.base:,} ({mb:.2f} MB in float32)"
        )


def parameter_report(mixture: MixtureModel) -> ParameterReport:
    """Counts of a mixture model; `base` is the frozen model without head and experts."""
    experts = merged = 0
    for _, stacked in mixture.expert_parameters():
        experts += stacked.numel()
        merged += stacked[0].numel()
    head = sum(p.numel() for _, p in mixture.head_parameters())
    own = sum(p.numel() for _, p in mixture.own_parameters())
    everything = sum(p.numel() for p in mixture.model.parameters())
    return ParameterReport(experts, merged, head, everything - experts - head - own, own)


def step_operations(mixture: MixtureModel, batch: Batch, consistency: Consistency) -> int:
    """Floating-point operations of one training step (forward and backward), as PyTorch counts them.

    batch: with labels. The gradients it makes are cleared.
    """
    from torch.utils.flop_counter import FlopCounterMode

    routes = Router(mixture.space).views(0, consistency.number)
    with FlopCounterMode(display=False) as counter:
        Objective(mixture, consistency, ways=WAYS)(batch, routes).total.backward()
    mixture.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def structure(model: nn.Module, depth: int = 6) -> str:
    """The module tree, one line a module, equal neighbours counted, with the weights and what trains.

    Sites show their adaptation; `trains` marks parts that hold trained weights.
    """
    lines: list[str] = [_label("", model)]
    _branch(model, "", depth, lines)
    return "\n".join(lines)


def _branch(module: nn.Module, indent: str, depth: int, lines: list[str]) -> None:
    if depth == 0:
        return
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    groups: list[tuple[str, str, nn.Module]] = []
    for name, child in children:
        if groups and name.isdigit() and groups[-1][0].isdigit() and _shape(groups[-1][2]) == _shape(child):
            groups[-1] = (groups[-1][0], name, child)
        else:
            groups.append((name, name, child))
    for n, (first, last, child) in enumerate(groups):
        end = n == len(groups) - 1
        name = first if first == last else f"{first}-{last}"
        lines.append(f"{indent}{'└─' if end else '├─'} {_label(name, child)}")
        if not hasattr(child, "adaptation"):
            _branch(child, indent + ("   " if end else "│  "), depth - 1, lines)


def _shape(module: nn.Module) -> str:
    return repr(module)


def _label(name: str, module: nn.Module) -> str:
    total = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    note = f" {module.extra_repr()}" if hasattr(module, "adaptation") else ""
    trains = f", {trained:,} train" if trained else ""
    return f"{name}{': ' if name else ''}{type(module).__name__}{note} ({total:,}{trains})"
