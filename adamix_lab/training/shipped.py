"""Trained experts, shipped so that nobody must train first, on two sets of rows.

"aspects", made-up sentences: AdaMix and three controls. What differs is one thing at a time:

- "adamix": shared up-projection, consistency 1;
- "no-consistency": the same without the second view;
- "unshared-tied": nothing shared, down i always with up i, no consistency;
- "apart": four single adapters trained one by one from one start of the head, then put side by side (heads averaged).

"noisy", 400 sentences of `subjectivity` whose labels are wrong in a quarter of the cases, and "clean", the same with
all labels right: AdaMix and what it has to be told from, `LEARNERS`, with one seed for rows, wrong labels and training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.objective import Consistency
from adamix_lab.models.model import MixtureModel, attach
from adamix_lab.models.saving import load, read_config
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task, data_root
from adamix_lab.training.recipe import Recipe

EXPERTS = 4
BLOCKS = (-2, -1)
ADAPTATION = Bottleneck(16)
STAGES = {"early": 0.1, "middle": 0.4, "late": 1.0}  # shares of the steps
SEEDS = (0, 1, 2)
SENTENCE_SEEDS = tuple(range(20, 30))

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
DOWN = Twin("down", tied=False, consistency=1.0)  # its answers are shipped, not its weights

# Chosen before any of them was trained: the rate, steps and rows of data/grids/tour.yaml, for every learner.
SENTENCES = Recipe(steps=300, lr=2e-3, batch_size=16, max_length=64, dev_fraction=0.0, cache_prefix=True)


@dataclass(frozen=True)
class Learner:
    """What sets a learner on sentences apart: how it is trained, and the mixture's own settings.

    Attributes:
        method: of `adamix_lab.baselines`; "apart" trains single adapters one by one.
        share, tied, consistency: of a mixture.
        steps: of each single adapter. AdaMix's 300 steps of two passes are those of four adapters of 150 steps.
        one_start: the single adapters begin with the same weights.
    """

    method: str = "adamix"
    share: str | None = "up"
    tied: bool = False
    consistency: float = 1.0
    steps: int = 300
    one_start: bool = False


LEARNERS = {
    "single": Learner("single"),
    "slow-swa": Learner("slow-swa"),
    "adamix": Learner(),
    "down": Learner(share="down"),
    "no-consistency": Learner(consistency=0.0),
    "down-no-consistency": Learner(share="down", consistency=0.0),
    "weight-10": Learner(consistency=10.0),
    "weight-100": Learner(consistency=100.0),
    "unshared-tied": Learner(share=None, tied=True),
    "r-drop": Learner("r-drop"),
    "apart": Learner("apart", steps=150),
    "apart-same-start": Learner("apart", steps=150, one_start=True),
    "apart-long": Learner("apart"),
    "apart-same-start-long": Learner("apart", one_start=True),
}
CELLS = {"noisy": tuple(LEARNERS), "clean": ("single", "slow-swa", "adamix", "down")}  # who learns which rows


def load_twin(
    name: str = "adamix", seed: int = 0, stage: str = "late", folder: str | Path | None = None, data: str = "aspects"
) -> tuple[MixtureModel, Any]:
    """(mixture in evaluation mode, tokenizer) of shipped experts on MiniLM.

    data: the rows that they learned, "aspects", "noisy" or "clean"; the last two have one stage and seeds from 20 on.
    Raises ValueError for an unknown name, stage or data, FileNotFoundError where the experts are not there.

    >>> mixture, tokenizer = load_twin("adamix", seed=0)
    >>> predict(mixture, tokenizer, "film : the staff was lovely, but the film was awful.").labels  # 0: negative
    ['0']
    """
    one_of("data", data, ("aspects", *CELLS))
    one_of("Twin", name, CELLS.get(data, TWINS))
    one_of("Stage", stage, STAGES)
    root = Path(folder or data_root() / "experts")
    place = root / name / f"seed{seed}" / stage if data == "aspects" else root / data / name / f"seed{seed}"
    if not place.is_dir():
        seeds = SEEDS if data == "aspects" else tuple(n for n in SENTENCE_SEEDS if place.with_name(f"seed{n}").is_dir())
        raise FileNotFoundError(
            f"{place} is not there: expected shipped experts of seeds {seeds}. data/experts/make.py makes them."
        )
    return load_saved(place)[:2]


def twin_recipe(twin: Twin, seed: int, steps: int | None = None) -> Recipe:
    """The common recipe with what sets the twin apart."""
    consistency = replace(RECIPE.consistency, weight=twin.consistency)
    return replace(RECIPE, seed=seed, steps=steps or RECIPE.steps, consistency=consistency)


def sentences(cell: str, seed: int) -> Task:
    """400 sentences to learn from, of "noisy" a quarter with another label, and 1,000 fresh ones to be judged on."""
    one_of("data", cell, CELLS)
    noise = 0.25 if cell == "noisy" else 0.0
    return load_task("subjectivity", rows=400, seed=seed, label_noise=noise, part="fresh")


def untrained_mixture(
    task: Task, experts: int, share: str | None, seed: int, tied: bool = False
) -> tuple[MixtureModel, Any]:
    """MiniLM with untrained experts in the top two blocks; the head starts alike for every seed of one task."""
    model, tokenizer = load_backbone("minilm", num_labels=task.num_labels, pooling="cls")
    return attach(model, ADAPTATION, experts, share, blocks=BLOCKS, seed=seed, tied=tied), tokenizer


def load_saved(
    folder: Path, model: nn.Module | str | None = None, any_base: bool = False
) -> tuple[MixtureModel, Any, dict[str, Any]]:
    """(mixture in evaluation mode, tokenizer, configuration) of a folder that `train` or `tour` wrote.

    Args:
        folder: written by `save`.
        model: the base, then there is no tokenizer, or its name; None takes the backbone that the notes name.
        any_base: accept a base with other weights.
    """
    config = read_config(folder)
    base, tokenizer = config["notes"].get("backbone") if model is None else model, None
    if not base:
        raise LabError(
            f"{folder} does not say its backbone: expected notes written by `adamix-lab train` or `train-generator`. "
            "Use adamix_lab.load(model, folder)."
        )
    if not isinstance(base, nn.Module):
        kind = config["base"].get("kind") or ("classification" if config["head"] else "generation")
        labels = {"num_labels": config["num_labels"]} if config.get("num_labels") else {}
        base, tokenizer = load_backbone(base, kind=kind, pooling=config["base"].get("pooling", "cls"), **labels)
    assert isinstance(base, nn.Module)
    return load(base, folder, any_base).eval(), tokenizer, config
