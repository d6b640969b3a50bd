"""Averages of trained weights over steps: SWA, even over a window (Izmailov et al., 2018), and EMA.

`Recipe.share_in_average` says how far the average moves at a step. It is kept in float32 at least, since a share of one
in some hundred is lost in fewer digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from adamix_lab.core.model import MixtureModel, load_trained, trained_tensors


@torch.no_grad()
def update(average: dict[str, Tensor], weights: Mapping[str, Tensor], share: float) -> None:
    """Moves an average a share of the way to a step's weights, in place; the first weights begin it."""
    for name, weight in weights.items():
        exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
        average[name] = average[name].lerp(exact, share) if name in average else exact.clone()


@contextmanager
def holding(mixture: MixtureModel, tensors: dict[str, Tensor]) -> Iterator[None]:
    """The mixture has these trained tensors inside the block (its own where there are none), and then its own again."""
    own = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()} if tensors else {}
    if tensors:
        load_trained(mixture, tensors)
    try:
        yield
    finally:
        if own:
            load_trained(mixture, own)
