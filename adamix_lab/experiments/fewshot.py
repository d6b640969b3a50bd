"""Few labelled examples: 30 in all, no validation set, fixed epochs, several seeds (Table 6)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import unknown
from adamix_lab.core.files import write_text
from adamix_lab.experiments.comparison import finite, run_cell
from adamix_lab.experiments.methods import METHODS, Budget
from adamix_lab.tasks.tasks import Task, few_shot
from adamix_lab.training.doctor import versions

# From the runs on whole training sets; nothing was chosen on few-shot results.
FEW_SHOT = Budget(epochs=50, batch_size=16, lr=3e-3, head_lr=1e-2, top_blocks=2)


def run_few_shot(
    task: Task,
    out: Path,
    backbone: str = "minilm",
    budget: Budget = FEW_SHOT,
    methods: Sequence[str] = ("linear probe", "single bottleneck", "AdaMix"),
    seeds: Iterable[int] = range(5),
    examples: int = 30,
    per_class: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Each method on each seed's few rows; prints and writes mean and standard deviation over seeds, as Table 6.

    The seed draws the rows and starts the training. `out/NAME.json` (the task's name) is written at the end. Returns
    what it holds. Raises ValueError for an unknown method, or as `few_shot` does.
    """
    for method in methods:
        if method not in METHODS:
            raise unknown("Method", method, METHODS)
    seeds = list(seeds)
    few = {seed: few_shot(task, examples, seed, per_class) for seed in seeds}
    shown = "words" if budget.prompt else "a new head"
    number = len(next(iter(few.values())).train)
    say(f"{task.name}: {number} examples, {len(seeds)} seeds, {backbone}, {budget.epochs:g} epochs, {shown}")
    cells = []
    for method in methods:
        cells += [run_cell(few[seed], method, backbone, replace(budget, seed=seed)) for seed in seeds]
        say(f"{method:20}" + "   ".join(spread(rows) for rows in _by_metric(cells[-len(seeds) :]).items()))
    record = {
        "task": task.name,
        "examples": number,
        "seeds": seeds,
        "backbone": backbone,
        "budget": budget.to_dict(),
        "versions": versions(),
        "summary": {
            method: {
                name: {"mean": statistics.fmean(values), "sd": deviation(values)}
                for name, values in _by_metric([cell for cell in cells if cell["method"] == method]).items()
            }
            for method in methods
        },
        "cells": cells,
    }
    write_text(out / f"{task.name}.json", json.dumps(finite(record), indent=1, allow_nan=False) + "\n")
    return record


def _by_metric(cells: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    return {name: [cell["metrics"][name] for cell in cells] for name in cells[0]["metrics"]}


def deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation; 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def spread(named: tuple[str, Sequence[float]]) -> str:
    """A metric times 100 as Table 6 has it: `accuracy 91.8 (1.1)`.

    >>> spread(("accuracy", [0.9, 0.92]))
    'accuracy 91.0 (1.4)'
    """
    name, values = named
    return f"{name} {100 * statistics.fmean(values):.1f} ({100 * deviation(values):.1f})"
