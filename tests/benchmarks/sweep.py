"""Eight seeds as one batched program against the same eight runs one after another.

    python tests/benchmarks/sweep.py            120 steps a run, both settings, 3 rounds
    python tests/benchmarks/sweep.py --quick    10 steps a run, adapters in the top two blocks, 3 rounds, under a minute

The runs are AdaMix on MiniLM and the embedded task, M = 4, two routed views a step, batches of 16, dropout off so that
both ways compute the same numbers. "top-two" adapts the top two blocks above a cached prefix; "every-block" all six
(the prefix then ends at the first block's adapter). `serial_over_batched` compares the loops, optimiser steps included;
`with_preparation` adds tokenising and caching, which one after another each run does for itself. On a busy machine look
at the ratio of CPU time (it means nothing on a GPU). `max_abs_difference` is over all losses that the runs log,
`of_weights` over the last weights; `batched_ms` are the loop's milliseconds a step and run. Rounds are interleaved;
ratios are of medians; the last line is one JSON object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from common import cpu_seconds, interleave, parse, report_cases

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.objective import Consistency
from adamix_lab.experiments.batched import Trained, train_batched
from adamix_lab.models.model import MixtureModel, attach, load_trained, trained_tensors
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import prepare_data, train

SETTINGS = {"top-two": range(-2, 0), "every-block": None}
Weights = dict[str, torch.Tensor]


def made(blocks: range | None, seed: int) -> tuple[MixtureModel, Any]:
    model, tokenizer = load_backbone("minilm", num_labels=2, seed=seed, pooling="cls")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return attach(model, Bottleneck(16), experts=4, share="up", blocks=blocks, seed=seed), tokenizer


def clock(work: Callable[[], tuple[float, list[Trained]]]) -> tuple[tuple[float, float, float], list[Trained]]:
    """((seconds of the loops, of all, of CPUs), the runs)."""
    (whole, cpu), (loops, runs) = cpu_seconds(work)
    return (loops, whole, cpu), runs


def measure(blocks: range | None, task: Task, recipe: Recipe, seeds: int, rounds: int) -> dict[str, float]:
    mixture, tokenizer = made(blocks, 0)
    recipes = [replace(recipe, seed=seed) for seed in range(seeds)]
    starts: list[Weights] = []
    for seed in range(seeds):
        first = trained_tensors(made(blocks, seed)[0])
        starts.append({name: weight.clone() for name, weight in first.items()})

    def serial() -> tuple[float, list[Trained]]:
        found = []
        for start, own in zip(starts, recipes, strict=True):
            load_trained(mixture, start)
            history = train(mixture, task, tokenizer, own, progress=False)
            found.append(Trained({n: w.clone() for n, w in trained_tensors(mixture).items()}, history))
        return sum(run.history.seconds for run in found), found

    def batched() -> tuple[float, list[Trained]]:
        student, examples, _, pad = prepare_data(mixture, task, tokenizer, recipes[0])
        found = train_batched(student, starts, [examples] * seeds, recipes, pad, progress=False)
        return found[0].history.seconds, found  # one loop

    batched()  # warm
    median, runs = interleave({"serial": serial, "batched": batched}, rounds, warm=0, clock=clock, say=True)
    loops, whole, cpu = (one / other for one, other in zip(median["serial"], median["batched"], strict=True))
    losses, weights = 0.0, 0.0
    for one, other in zip(runs["serial"], runs["batched"], strict=True):
        pairs = zip(one.history.losses, other.history.losses, strict=True)
        losses = max(losses, *(abs(a - b) for a, b in pairs))
        weights = max(weights, *(float((one.weights[n] - other.weights[n]).abs().max()) for n in one.weights))
    return {
        "serial_over_batched": round(loops, 3),
        "serial_over_batched_with_preparation": round(whole, 3),
        "serial_over_batched_cpu_time_with_preparation": round(cpu, 3),
        "max_abs_difference": losses,
        "max_abs_difference_of_weights": weights,
        "batched_seconds": round(median["batched"][0], 3),
        "batched_ms": round(1000 * median["batched"][0] / recipe.total_steps(1) / seeds, 3),
    }


def main() -> None:
    quick = {"steps": 10, "settings": ["top-two"]}
    options = parse(__doc__, quick, steps=120, seeds=8, rounds=3, batch_size=16, settings=list(SETTINGS))
    task = load_task("aspects", rows=400)
    recipe = Recipe(
        steps=options.steps, batch_size=options.batch_size, lr=1e-3, bucket=1, dev_fraction=0.0, cache_prefix=True,
        checkpoint_every=0, log_every=1, consistency=Consistency(1.0, views="shared_prefix"),
    )  # fmt: skip
    found = {}
    for name in options.settings:
        print(f"{name}: {options.seeds} runs of {options.steps} steps, batches of {options.batch_size}", flush=True)
        found[name] = measure(SETTINGS[name], task, recipe, options.seeds, options.rounds)
    shown = ("serial_over_batched", "serial_over_batched_with_preparation", "max_abs_difference")
    report_cases(found, shown, options.out, steps=options.steps, seeds=options.seeds)


if __name__ == "__main__":
    main()
