"""Make lesson 08's small LoRA experts, to export and to combine. What is there already is left.

    python data/lessons/make.py                                              # both kinds, three seeds
    python data/lessons/make.py tied --seeds 1 --steps 5 --out runs/trial

What lessons read besides, the answers of every route, is made by `data/experts/make.py`.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adamix_lab.core.files import write_tensors
from adamix_lab.core.objective import Consistency
from adamix_lab.lessons.your_own import KINDS, fresh_loras, place_of
from adamix_lab.models.model import trained_tensors
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.doctor import device_name
from adamix_lab.training.shipped import SEEDS, Learner, twin_recipe
from adamix_lab.training.train import train

ROWS = 800  # to train on: about 20 seconds of one core a set of experts


def make_loras(path: Path, kind: str, seed: int, steps: int = 150) -> str:
    """Trains LoRA experts, by the twins' recipe, shorter, and writes them as float16; what to print."""
    task, start = load_task("aspects", rows=ROWS), time.perf_counter()
    mixture, tokenizer = fresh_loras(kind, seed)
    consistency = Consistency(KINDS[kind][1], views="shared_prefix")
    recipe = replace(twin_recipe(Learner(), seed, steps), batch_size=16, consistency=consistency)
    train(mixture, task, tokenizer, recipe, progress=False)
    tensors = {name: tensor.half() for name, tensor in trained_tensors(mixture).items()}
    seconds = f"{time.perf_counter() - start:.0f}"
    write_tensors(path, tensors, {"kind": kind, "seed": str(seed), "seconds": seconds, "device": device_name()})
    return f"{path.stat().st_size / 1e3:.0f} kB, {seconds} s"


def main(
    kinds: Annotated[list[str] | None, typer.Argument()] = None,
    seeds: int = len(SEEDS),
    steps: int = 150,
    out: Path | None = None,
) -> None:
    """KINDS of LoRAs (all by default). --seeds: 0, 1, ... --steps: of training, fewer for a trial. --out: a folder."""
    for seed, kind in itertools.product(range(seeds), kinds or KINDS):
        path = place_of(kind, seed, out)
        print(f"{kind}, seed {seed}: {'already there' if path.is_file() else make_loras(path, kind, seed, steps)}")


if __name__ == "__main__":
    typer.run(main)
