"""Four twins on the embedded task, shipped so that nobody must train first: AdaMix and three controls.

What differs is one thing at a time:

- "adamix": shared up-projection, consistency 1;
- "no-consistency": the same without the second view;
- "unshared-tied": nothing shared, down i always with up i, no consistency;
- "apart": four single adapters trained one by one from one start of the head, then put side by side (heads averaged).
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
from adamix_lab.tasks.tasks import Task, data_root
from adamix_lab.training.recipe import Recipe

EXPERTS = 4
BLOCKS = (-2, -1)
ADAPTATION = Bottleneck(16)
STAGES = {"early": 0.1, "middle": 0.4, "late": 1.0}  # shares of the steps
SEEDS = (0, 1, 2)

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

    >>> mixture, tokenizer = load_twin("adamix", seed=0)
    >>> predict(mixture, tokenizer, "film : the staff was lovely, but the film was awful.").labels  # 0: negative
    ['0']
    """
    one_of("Twin", name, TWINS)
    one_of("Stage", stage, STAGES)
    place = Path(folder or data_root() / "experts") / name / f"seed{seed}" / stage
    if not place.is_dir():
        raise FileNotFoundError(
            f"{place} is not there: expected shipped experts of seeds {SEEDS}. data/experts/make.py makes them."
        )
    return load_saved(place)[:2]


def twin_recipe(twin: Twin, seed: int, steps: int | None = None) -> Recipe:
    """The common recipe with what sets the twin apart."""
    consistency = replace(RECIPE.consistency, weight=twin.consistency)
    return replace(RECIPE, seed=seed, steps=steps or RECIPE.steps, consistency=consistency)


def untrained_mixture(
    task: Task, experts: int, share: str | None, seed: int, tied: bool = False
) -> tuple[MixtureModel, Any]:
    """MiniLM with untrained experts in the top two blocks; the head starts alike for every seed of one task."""
    model, tokenizer = load_backbone("minilm", num_labels=task.num_labels)
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
