"""Ablations: runs as pure functions of their settings, grids of them, results, and what they say about the paper."""

from adamix_lab.core import lazy_names

__all__, __getattr__ = lazy_names(
    __name__, {"settings": "Run", "ablation": "ablate", "grids": "read_grid", "results": "read_results"}
)
