"""Four twins on the embedded task, shipped so that nobody must train first: AdaMix and three controls.

What differs is one thing at a time:

- "adamix": shared up-projection, consistency 1;
- "no-consistency": the same without the second view;
- "unshared-tied": nothing shared, down i always with up i, no consistency;
- "apart": four single adapters trained one by one from one start of the head, then put side by side (heads averaged).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.errors import unknown
from adamix_lab.core.merging import stack_experts
from adamix_lab.core.model import MixtureModel, attach, load_trained, trained_tensors
from adamix_lab.core.objective import Consistency
from adamix_lab.core.saving import CONFIG, load
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.tasks import Task, data_root, load_task
from adamix_lab.training.card import save
from adamix_lab.training.doctor import device_name
from adamix_lab.training.evaluation import evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train

EXPERTS = 4
BLOCKS = (-2, -1)
ADAPTATION = Bottleneck(16)
STAGES = {"early": 0.1, "middle": 0.4, "late": 1.0}  # shares of the steps
SEEDS = (0, 1, 2)
STRATEGIES_SHOWN = (*(f"fixed-{n}" for n in range(EXPERTS)), "merged", "ensemble")

Stages = dict[str, dict[str, Tensor]]
Results = dict[str, dict[str, dict[str, float]]]

# Chosen once on a slice of the training rows (data/aspects/README.md has the search), the same for every twin.
RECIPE = Recipe(
    steps=1400,
    lr=5e-3,
    head_lr=4e-3,
    bucket=1,
    weight_decay=0.01,
    dev_fraction=0.0,
    cache_prefix=True,
    consistency=Consistency(1.0, views="shared_prefix"),
    checkpoint_every=0,
)


@dataclass(frozen=True)
class Twin:
    """What sets one twin apart from the others."""

    share: str | None
    tied: bool
    consistency: float
    together: bool = True


TWINS = {
    "adamix": Twin("up", tied=False, consistency=1.0),
    "no-consistency": Twin("up", tied=False, consistency=0.0),
    "unshared-tied": Twin(None, tied=True, consistency=0.0),
    "apart": Twin(None, tied=True, consistency=0.0, together=False),
}


def load_twin(
    name: str = "adamix", seed: int = 0, stage: str = "late", folder: str | Path | None = None
) -> tuple[MixtureModel, Any]:
    """(mixture in evaluation mode, tokenizer) of a shipped twin on MiniLM.

    Raises ValueError for an unknown twin or stage, FileNotFoundError where the experts are not there.
    """
    if name not in TWINS:
        raise unknown("Twin", name, TWINS)
    if stage not in STAGES:
        raise unknown("Stage", stage, STAGES)
    place = Path(folder or data_root() / "experts") / name / f"seed{seed}" / stage
    if not place.is_dir():
        raise FileNotFoundError(
            f"{place} is not there: expected shipped experts of seeds {SEEDS}. `adamix-lab twins` makes them."
        )
    model, tokenizer = load_backbone("minilm", num_labels=load_task("aspects").num_labels)
    return load(model, place).eval(), tokenizer


def twin_recipe(twin: Twin, seed: int, steps: int | None = None) -> Recipe:
    """The common recipe with what sets the twin apart."""
    return replace(
        RECIPE,
        seed=seed,
        steps=steps or RECIPE.steps,
        consistency=replace(RECIPE.consistency, weight=twin.consistency),
    )


def fresh(task: Task, experts: int, share: str | None, seed: int, tied: bool = False) -> tuple[MixtureModel, Any]:
    """MiniLM with untrained experts in the top two blocks; the head starts alike for every seed of one task."""
    model, tokenizer = load_backbone("minilm", num_labels=task.num_labels)
    return attach(model, ADAPTATION, experts, share, blocks=BLOCKS, seed=seed, tied=tied), tokenizer


def train_stages(mixture: MixtureModel, task: Task, tokenizer: Any, recipe: Recipe) -> Stages:
    """Trains in place; returns the trained tensors at each stage."""
    steps = recipe.steps or 0
    at = {max(1, round(share * steps)): stage for stage, share in STAGES.items()}
    kept: Stages = {}

    def keep(step: int) -> None:
        if step in at:
            kept[at[step]] = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}

    train(mixture, task, tokenizer, recipe, progress=False, on_step=keep)
    return kept


def make_twin(name: str, seed: int, task: Task, steps: int | None = None) -> tuple[MixtureModel, Any, Stages, Results]:
    """Trains one twin.

    Returns:
        The mixture, the tokenizer, the trained tensors at each stage, and what was measured on the way: of adapters
        trained apart the accuracy and loss of each with its own head, by stage ("own-0", ...).
    """
    twin = TWINS[name]
    if twin.together:
        mixture, tokenizer = fresh(task, EXPERTS, twin.share, seed, twin.tied)
        return mixture, tokenizer, train_stages(mixture, task, tokenizer, twin_recipe(twin, seed, steps)), {}
    singles: dict[str, list[dict[str, Tensor]]] = {stage: [] for stage in STAGES}
    own: Results = {stage: {} for stage in STAGES}
    for n in range(EXPERTS):
        single, tokenizer = fresh(task, 1, None, seed=EXPERTS * seed + n)
        stages = train_stages(single, task, tokenizer, twin_recipe(twin, EXPERTS * seed + n, steps))
        for stage, tensors in stages.items():
            load_trained(single, tensors)
            own[stage][f"own-{n}"] = strategies_of(single, task, tokenizer, ["merged"])["merged"]
            singles[stage].append(tensors)
    mixture, tokenizer = fresh(task, EXPERTS, None, seed, twin.tied)
    return mixture, tokenizer, {stage: stack_experts(parts) for stage, parts in singles.items()}, own


def make_twins(
    folder: Path,
    names: Sequence[str] = tuple(TWINS),
    seeds: Sequence[int] = SEEDS,
    steps: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Trains and writes twins (float16) with their evaluation; finished ones are left: a killed run goes on."""
    task = load_task("aspects")
    for name, seed in itertools.product(names, seeds):
        place = folder / name / f"seed{seed}"
        if all((place / stage / CONFIG).is_file() for stage in STAGES):
            say(f"{name}, seed {seed}: already there")
            continue
        start = time.perf_counter()
        mixture, tokenizer, stages, own = make_twin(name, seed, task, steps)
        seconds = round(time.perf_counter() - start, 1)
        for stage, tensors in stages.items():
            load_trained(mixture, {key: value.half().float() for key, value in tensors.items()})
            results = strategies_of(mixture, task, tokenizer) | own.get(stage, {})
            notes = {"task": "aspects", "backbone": "minilm", "classes": list(task.classes), "twin": name, "seed": seed}
            notes |= {"stage": stage, "seconds": seconds, "device": device_name(), "results": results}
            save(mixture, place / stage, notes, dtype=torch.float16)
            listed = ", ".join(f"{strategy} {100 * result['accuracy']:.1f}" for strategy, result in results.items())
            say(f"{name}, seed {seed}, {stage} ({seconds:.0f} s): {listed}")


def strategies_of(
    mixture: MixtureModel, task: Task, tokenizer: Any, strategies: Sequence[str] = STRATEGIES_SHOWN
) -> dict[str, dict[str, float]]:
    """Accuracy and loss of each expert alone, the merge and the ensemble; and of the merge with the adapters off."""
    results = {r.strategy: r for r in evaluate(mixture, task, tokenizer, strategies)}
    with mixture.disabled():
        results["off"] = evaluate(mixture, task, tokenizer)[0]
    return {name: {"accuracy": result.accuracy, "loss": result.loss} for name, result in results.items()}
