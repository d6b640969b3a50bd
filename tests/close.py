"""The one way in which tests compare floating-point results: relative to the largest value, with a named reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adamix_lab.core.merging import relative_difference


@dataclass(frozen=True)
class Bound:
    """A share of the largest value compared, and why results may differ by that much on some processor."""

    share: float
    reason: str


ROUNDED = Bound(1e-6, "one or two float32 operations in another order: some 16 roundings of 6e-8")
REORDERED = Bound(
    1e-5, "one function by two programs: sums in another order through a few blocks, 160 roundings of 6e-8"
)
TRAINED = Bound(1e-4, "a few steps of training: roundings of float32 grow through AdamW, which divides by small roots")
DOUBLE = Bound(1e-12, "float64, the same function by another order of sums: some 5,000 roundings of 2e-16")
HALF = Bound(2e-2, "float16: some twenty roundings of 1e-3")
BFLOAT = Bound(5e-2, "bfloat16: some six roundings of 8e-3")


def assert_close(found: Any, expected: Any, bound: Bound = REORDERED, scale: float | None = None) -> None:
    """Fails where the largest |found - expected| is above `bound.share` of the largest |expected|.

    `scale` stands in place of the largest |expected| where what is compared is itself a difference (expected to be
    0): the size of the values it was made of.
    """
    share = relative_difference(found, expected)
    if scale is not None:
        import torch

        largest = float(torch.as_tensor(expected).abs().max()) or 1.0
        share = share * largest / scale
    assert share <= bound.share, f"{share:.2g} of the largest value: at most {bound.share:g} ({bound.reason})"


GRADIENTS = Bound(
    1e-4, "gradients, tensor by tensor: sums over rows and blocks cancel, to a tenth of their terms or less"
)
DIFFERENCES = Bound(
    1e-5, "central differences in float64 at steps of 1e-5: 2e-11 of the value, over slopes down to 1e-6 of it"
)
STORED = Bound(2e-3, "stored in float16: neighbours are 1e-3 apart, and a last bit may fall to either")


def is_close(found: Any, expected: Any, bound: Bound = REORDERED) -> bool:
    """Whether `assert_close` would pass: for results that have to differ."""
    return relative_difference(found, expected) <= bound.share


def assert_all_close(found: dict[str, Any], expected: dict[str, Any], bound: Bound = REORDERED) -> None:
    """The same names, and `assert_close` for each tensor, relative to its own largest value."""
    assert found.keys() == expected.keys()
    shares = {name: relative_difference(found[name], expected[name]) for name in expected}
    worst = max(shares, key=shares.__getitem__)
    assert shares[worst] <= bound.share, f"{worst}: {shares[worst]:.2g} of its largest value ({bound.reason})"
