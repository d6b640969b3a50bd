"""The exact marginal by the tree of routes, against one pass a route.

    python tests/benchmarks/enumerate.py            8 rows of 32 tokens; 5 rounds
    python tests/benchmarks/enumerate.py --quick    4 rows, 2 rounds, about half a minute

MiniLM with a bottleneck adapter of 16 in every block (L = 6), shared up-projection, M = 2 (64 routes) and M = 4
(4,096). A pass a route is timed on 64 routes, sampled where there are more, and multiplied; once as it comes and
once with its last block cut to the position that the head reads (trimmed). The difference, over the same 64 routes, is
relative to the largest logit.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import typer
from common import batch_of, interleave, minilm_mixture, passes, report

from adamix_lab.core.merging import relative_difference
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.tree import tree_logits

SAMPLED = 64


def measure(experts: int, rows: int, rounds: int) -> dict[str, float]:
    """The ratios of one number of experts."""
    mixture, batch = minilm_mixture(experts, apart=0.05), batch_of(rows, 32, padding=8)
    del batch["labels"]
    routes = mixture.space.enumerate()
    picked = torch.randperm(len(routes), generator=generator_for(2))[:SAMPLED].sort().values
    ways = {
        "tree": partial(tree_logits, mixture, batch),
        "whole": partial(passes, mixture, batch, routes[picked]),
        "trimmed": partial(passes, mixture, batch, routes[picked], trim=True),
    }
    median, found = interleave(ways, rounds)
    share, (tree, whole, trimmed) = len(routes) / len(picked), (median[way][0] for way in ways)
    return {
        "naive_over_tree": round(share * whole / tree, 2),
        "trimmed_naive_over_tree": round(share * trimmed / tree, 2),
        "difference": relative_difference(found["tree"][:, picked], found["whole"]),
        "tree_seconds": round(tree, 4),
        "routes": len(routes),
    }


def main(quick: bool = False, rows: int = 8, rounds: int = 5, out: Path | None = None) -> None:
    """Medians of M = 2 and M = 4 as one JSON object."""
    rows, rounds = (4, 2) if quick else (rows, rounds)
    report({"rows": rows, "rounds": rounds, **{f"M{m}": measure(m, rows, rounds) for m in (2, 4)}}, out)


if __name__ == "__main__":
    typer.run(main)
