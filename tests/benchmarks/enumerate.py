"""The exact marginal by the tree of routes, against one pass a route.

    python tests/benchmarks/enumerate.py            8 rows of 32 tokens, and of 64; 5 rounds
    python tests/benchmarks/enumerate.py --quick    4 rows of 32 tokens, 2 rounds, about half a minute

MiniLM with a bottleneck adapter of 16 in every block (L = 6), shared up-projection, M = 2 (64 routes) and M = 4
(4,096). A pass a route is timed on 64 routes, sampled where there are more, and multiplied; once as it comes and
once with its last block cut to the position that the head reads (trimmed). Differences are over the same 64 routes.
Rounds are interleaved; ratios are of medians; the last line is one JSON object.
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
from common import batch_of, device, interleave, largest_difference, minilm_mixture, parse, passes, report_cases, tell

from adamix_lab.core.routing import generator_for
from adamix_lab.fast.tree import tree_logits
from adamix_lab.models.model import MixtureModel

SAMPLED = 64


def mixture_of(experts: int, where: torch.device) -> MixtureModel:
    mixture = minilm_mixture(where, experts, apart=0.05)  # trained experts differ; freshly drawn ones hardly
    with torch.no_grad():
        for _, parameter in mixture.head_parameters():
            parameter.mul_(20)  # logits of order 1, as trained ones are
    return mixture


@torch.no_grad()
def measure(mixture: MixtureModel, batch: dict[str, torch.Tensor], rounds: int) -> dict[str, float]:
    routes = mixture.space.enumerate()
    picked = torch.randperm(len(routes), generator=generator_for(2))[:SAMPLED].sort().values

    ways = {
        "tree": partial(tree_logits, mixture, batch),
        "whole": partial(passes, mixture, batch, routes[picked]),
        "trimmed": partial(passes, mixture, batch, routes[picked], trim=True),
    }
    median, found = interleave(ways, rounds)
    share = len(routes) / len(picked)
    difference = found["tree"][:, picked.to(found["tree"].device)] - found["whole"]
    return {
        "naive_over_tree": round(share * median["whole"] / median["tree"], 2),
        "trimmed_naive_over_tree": round(share * median["trimmed"] / median["tree"], 2),
        "max_abs_difference": float(difference.abs().max()),
        "largest_logit": round(float(found["whole"].abs().max()), 2),
        "tree_seconds": round(median["tree"], 4),
        "naive_seconds": round(share * median["whole"], 4),
        "routes": len(routes),
        "timed_routes": len(picked),
    }


def main() -> None:
    options = parse(__doc__, {"rows": 4, "lengths": [32], "rounds": 2}, rows=8, lengths=[32, 64], rounds=5)
    where, found = device(), {}
    for length, experts in itertools.product(options.lengths, (2, 4)):
        key, batch = f"M{experts}-length{length}", batch_of(options.rows, length, where, padding=length // 4)
        found[key] = tell(key, measure(mixture_of(experts, where), batch, options.rounds))
    settings = {"rows": options.rows, "rounds": options.rounds, "max_abs_difference": largest_difference(found)}
    settings["timed_routes"] = f"{SAMPLED} (sampled where there are more), multiplied to all"
    report_cases(found, ("naive_over_tree", "trimmed_naive_over_tree"), options.out, **settings)


if __name__ == "__main__":
    main()
