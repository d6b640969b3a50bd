"""What the lessons look at, made once and shipped beside this file. What is there already is left.

python data/lessons/make.py runs        # what every route answers: the twins, other weights of consistency
python data/lessons/make.py loras       # lesson 08: small LoRA experts to export and to combine
python data/lessons/make.py runs weight-10 --seeds 1 --steps 5 --out runs/trial
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adamix_lab.core.errors import one_of
from adamix_lab.core.files import write_tensors
from adamix_lab.core.objective import Consistency
from adamix_lab.lessons import answers, your_own
from adamix_lab.lessons.answers import RUNS, answers_of, write_answers
from adamix_lab.lessons.your_own import KINDS, fresh_loras
from adamix_lab.models.model import trained_tensors
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.doctor import device_name
from adamix_lab.training.shipped import EXPERTS, SEEDS, Learner, learners, load_twin, twin_recipe, untrained_mixture
from adamix_lab.training.train import train

LORA_ROWS = 800  # to train on: about 20 seconds of one core a set of experts
LORA_RECIPE = replace(twin_recipe(Learner(), 0), steps=150, batch_size=16)  # the twins', shorter


def make(
    what: str,
    folder: Path | None = None,
    names: Sequence[str] | None = None,
    seeds: Sequence[int] = SEEDS,
    amount: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Makes "runs" or "loras" of all names by default, seed by seed; a killed command goes on.

    amount: steps of training for a trial. Raises ValueError for something else.
    """
    one_of("What", what, MAKERS)
    make_one, place_of, every = MAKERS[what]
    for seed, name in itertools.product(seeds, names or every):
        path = place_of(name, seed, folder)
        found = "already there" if path.is_file() else make_one(path, name, seed, amount)
        say(f"{name}, seed {seed}: {found}")


def make_run(path: Path, name: str, seed: int, steps: int | None = None) -> str:
    """Answers of every route: of a twin, or of AdaMix trained with another weight of consistency."""
    task, start = load_task("aspects"), time.perf_counter()
    if name in learners():
        mixture, tokenizer = load_twin(name, seed)
    else:
        twin = Learner(consistency=float(name.removeprefix("weight-")))
        mixture, tokenizer = untrained_mixture(task, EXPERTS, twin.share, seed, twin.tied)
        train(mixture, task, tokenizer, twin_recipe(twin, seed, steps), progress=False)
    found = answers_of(mixture.eval(), task, tokenizer)
    seconds = f"{time.perf_counter() - start:.0f}"
    write_answers(path, found, {"run": name, "seed": str(seed), "seconds": seconds, "device": device_name()})
    return f"{100 * float(found.right.mean()):.1f} % on a random route, {seconds} s"


def make_loras(path: Path, kind: str, seed: int, steps: int | None = None) -> str:
    """Lesson 08: LoRA experts, trained, as float16."""
    task, start = load_task("aspects", rows=LORA_ROWS), time.perf_counter()
    mixture, tokenizer = fresh_loras(kind, seed)
    consistency = Consistency(KINDS[kind][1], views="shared_prefix")
    recipe = replace(LORA_RECIPE, seed=seed, steps=steps or LORA_RECIPE.steps, consistency=consistency)
    train(mixture, task, tokenizer, recipe, progress=False)
    tensors = {name: tensor.half() for name, tensor in trained_tensors(mixture).items()}
    seconds = f"{time.perf_counter() - start:.0f}"
    write_tensors(path, tensors, {"kind": kind, "seed": str(seed), "seconds": seconds, "device": device_name()})
    return f"{path.stat().st_size / 1e3:.0f} kB, {seconds} s"


MAKERS: dict[str, tuple[Callable[..., str], Callable[..., Path], Sequence[str]]] = {
    "runs": (make_run, answers.place_of, RUNS),
    "loras": (make_loras, your_own.place_of, tuple(KINDS)),
}


def main(
    what: str,
    names: Annotated[list[str] | None, typer.Argument()] = None,
    out: Path | None = None,
    seeds: int = len(SEEDS),
    steps: int | None = None,
) -> None:
    """WHAT: runs or loras; NAMES: of runs, or kinds of LoRAs (all by default).

    --out: a folder beside this file by default. --seeds: 0, 1, ... --steps: of training, fewer for a trial.
    """
    make(what, out, names, range(seeds), steps)


if __name__ == "__main__":
    typer.run(main)
