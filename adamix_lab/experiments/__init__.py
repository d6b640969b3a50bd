"""Ablations: runs as pure functions of their settings, grids of them, results, and what they say about the paper."""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "settings": "Run",
    "ablation": "ablate",
    "grids": "read_grid",
    "results": "read_results",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
