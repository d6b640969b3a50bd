"""What AdaMix is compared with: each baseline by one word, through the same `train` and `evaluate`."""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "making": "BASELINES baseline get_baseline",
    "probe": "linear_probe",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
