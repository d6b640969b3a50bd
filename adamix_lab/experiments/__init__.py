"""Grids of runs, their results, and what the results say about the paper."""
