"""Ablations: runs as pure functions of their settings, grids of them, engines, results."""
"""Grids of runs, their results, and what the results say about the paper."""
