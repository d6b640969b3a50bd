"""One function has many weights: the units inside a bottleneck have no order.

Permute the rows of the down projection, its bias and the columns of the up projection alike, and the function is the
same. Means of weights are not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from adamix_lab.core.errors import LabError

Tensors = dict[str, Tensor]  # `experts.<site>.<name>`, `[M, ...]` each, as `trained_tensors` gives them


def bottleneck_sites(tensors: Tensors) -> Iterator[str]:
    """The prefixes `experts.<site>.` of bottleneck sites. Raises ValueError for none, or for a shared side."""
    found = [name.removesuffix("down") for name in tensors if name.endswith(".down")]
    if not found:
        raise LabError("No bottleneck was found: expected weights down, down_bias, up and up_bias at some site.")
    for site in found:
        if len(tensors[f"{site}down"]) != len(tensors[f"{site}up"]):
            raise LabError(f"{site[8:-1]} shares a side among experts: expected experts that have both sides each.")
    yield from found


def permute_units(tensors: Tensors, site: str, expert: int, order: Tensor) -> Tensors:
    """One expert's units in another order, at one site; the function it computes is unchanged."""
    changed = {name: tensors[f"{site}{name}"].clone() for name in ("down", "down_bias", "up")}
    changed["down"][expert] = changed["down"][expert][order]  # [r, d]
    changed["down_bias"][expert] = changed["down_bias"][expert][order]  # [r]
    changed["up"][expert] = changed["up"][expert][:, order]  # [d, r]
    return {**tensors, **{f"{site}{name}": weight for name, weight in changed.items()}}


def permuted_copies(tensors: Tensors, expert: int, generator: Generator) -> Tensors:
    """All M experts become one expert, each copy with its units in a random order (the first as it is)."""
    copies = {
        name: stacked[expert].expand_as(stacked).clone() if name.startswith("experts.") else stacked
        for name, stacked in tensors.items()
    }
    for site in bottleneck_sites(tensors):
        experts, units = copies[f"{site}down"].shape[:2]
        for copy in range(1, experts):
            copies = permute_units(copies, site, copy, torch.randperm(units, generator=generator))
    return copies


def aligned(tensors: Tensors) -> Tensors:
    """Every expert's units in the order that matches those of expert 0 best, site by site.

    The match is the assignment with the largest sum of inner products of units (a unit: its row of down, its bias and
    its column of up), after Singh and Jaggi (2020) and Ainsworth et al. (2023). Needs scipy.
    """
    from scipy.optimize import linear_sum_assignment

    for site in bottleneck_sites(tensors):
        units = torch.cat(
            [tensors[f"{site}down"], tensors[f"{site}down_bias"][..., None], tensors[f"{site}up"].mT], -1
        )  # [M, r, 2d + 1]
        for expert in range(len(units)):
            likeness = (units[0] @ units[expert].mT).double()
            order = torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])
            tensors = permute_units(tensors, site, expert, order)
    return tensors
