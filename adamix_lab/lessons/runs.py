"""What the lessons look at, kept as what every route answers: the four twins, and other weights of consistency.

The twins are the shipped experts. The others are AdaMix trained here, with the same recipe and seeds, under other
weights of the consistency loss; "no-consistency" and "adamix" are weights 0 and 1 of that grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from adamix_lab.core.errors import one_of
from adamix_lab.lessons.answers import Answers, answers_of, read_answers, write_answers
from adamix_lab.tasks.tasks import data_root, load_task
from adamix_lab.training.doctor import device_name
from adamix_lab.training.train import train
from adamix_lab.training.twins import EXPERTS, SEEDS, TWINS, fresh, load_twin, twin_recipe

GRID = {0: "no-consistency", 1: "adamix", 10: "weight-10", 100: "weight-100"}  # weight of consistency: the run's name
RUNS = (*TWINS, "weight-10", "weight-100")


def place_of(name: str, seed: int, folder: Path | None = None) -> Path:
    """The file of a run: `data/lessons/answers/adamix-seed0.safetensors`. Raises ValueError for an unknown run."""
    one_of("Run", name, RUNS)
    return (folder or data_root() / "lessons" / "answers") / f"{name}-seed{seed}.safetensors"


def make_runs(
    folder: Path | None = None,
    names: Sequence[str] = RUNS,
    seeds: Sequence[int] = SEEDS,
    steps: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Trains what must be trained and writes the answers that are not there yet: a killed command goes on."""
    task = load_task("aspects")
    for seed in seeds:
        for name in names:
            path = place_of(name, seed, folder)
            if path.is_file():
                say(f"{name}, seed {seed}: already there")
                continue
            start = time.perf_counter()
            if name in TWINS:
                mixture, tokenizer = load_twin(name, seed)
            else:
                twin = replace(TWINS["adamix"], consistency=float(name.removeprefix("weight-")))
                mixture, tokenizer = fresh(task, EXPERTS, twin.share, seed, twin.tied)
                train(mixture, task, tokenizer, twin_recipe(twin, seed, steps), progress=False)
            answers = answers_of(mixture.eval(), task, tokenizer)
            seconds = f"{time.perf_counter() - start:.0f}"
            write_answers(path, answers, {"run": name, "seed": str(seed), "seconds": seconds, "device": device_name()})
            say(f"{name}, seed {seed}: {100 * float(answers.right.mean()):.1f} % on a random route, {seconds} s")


@lru_cache(maxsize=64)
def load_answers(name: str, seed: int = 0, folder: Path | None = None) -> Answers:
    """The answers of a run to all evaluation rows.

    Raises ValueError for an unknown run, FileNotFoundError where its file is not there.
    """
    path = place_of(name, seed, folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: expected answers of seeds {', '.join(map(str, SEEDS))}. `adamix-lab lesson-runs` "
            "makes them."
        )
    return read_answers(path)
