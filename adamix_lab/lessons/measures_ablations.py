"""What is measured for lesson 07: accuracy of AdaMix minus its variants', paired by row, on the shipped results."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from adamix_lab.experiments.contrasts import Budget
from adamix_lab.lessons.ablations import is_run, open_results, right_rows
from adamix_lab.lessons.effects import Measure

RESULT_SEEDS = range(5)  # of the results
CORE = {"tasks": ("rte", "mrpc", "sst2"), "variants": ("single", "no consistency", "no sharing")}


def ahead(seed: int, name: str, task: str, variant: str, budget: Budget = "steps") -> Tensor:
    """AdaMix right minus the variant right, `[rows]`; AdaMix's own steps are its equal compute, too."""
    scores = open_results(name)
    other = right_rows(scores, task, variant, seed, budget)
    return torch.from_numpy(right_rows(scores, task, "AdaMix", seed) - other)


def ablations() -> dict[str, tuple[str, Measure]]:
    """Lesson 07; what is measured on results that are not shipped is left out."""
    wanted: list[tuple[str, str, str, Budget]] = [
        *(("core", task, variant, "steps") for task in CORE["tasks"] for variant in CORE["variants"]),
        ("budget", "aspects", "single", "steps"),
        ("budget", "aspects", "single", "compute"),
        ("budget", "aspects", "no consistency", "steps"),
    ]
    return {
        f"{task}, accuracy at equal {budget}: AdaMix minus {variant}": (
            "points", partial(ahead, name=name, task=task, variant=variant, budget=budget))
        for name, task, variant, budget in wanted
        if is_run(name, task, variant, budget)
    }  # fmt: skip
