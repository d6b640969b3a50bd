"""Ablations: runs as pure functions of their settings, grids of them, results, and what they say about the paper."""
