"""Runs of one setting over seeds: train, save, compare the strategies, table with intervals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adamix_lab.analysis.statistics import format_interval
from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.files import write_text
from adamix_lab.core.model import attach
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.card import save
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import Evaluation, evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import parameter_report
from adamix_lab.training.train import train

SHOWN = ("merged", "fixed", "random", "random-example", "random-token", "ensemble", "ensemble-probabilities")
PAPER_SHARE = {"bottleneck": "up", "lora": "B"}


def train_seeds(
    task: Task,
    backbone: str,
    adaptation: Adaptation,
    recipe: Recipe,
    out: Path,
    experts: int = 4,
    share: str | None = None,
    blocks: Iterable[int] | None = None,
    seeds: Iterable[int] = (0,),
    say: Callable[[str], None] = print,
) -> list[list[Evaluation]]:
    """One run a seed, saved under `out/seedN`; prints a table of strategies (mean and 95 % t-interval over seeds).

    share: None takes the paper's side, "none" shares nothing. Returns the evaluations, a list a seed.
    """
    sides = PAPER_SHARE.get(adaptation.kind) if share is None else None if share == "none" else share
    blocks = None if blocks is None else tuple(blocks)
    results: list[list[Evaluation]] = []
    further: dict[str, list[list[Evaluation]]] = {part.name: [] for part in task.evaluation_tasks()[1:]}
    start = time.perf_counter()
    for seed in seeds:
        model, tokenizer = load_backbone(backbone, num_labels=task.num_labels, seed=seed)
        mixture = attach(model, adaptation, experts, sides, blocks=blocks, seed=seed)
        if not results:
            say(
                f"{task.name}: {len(task.train):,} rows to train on, {len(task.evaluation):,} to be judged on; "
                f"{backbone}, {adaptation}"
            )
            say(f"parameters: {parameter_report(mixture)}")
        began = time.perf_counter()
        folder = out / f"seed{seed}"
        train(mixture, task, tokenizer, replace(recipe, seed=seed), folder / "run")
        trained = time.perf_counter() - began
        shown = SHOWN if mixture.space.number > 1 else SHOWN[:1]  # all alike with a single route
        judged = [
            evaluate(mixture, t, tokenizer, shown, seed, max_length=recipe.max_length) for t in task.evaluation_tasks()
        ]
        results.append(judged[0])
        for part, more in zip(further, judged[1:], strict=True):
            further[part].append(more)
        notes = _notes(task, backbone, recipe, seed, trained, results[-1])
        save(mixture, folder, notes)
        say(f"seed {seed}: trained {trained:.0f} s, merged {in_words(results[-1][0])}; saved in {folder}")
    for name, runs in {task.name: results, **further}.items():
        say(f"\n{name}" if further else "")
        say(over_seeds(runs))
    say(
        f"\n{len(results)} seeds, {recipe.steps} steps, {time.perf_counter() - start:.0f} s in all on "
        f"{versions()['device']}"
    )
    rows = [
        {"judged_on": name, "seed": n, **result.row()}
        for name, runs in {task.name: results, **further}.items()
        for n, run in enumerate(runs)
        for result in run
    ]
    write_text(
        out / "results.json",
        json.dumps({"task": task.name, "recipe": recipe.to_dict(), "versions": versions(), "rows": rows}, indent=2)
        + "\n",
    )
    return results


def _notes(
    task: Task, backbone: str, recipe: Recipe, seed: int, seconds: float, results: list[Evaluation]
) -> dict[str, Any]:
    return {
        "task": task.name,
        "source": task.source,
        "backbone": backbone,
        "classes": list(task.classes),
        "columns": len(task.text),
        "train_rows": len(task.train),
        "seed": seed,
        "recipe": recipe.to_dict(),
        "training_seconds": round(seconds, 1),
        "results": [result.row() for result in results],
    }


def over_seeds(results: Sequence[Sequence[Evaluation]]) -> str:
    """A table: strategy, the task's metrics (times 100) and loss, mean and 95 % t-interval over seeds, passes."""
    names = list(results[0][0].shown)
    head = f"{'strategy':24}" + "".join(f"{name:>20}" for name in names) + f"{'loss':>18}{'passes':>8}"
    lines = [head, "-" * len(head)]
    for column in zip(*results, strict=True):
        values = [format_interval([100 * result.shown[name] for result in column]) + unit(name) for name in names]
        loss = format_interval([result.loss for result in column], digits=3)
        cells = "".join(f"{value:>20}" for value in values)
        lines.append(f"{column[0].strategy:24}{cells}{loss:>18}{column[0].passes:>8}")
    return "\n".join(lines)


def unit(metric: str) -> str:
    """What stands behind a metric times 100: shares are per cent, correlations are not."""
    return " %" if metric in ("accuracy", "f1") else ""


def in_words(result: Evaluation) -> str:
    """The metrics in a line: `accuracy 91.2 %, f1 93.0 %`."""
    return ", ".join(f"{name} {100 * value:.1f}{unit(name)}" for name, value in result.shown.items())


def print_results(results: Sequence[Evaluation], say: Callable[[str], None] = print) -> None:
    """One run's strategies, a line each."""
    say(over_seeds([results]))
