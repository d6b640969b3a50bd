"""The exact marginal by the tree of routes, against one pass a route.

    python tests/benchmarks/enumerate.py            8 rows of 32 tokens, and of 64; 5 rounds
    python tests/benchmarks/enumerate.py --quick    4 rows of 32 tokens, 2 rounds, about half a minute

MiniLM with a bottleneck adapter of 16 in every block (L = 6), shared up-projection, M = 2 (64 routes) and M = 4
(4,096). A pass a route is timed on 64 routes, sampled where there are more, and multiplied; once as it comes and
once with its last block cut to the position that the head reads (trimmed). Differences are over the same 64 routes.
Rounds are interleaved; ratios are of medians; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.model import MixtureModel, attach
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.fast.tree import tree_logits
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.training.doctor import versions
from adamix_lab.training.optim import keep_freed_memory

SAMPLED = 64


def mixture_of(experts: int, device: torch.device) -> MixtureModel:
    model, _ = load_backbone("minilm", num_labels=2)
    mixture = attach(model.to(device).eval(), Bottleneck(16), experts=experts, share="up")
    generator = generator_for(1)
    with torch.no_grad():  # trained experts differ; freshly drawn ones hardly
        for _, parameter in mixture.expert_parameters():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * 0.05).to(device))
        for _, parameter in mixture.head_parameters():
            parameter.mul_(20)  # logits of order 1, as trained ones are
    return mixture


def batch_of(rows: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 20000, (rows, length), generator=generator_for(0))
    mask = torch.ones_like(ids)
    mask[rows // 2 :, -length // 4 :] = 0
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def seconds(work: Callable[[], torch.Tensor], device: torch.device) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    out = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, out


@torch.no_grad()
def measure(experts: int, rows: int, length: int, rounds: int, device: torch.device) -> dict[str, float]:
    mixture, batch = mixture_of(experts, device), batch_of(rows, length, device)
    routes = mixture.space.enumerate()
    picked = torch.randperm(len(routes), generator=generator_for(2))[:SAMPLED].sort().values

    def passes() -> torch.Tensor:
        return torch.stack([mixture(selection=route, **batch).logits for route in routes[picked]], 1)

    def trimmed() -> torch.Tensor:
        with cut_last_block(mixture.model):
            return passes()

    times: dict[str, list[float]] = {"tree": [], "whole": [], "trimmed": []}
    for round_ in range(rounds + 1):  # the first warms up
        for name, work in (("tree", lambda: tree_logits(mixture, batch)), ("whole", passes), ("trimmed", trimmed)):
            taken, out = seconds(work, device)
            if name == "tree":
                tree = out
            elif name == "whole":
                plain = out
            if round_:
                times[name].append(taken)
    median = {name: statistics.median(values) for name, values in times.items()}
    share = len(routes) / len(picked)
    return {
        "naive_over_tree": round(share * median["whole"] / median["tree"], 2),
        "trimmed_naive_over_tree": round(share * median["trimmed"] / median["tree"], 2),
        "max_abs_difference": float((tree[:, picked.to(tree.device)] - plain).abs().max()),
        "largest_logit": round(float(plain.abs().max()), 2),
        "tree_seconds": round(median["tree"], 4),
        "naive_seconds": round(share * median["whole"], 4),
        "routes": len(routes),
        "timed_routes": len(picked),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows, lengths, rounds = (4, [32], 2) if options.quick else (options.rows, options.lengths, options.rounds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    found: dict[str, dict[str, float]] = {}
    for length in lengths:
        for experts in (2, 4):
            key = f"M{experts}-length{length}"
            found[key] = measure(experts, rows, length, rounds, device)
            print(key, json.dumps(found[key]), flush=True)
    result = {
        "versions": versions(),
        "rows": rows,
        "rounds": rounds,
        "timed_routes": f"{SAMPLED} (sampled where there are more), multiplied to all",
        "naive_over_tree": {key: values["naive_over_tree"] for key, values in found.items()},
        "trimmed_naive_over_tree": {key: values["trimmed_naive_over_tree"] for key, values in found.items()},
        "max_abs_difference": max(values["max_abs_difference"] for values in found.values()),
        "all": found,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
