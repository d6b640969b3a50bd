"""How far two floating-point results may be apart: relative to the largest value compared, and to the dtype."""

from __future__ import annotations

import math
from typing import Any

import torch

from adamix_lab.core.errors import LabError

# What a function may differ by when its sums run in another order (another program, batch, or processor), as a share of
# the largest value: some eighty roundings of float32, twenty of float16 and of bfloat16 (products summed in float32).
REORDERED = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def relative_difference(found: Any, expected: Any) -> float:
    """The largest |found - expected| over the largest |expected| (or over 1 where that is 0).

    found, expected: tensors of one shape, numbers, or lists of numbers; raises ValueError for two shapes. Equal
    values give 0, a NaN on one side only infinity.

    >>> relative_difference(torch.tensor([0.0, 10.1]), torch.tensor([0.0, 10.0])) < 0.011
    True
    """
    a, b = (torch.as_tensor(value, dtype=torch.double).detach().cpu() for value in (found, expected))
    if a.shape != b.shape:
        raise LabError(f"Results of shapes {list(a.shape)} and {list(b.shape)}: expected equal shapes to compare.")
    if not a.numel():
        return 0.0
    difference = torch.where(a == b, 0.0, (a - b).abs())  # equal infinities are no difference
    difference = torch.where(a.isnan() & b.isnan(), 0.0, difference)
    largest = float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 0.0
    worst = float(difference.max()) if not bool(difference.isnan().any()) else math.inf
    return worst / (largest or 1.0)
