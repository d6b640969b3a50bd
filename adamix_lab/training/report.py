"""Honest counts and a picture of the structure in text."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import WAYS
from adamix_lab.models.model import MixtureModel


@dataclass(frozen=True, repr=False)
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
            f"{self.head:,} = {100 * self.share_of_base:.2f} % of the base's {self.base:,} ({mb:.2f} MB in float32)"
        )

    __repr__ = __str__


def parameter_report(mixture: MixtureModel) -> ParameterReport:
    """Counts of a mixture model; `base` is the frozen model without head and experts.

    >>> counts = parameter_report(mixture)
    >>> counts.merged < counts.experts < counts.base
    True
    """
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
    objective = Objective(mixture, consistency, ways=WAYS)
    objective(batch, routes)  # short-cuts are tried at their first use, which is no part of a step
    with FlopCounterMode(display=False) as counter:
        objective(batch, routes).total.backward()
    mixture.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def structure(model: nn.Module, depth: int = 6) -> str:
    """The module tree, one line a module, equal neighbours counted, with the weights and what trains.

    Sites show their adaptation; `trains` marks parts that hold trained weights.

    >>> print(structure(mixture, depth=1).splitlines()[0].split(" (")[0])
    MixtureModel
    """
    return "\n".join([_label("", model), *_branch(model, "", depth)])


def structure_html(model: nn.Module, depth: int = 6) -> str:
    """The same for a notebook."""
    return f"<pre>{html.escape(structure(model, depth))}</pre>"


def _branch(module: nn.Module, indent: str, depth: int) -> Iterator[str]:
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    if depth == 0 or hasattr(module, "adaptation"):
        return
    # neighbours of a list that look alike are one line
    groups = [list(group) for _, group in groupby(children, lambda part: repr(part[1]) if part[0].isdigit() else part)]
    for n, group in enumerate(groups):
        (first, _), (last, child) = group[0], group[-1]
        end = n == len(groups) - 1
        yield f"{indent}{'└─' if end else '├─'} {_label(first if first == last else f'{first}-{last}', child)}"
        yield from _branch(child, indent + ("   " if end else "│  "), depth - 1)


def _label(name: str, module: nn.Module) -> str:
    total = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    note = f" {module.extra_repr()}" if hasattr(module, "adaptation") else ""
    trains = f", {trained:,} train" if trained else ""
    return f"{name}{': ' if name else ''}{type(module).__name__}{note} ({total:,}{trains})"
