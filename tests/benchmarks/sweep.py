"""Eight seeds as one batched program against the same eight runs one after another.

    python tests/benchmarks/sweep.py            120 steps a run, 3 rounds
    python tests/benchmarks/sweep.py --quick    10 steps a run, under a minute

The runs are AdaMix on MiniLM and the embedded task, M = 4, two routed views a step above a cached prefix (adapters in
the top two blocks), batches of 16, dropout off so that both ways compute the same numbers. `serial_over_batched` has
tokenising and caching in it, which one after another each run does for itself; on a busy machine look at the ratio of
CPU time. `max_abs_difference` is over all losses that the runs log; `batched_ms` are the loop's milliseconds a step and
run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer
from common import interleave, minilm_mixture, report
from torch import nn

from adamix_lab.core.objective import Consistency
from adamix_lab.experiments.batched import train_batched
from adamix_lab.models.model import load_trained, trained_tensors
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import History
from adamix_lab.training.train import prepare_data, train

SEEDS = 8


def main(quick: bool = False, steps: int = 120, rounds: int = 3, out: Path | None = None) -> None:
    """Ratios and milliseconds as one JSON object."""
    steps, task, tokenizer = 10 if quick else steps, load_task("aspects", rows=400), load_backbone("minilm", 2)[1]
    recipe = Recipe(
        steps=steps, batch_size=16, lr=1e-3, bucket=1, dev_fraction=0.0, cache_prefix=True, checkpoint_every=0,
        log_every=1, consistency=Consistency(1.0, views="shared_prefix"),
    )  # fmt: skip
    mixture, recipes = minilm_mixture(blocks=range(-2, 0)), [replace(recipe, seed=seed) for seed in range(SEEDS)]
    for module in mixture.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    start = {name: weight.clone() for name, weight in trained_tensors(mixture).items()}

    def serial() -> list[History]:
        found = []
        for own in recipes:
            load_trained(mixture, start)
            found.append(train(mixture, task, tokenizer, own, progress=False))
        return found

    def batched() -> list[History]:
        student, examples, _, pad = prepare_data(mixture, task, tokenizer, recipe)
        runs = train_batched(student, [start] * SEEDS, [examples] * SEEDS, recipes, pad, progress=False)
        return [run.history for run in runs]

    median, found = interleave({"serial": serial, "batched": batched}, rounds)
    wall, cpu = median["serial"] / median["batched"]
    pairs = [(one.losses, other.losses) for one, other in zip(found["serial"], found["batched"], strict=True)]
    result = {"steps": steps, "seeds": SEEDS, "rounds": rounds, "serial_over_batched": round(wall, 3)}
    result |= {"serial_over_batched_cpu_time": round(cpu, 3)}
    result |= {"max_abs_difference": max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))}
    report({**result, "batched_ms": round(1000 * found["batched"][0].seconds / steps / SEEDS, 3)}, out)


if __name__ == "__main__":
    typer.run(main)
