"""Ablations: runs as pure functions of their settings, grids of them, engines, results."""
