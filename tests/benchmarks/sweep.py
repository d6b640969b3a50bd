"""Eight seeds as one batched program against the same eight runs one after another.

    python tests/benchmarks/sweep.py            120 steps a run, both settings, 3 rounds
    python tests/benchmarks/sweep.py --quick    10 steps a run, adapters in the top two blocks, 3 rounds, under a minute

The runs are AdaMix on MiniLM and the embedded task, M = 4, two routed views a step, batches of 16, dropout off so that
both ways compute the same numbers. "top-two" adapts the top two blocks above a cached prefix; "every-block" all six
(the prefix then ends at the first block's adapter). `serial_over_batched` compares the loops, optimiser steps included;
`with_preparation` adds tokenising and caching, which one after another each run does for itself. On a busy machine look
at the ratio of CPU time (it means nothing on a GPU). `max_abs_difference` is over all losses that the runs log,
`of_weights` over the last weights. Rounds are interleaved; ratios are of medians; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.model import MixtureModel, attach, load_trained, trained_tensors
from adamix_lab.core.objective import Consistency
from adamix_lab.experiments.batched import Trained, train_batched
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.tasks import Task, load_task
from adamix_lab.training.doctor import versions
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import prepare_data, train

SETTINGS = {"top-two": range(-2, 0), "every-block": None}
Weights = dict[str, torch.Tensor]


def made(blocks: range | None, seed: int) -> tuple[MixtureModel, Any]:
    model, tokenizer = load_backbone("minilm", num_labels=2, seed=seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return attach(model, Bottleneck(16), experts=4, share="up", blocks=blocks, seed=seed), tokenizer


def timed(work: Callable[[], list[Trained]]) -> tuple[float, float, list[Trained]]:
    """(seconds, CPU seconds, the runs)."""
    start = time.perf_counter(), time.process_time()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start[0], time.process_time() - start[1], found


def measure(blocks: range | None, task: Task, recipe: Recipe, seeds: int, rounds: int) -> dict[str, float]:
    mixture, tokenizer = made(blocks, 0)
    recipes = [replace(recipe, seed=seed) for seed in range(seeds)]
    starts: list[Weights] = []
    for seed in range(seeds):
        first = trained_tensors(made(blocks, seed)[0])
        starts.append({name: weight.clone() for name, weight in first.items()})

    def serial() -> list[Trained]:
        found = []
        for start, own in zip(starts, recipes, strict=True):
            load_trained(mixture, start)
            history = train(mixture, task, tokenizer, own, progress=False)
            found.append(Trained({n: w.clone() for n, w in trained_tensors(mixture).items()}, history))
        return found

    def batched() -> list[Trained]:
        student, examples, _, pad = prepare_data(mixture, task, tokenizer, recipes[0])
        return train_batched(student, starts, [examples] * seeds, recipes, pad, progress=False)

    ways = {"serial": serial, "batched": batched}
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    results: dict[str, list[Trained]] = {}
    batched()  # warm
    for n in range(rounds):
        for name, work in ways.items():
            whole, cpu, runs = timed(work)
            loops = runs[0].history.seconds if name == "batched" else sum(run.history.seconds for run in runs)
            taken[name].append((loops, whole, cpu))
            results[name] = runs
        print(
            f"round {n + 1}: " + ", ".join(f"{name} {values[-1][0]:.2f} s" for name, values in taken.items()),
            flush=True,
        )
    loops, whole, cpu = (
        statistics.median(v[n] for v in taken["serial"]) / statistics.median(v[n] for v in taken["batched"])
        for n in range(3)
    )
    losses, weights = 0.0, 0.0
    for one, other in zip(results["serial"], results["batched"], strict=True):
        pairs = zip(one.history.losses, other.history.losses, strict=True)
        losses = max(losses, *(abs(a - b) for a, b in pairs))
        weights = max(weights, *(float((one.weights[n] - other.weights[n]).abs().max()) for n in one.weights))
    return {
        "serial_over_batched": round(loops, 3),
        "serial_over_batched_with_preparation": round(whole, 3),
        "serial_over_batched_cpu_time_with_preparation": round(cpu, 3),
        "max_abs_difference": losses,
        "max_abs_difference_of_weights": weights,
        "batched_seconds": round(statistics.median(v[0] for v in taken["batched"]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=None)
    options = parser.parse_args()
    steps = options.steps or (10 if options.quick else 120)
    settings = options.settings or (["top-two"] if options.quick else list(SETTINGS))
    task = load_task("aspects", rows=400)
    recipe = Recipe(
        steps=steps, batch_size=options.batch_size, lr=1e-3, bucket=1, dev_fraction=0.0, cache_prefix=True,
        checkpoint_every=0, log_every=1, consistency=Consistency(1.0, views="shared_prefix"),
    )  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for setting in settings:
        print(f"{setting}: {options.seeds} runs of {steps} steps, batches of {options.batch_size}", flush=True)
        found[setting] = measure(SETTINGS[setting], task, recipe, options.seeds, options.rounds)
    shown = ("serial_over_batched", "serial_over_batched_with_preparation", "max_abs_difference")
    result: dict[str, object] = {key: {name: values[key] for name, values in found.items()} for key in shown}
    print(json.dumps({**result, "all": found, "steps": steps, "seeds": options.seeds, "versions": versions()}))


if __name__ == "__main__":
    main()
