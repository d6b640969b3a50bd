"""Trained experts, shipped so that nobody must train first; `data/experts/learners.yaml` says who learned which rows.

"aspects" are made-up sentences; "noisy" and "clean" 400 sentences of `subjectivity`, with a quarter of the labels wrong
and with none, one seed for rows, wrong labels and training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.files import require_file
from adamix_lab.models.model import MixtureModel
from adamix_lab.models.saving import load, read_config
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task, data_root
from adamix_lab.training.recipe import Recipe, preset

EXPERTS = 4
BLOCKS = (-2, -1)
STAGES = {"early": 0.1, "middle": 0.4, "late": 1.0}  # shares of the steps
SEEDS = (0, 1, 2)
SENTENCE_SEEDS = tuple(range(20, 30))

# Chosen before any of them was trained: the rate, steps and rows of data/grids/tour.yaml, for every learner.
SENTENCES = Recipe(steps=300, lr=2e-3, batch_size=16, max_length=64, dev_fraction=0.0, cache_prefix=True)


@dataclass(frozen=True)
class Learner:
    """What sets one learner apart from the others.

    Attributes:
        method: of `adamix_lab.baselines`; "apart" trains single adapters one by one.
        share, tied, consistency: of a mixture.
        steps: of each single adapter, on sentences.
        one_start: the single adapters begin with the same weights.
    """

    method: str = "adamix"
    share: str | None = "up"
    tied: bool = False
    consistency: float = 1.0
    steps: int = 300
    one_start: bool = False


@cache
def learners(data: str = "aspects") -> dict[str, Learner]:
    """Who learned the rows "aspects", "noisy" or "clean". Raises ValueError for others."""
    import yaml

    book = yaml.safe_load(
        require_file(data_root() / "experts" / "learners.yaml", "the shipped experts.").read_text("utf-8")
    )
    one_of("data", data, book)
    return {name: Learner(**settings) for name, settings in book[data].items()}


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
    one_of("Twin", name, learners(data))
    one_of("Stage", stage, STAGES if data == "aspects" else ("late",))
    root = Path(folder or data_root() / "experts")
    place = root / name / f"seed{seed}" / stage if data == "aspects" else root / data / name / f"seed{seed}"
    if not place.is_dir():
        seeds = SEEDS if data == "aspects" else tuple(n for n in SENTENCE_SEEDS if place.with_name(f"seed{n}").is_dir())
        raise FileNotFoundError(
            f"{place} is not there: expected shipped experts of seeds {seeds}. data/experts/make.py makes them."
        )
    return load_saved(place)[:2]


def twin_recipe(twin: Learner, seed: int, steps: int | None = None) -> Recipe:
    """The recipe of "aspects", the same for all, with what sets the twin apart."""
    recipe = preset("laptop-minilm-aspects").recipe
    settings = {"seed": seed, "steps": steps or recipe.steps, "checkpoint_every": 0}
    return recipe.with_options(consistency=twin.consistency, **settings)


def sentences(cell: str, seed: int) -> Task:
    """400 sentences to learn from, of "noisy" a quarter with another label, and 1,000 fresh ones to be judged on."""
    one_of("data", cell, ("noisy", "clean"))
    noise = 0.25 if cell == "noisy" else 0.0
    return load_task("subjectivity", rows=400, seed=seed, label_noise=noise, part="fresh")


def trained_length(config: Mapping[str, Any]) -> int | None:
    """Tokens a row in the training of a saved folder, by its configuration; None where its notes do not say it."""
    return (config["notes"].get("recipe") or {}).get("max_length")  # type: ignore[no-any-return]


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
