"""Make the shipped experts: four twins on the embedded task, three stages of training each, and their card.

    python data/experts/make.py
    python data/experts/make.py --out runs/experts --seeds 1 --steps 100
    python data/experts/make.py --answers 10     # what twins of ten seeds, and of AdaMix with down shared, answer

Twins that are there are left: the same command goes on with a killed one. The card (`README.md`) is written from the
experts' own notes, when all seeds are there.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from adamix_lab import evaluate, load_task, save, train
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.core.files import write_text
from adamix_lab.core.merging import stack_experts
from adamix_lab.lessons.answers import answers_of, place_of, write_answers
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.models.saving import CONFIG, read_config
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.doctor import device_name
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.shipped import (
    EXPERTS,
    SEEDS,
    STAGES,
    Learner,
    learners,
    twin_recipe,
    untrained_mixture,
)

TWINS = learners()
STRATEGIES = (*(f"fixed-{n}" for n in range(EXPERTS)), "merged", "ensemble")
CARD = Path(__file__).with_name("card.md")

Stages = dict[str, dict[str, Tensor]]
Results = dict[str, dict[str, float]]
Notes = dict[str, Any]


def make(folder: Path, seeds: Sequence[int], steps: int | None = None, say: Callable[[str], None] = print) -> None:
    """Trains and writes every twin (float16) with its evaluation; the card when all seeds are there."""
    task = load_task("aspects")
    for name, seed in itertools.product(TWINS, seeds):
        place = folder / name / f"seed{seed}"
        if all((place / stage / CONFIG).is_file() for stage in STAGES):
            say(f"{name}, seed {seed}: already there")
            continue
        start = time.perf_counter()
        mixture, tokenizer, stages, own = make_twin(TWINS[name], seed, task, steps)
        seconds = round(time.perf_counter() - start, 1)
        for stage, tensors in stages.items():
            load_trained(mixture, {key: value.half().float() for key, value in tensors.items()})
            results = results_of(mixture, task, tokenizer) | own.get(stage, {})
            notes = {"task": "aspects", "backbone": "minilm", "classes": list(task.classes), "twin": name, "seed": seed}
            notes |= {"stage": stage, "seconds": seconds, "device": device_name(), "results": results}
            save(mixture, place / stage, notes, dtype=torch.float16)
            listed = ", ".join(f"{strategy} {100 * result['accuracy']:.1f}" for strategy, result in results.items())
            say(f"{name}, seed {seed}, {stage} ({seconds:.0f} s): {listed}")
    if set(SEEDS) <= set(seeds):
        write_text(folder / "README.md", card(folder))


def make_twin(
    twin: Learner, seed: int, task: Task, steps: int | None = None
) -> tuple[MixtureModel, Any, Stages, dict[str, Results]]:
    """Trains one twin: the mixture, the tokenizer, the trained tensors at each stage, and what was found on the way.

    What is found: of adapters trained apart, by stage, what each gives with its own head ("own-0", ...).
    """
    if twin.method == "adamix":
        mixture, tokenizer = untrained_mixture(task, EXPERTS, twin.share, seed, twin.tied)
        return mixture, tokenizer, train_stages(mixture, task, tokenizer, twin_recipe(twin, seed, steps)), {}
    singles: dict[str, list[dict[str, Tensor]]] = {stage: [] for stage in STAGES}
    own: dict[str, Results] = {stage: {} for stage in STAGES}
    for n in range(EXPERTS):
        single, tokenizer = untrained_mixture(task, 1, None, seed=EXPERTS * seed + n)
        stages = train_stages(single, task, tokenizer, twin_recipe(twin, EXPERTS * seed + n, steps))
        for stage, tensors in stages.items():
            load_trained(single, tensors)
            own[stage][f"own-{n}"] = results_of(single, task, tokenizer, ["merged"])["merged"]
            singles[stage].append(tensors)
    mixture, tokenizer = untrained_mixture(task, EXPERTS, None, seed, twin.tied)
    return mixture, tokenizer, {stage: stack_experts(parts) for stage, parts in singles.items()}, own


def make_answers(seeds: Sequence[int], steps: int | None = None, say: Callable[[str], None] = print) -> None:
    """Trains what is not shipped and keeps what every route and the merge answer, for lessons; files there are left."""
    task = load_task("aspects")
    for seed, (name, twin) in itertools.product(seeds, (TWINS | {"down": Learner(share="down")}).items()):
        place, start = place_of(name, seed), time.process_time()
        if place.is_file():
            continue
        mixture, tokenizer, stages, _ = make_twin(twin, seed, task, steps)
        load_trained(mixture, {key: value.half().float() for key, value in stages["late"].items()})
        found = answers_of(mixture.eval(), task, tokenizer)
        seconds = f"{time.process_time() - start:.0f}"
        write_answers(place, found, {"run": name, "seed": str(seed), "seconds": seconds, "device": device_name()})
        merged, experts = (100 * float(rows.mean()) for rows in (found.merged_right, found.right[:, found.fixed]))
        say(f"{name}, seed {seed}: merged {merged:.1f}, experts {experts:.1f} ({seconds} s)")


def train_stages(mixture: MixtureModel, task: Task, tokenizer: Any, recipe: Recipe) -> Stages:
    """Trains in place; returns the trained tensors at each stage."""
    at = {max(1, round(share * (recipe.steps or 0))): stage for stage, share in STAGES.items()}
    kept: Stages = {}

    def keep(step: int) -> None:
        if step in at:
            kept[at[step]] = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}

    train(mixture, task, tokenizer, recipe, progress=False, on_step=keep)
    return kept


def results_of(mixture: MixtureModel, task: Task, tokenizer: Any, strategies: Sequence[str] = STRATEGIES) -> Results:
    """Accuracy and loss of each expert, of the merge and the ensemble, and of the merge with the adapters off."""
    results = {result.strategy: result for result in evaluate(mixture, task, tokenizer, strategies)}
    with mixture.disabled():
        results["off"] = evaluate(mixture, task, tokenizer)[0]
    return {name: {"accuracy": result.accuracy, "loss": result.loss} for name, result in results.items()}


# -- the card ----------------------------------------------------------------------------------------------


def card(folder: Path) -> str:
    """The card's text: means with 95 % t-intervals over seeds, and paired differences between merge and experts."""
    places = itertools.product(TWINS, SEEDS, STAGES)
    notes = {(t, s, g): read_config(folder / t / f"seed{s}" / g)["notes"] for t, s, g in places}
    late = {name: [notes[name, seed, "late"] for seed in SEEDS] for name in TWINS}
    by_stage = {name: [[_percent(notes[name, s, g], "merged") for s in SEEDS] for g in STAGES] for name in TWINS}
    return CARD.read_text(encoding="utf-8").format(
        recipe=twin_recipe(Learner(), 0),
        stages=", ".join(f"{stage} ({100 * share:.0f} % of the steps)" for stage, share in STAGES.items()),
        size=sum(p.stat().st_size for name in TWINS for p in (folder / name).rglob("*.safetensors")) / 1e6,
        versions=read_config(folder / "adamix" / "seed0" / "late")["versions"],
        device=late["adamix"][0]["device"],
        effects="\n".join(_row(name, runs) for name, runs in late.items()),
        own=format_interval([_mean(run, "own") for run in late["apart"]]),
        by_stage="\n".join(
            f"| {name} | {' | '.join(f'{statistics.fmean(values):.1f}' for values in stages)} |"
            for name, stages in by_stage.items()
        ),
    )


def _row(name: str, runs: list[Notes]) -> str:
    merged, fixed = [_percent(run, "merged") for run in runs], [_mean(run, "fixed") for run in runs]
    ensemble, off = ([_percent(run, strategy) for run in runs] for strategy in ("ensemble", "off"))
    gaps = [m - f for m, f in zip(merged, fixed, strict=True)]
    cells = [format_interval(values) for values in (fixed, merged, ensemble, gaps, off)]
    return " | ".join([f"| {name}", *cells, f"{statistics.fmean(run['seconds'] for run in runs):.0f} |"])


def _percent(notes: Notes, strategy: str) -> float:
    return 100 * float(notes["results"][strategy]["accuracy"])


def _mean(notes: Notes, each: str) -> float:
    return statistics.fmean(_percent(notes, f"{each}-{n}") for n in range(EXPERTS))


def main(
    out: Path = Path(__file__).parent, seeds: int = len(SEEDS), steps: int | None = None, answers: int = 0
) -> None:
    """Twins of seeds 0, 1, ... and their card; --steps: fewer, for a trial. --answers: of so many seeds, alone."""
    if answers:
        make_answers(range(answers), steps)
    else:
        make(out, range(seeds), steps)


if __name__ == "__main__":
    typer.run(main)
