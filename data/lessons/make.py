"""What the lessons look at, made once and shipped beside this file. What is there already is left.

python data/lessons/make.py runs        # what every route answers: the twins, other weights of consistency
python data/lessons/make.py loras       # lesson 08: small LoRA experts to export and to combine
python data/lessons/make.py landscapes  # lesson 05: losses between the twins' experts, over edges and faces
python data/lessons/make.py runs weight-10 --seeds 1 --steps 5 --out runs/trial
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from adamix_lab.analysis.points import (
    Point,
    dot,
    experts_of,
    filter_normalised,
    logits_at,
    simplex,
    stack_points,
    try_cached_prefix,
)
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import write_record, write_tensors
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.objective import Consistency
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons import answers, landscape, your_own
from adamix_lab.lessons.answers import RUNS, answers_of, write_answers
from adamix_lab.lessons.landscape import Faces
from adamix_lab.lessons.your_own import KINDS, fresh_loras
from adamix_lab.models.model import MixtureModel, trained_tensors
from adamix_lab.tasks.batches import encode, padding_of, sequential
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.doctor import device_name, versions
from adamix_lab.training.shipped import EXPERTS, RECIPE, SEEDS, TWINS, load_twin, twin_recipe, untrained_mixture
from adamix_lab.training.train import train

LORA_ROWS = 800  # to train on: about 20 seconds of one core a set of experts
LORA_RECIPE = replace(RECIPE, steps=150, batch_size=16)  # the twins', shorter
STEPS = 6  # halves and thirds are on the grid: the middles of edges and faces are points of it
ROWS = 256  # of the evaluation set, as in data/results/landscape
DIRECTIONS = 2  # from each expert
AT_ONCE = 32  # points a pass


def make(
    what: str,
    folder: Path | None = None,
    names: Sequence[str] | None = None,
    seeds: Sequence[int] = SEEDS,
    amount: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Makes "runs", "loras" or "landscapes", all by default, seed by seed; a killed command goes on.

    amount: steps of training for a trial; of landscapes, the first so many evaluation rows. Raises ValueError for
    something else.
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
    if name in TWINS:
        mixture, tokenizer = load_twin(name, seed)
    else:
        twin = replace(TWINS["adamix"], consistency=float(name.removeprefix("weight-")))
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


# -- lesson 05: losses row by row between experts, and as far away in random directions -------------------


@torch.no_grad()
def losses_of_rows(mixture: MixtureModel, task: Task, tokenizer: Any, points: Point, rows: int | None = None) -> Tensor:
    """Negative log-likelihood in nats, `[rows, K]`, at K stacked points `[K, ...]`, in the order of the rows.

    rows: the first so many of the evaluation set; None takes all.
    """
    examples = encode(task.evaluation[:rows], task, tokenizer)
    number = len(next(iter(points.values())))
    losses = torch.empty(len(examples), number)
    with evaluating(mixture):
        top, cache = try_cached_prefix(mixture)
        for indices, batch in sequential(examples, 64, padding_of(tokenizer)):
            ready = cache(batch)
            for start in range(0, number, AT_ONCE):
                some = {name: weights[start : start + AT_ONCE] for name, weights in points.items()}
                log_p = logits_at(top, ready, some).float().log_softmax(-1)  # [K, B, C]
                gold = batch["labels"].expand(len(log_p), -1).unsqueeze(-1)
                losses[indices, start : start + AT_ONCE] = -log_p.gather(-1, gold).squeeze(-1).T
    return losses


def moved(point: Point, direction: Point, distance: float) -> Point:
    """The point, so far along a direction over the experts' weights; the head stays. Distance in the weights' norm."""
    apart = {name: weight for name, weight in direction.items() if name.startswith("experts.")}
    scale = distance / math.sqrt(dot(apart, apart))
    return {name: weight + scale * apart[name] if name in apart else weight for name, weight in point.items()}


def half_way(first: Point, second: Point) -> float:
    """Half of the distance between two points: how far the middle of their segment is from either."""
    apart = {name: second[name] - first[name] for name in first}
    return math.sqrt(dot(apart, apart)) / 2


def random_points(experts: Sequence[Point], seed: int, directions: int = DIRECTIONS) -> list[Point]:
    """From each expert along random, filter-normalised directions, as far as the middles of its segments on average."""
    found = []
    for n, expert in enumerate(experts):
        distances = [half_way(expert, other) for other in experts if other is not expert]
        for draw in range(directions):
            direction = filter_normalised(expert, generator_for(seed, n, draw))
            found.append(moved(expert, direction, sum(distances) / len(distances)))
    return found


def measure_faces(mixture: MixtureModel, task: Task, tokenizer: Any, seed: int = 0, rows: int | None = ROWS) -> Faces:
    """Measures a mixture of four experts. Raises ValueError for fewer."""
    experts = experts_of(mixture, 4)
    whole = simplex(experts, STEPS)
    outside = (whole.coefficients == 0).any(-1)
    outside[-1] = True  # the mean
    outside[-5:-1] = False  # the corners once more
    shares = whole.coefficients[outside].float()
    between = {name: torch.tensordot(shares.to(w), w, dims=1) for name, w in whole.anchors.items()}
    away = stack_points(random_points(list(experts.values()), seed))
    points = {name: torch.cat([between[name], away[name]]) for name in between}
    losses = losses_of_rows(mixture, task, tokenizer, points, rows)
    return Faces(shares, losses[:, : len(shares)], losses[:, len(shares) :], {"seed": seed, "versions": versions()})


def make_faces(path: Path, twin: str, seed: int, rows: int | None = None) -> str:
    """Measures the surface of a tetrahedron of experts and writes it in float16."""
    mixture, tokenizer = load_twin(twin, seed)
    found = measure_faces(mixture, load_task("aspects"), tokenizer, seed, rows or ROWS)
    numbers = {"weights": found.weights, "losses": found.losses.half(), "random": found.random.half()}
    write_record(path, "notes", numbers, {"twin": twin, **found.notes})
    return f"{len(found.weights)} points, {len(found.losses)} rows"


MAKERS: dict[str, tuple[Callable[..., str], Callable[..., Path], Sequence[str]]] = {
    "runs": (make_run, answers.place_of, RUNS),
    "loras": (make_loras, your_own.place_of, tuple(KINDS)),
    "landscapes": (make_faces, landscape.place_of, tuple(TWINS)),
}


def main(
    what: str,
    names: Annotated[list[str] | None, typer.Argument()] = None,
    out: Path | None = None,
    seeds: int = len(SEEDS),
    steps: int | None = None,
    rows: int = ROWS,
) -> None:
    """WHAT: runs, loras or landscapes; NAMES: of runs, kinds of LoRAs, or twins (all by default).

    --out: a folder beside this file by default. --seeds: 0, 1, ... --steps: of training, fewer for a trial.
    --rows: of landscapes, the first so many evaluation rows.
    """
    make(what, out, names, range(seeds), rows if what == "landscapes" else steps)


if __name__ == "__main__":
    typer.run(main)
