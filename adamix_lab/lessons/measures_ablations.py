"""What is measured for lesson 07: accuracy of AdaMix minus its variants', paired by row, on the shipped results."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from adamix_lab.experiments.contrasts import Budget
from adamix_lab.lessons.ablations import is_there, open_results, right_rows
from adamix_lab.lessons.effects import Measure

SEEDS = range(5)
CORE = {"tasks": ("rte", "mrpc", "sst2"), "variants": ("single", "no consistency", "no sharing")}


def ahead(seed: int, name: str, task: str, variant: str, budget: Budget = "steps") -> Tensor:
    """AdaMix right minus the variant right, `[rows]`; AdaMix's own steps are its equal compute, too."""
    scores = open_results(name)
    other = right_rows(scores, task, variant, seed, budget)
    return torch.from_numpy(right_rows(scores, task, "AdaMix", seed) - other)


def ablations() -> dict[str, tuple[str, Measure]]:
    """Lesson 07; what is measured on results that are not shipped is left out."""
    measures: dict[str, tuple[str, Measure]] = {}
    if is_there("core"):
        for task in CORE["tasks"]:
            for variant in CORE["variants"]:
                measures[f"{task}, accuracy at equal steps: AdaMix minus {variant}"] = (
                    "points", partial(ahead, name="core", task=task, variant=variant))  # fmt: skip
    if is_there("budget"):
        for variant in ("single", "no consistency"):
            for budget in ("steps", "compute"):
                measures[f"aspects, accuracy at equal {budget}: AdaMix minus {variant}"] = (
                    "points", partial(ahead, name="budget", task="aspects", variant=variant, budget=budget))  # fmt: skip
    return measures
