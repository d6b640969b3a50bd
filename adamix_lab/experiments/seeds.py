"""One setting over seeds, from any recipe and adaptation: train, save, compare the strategies, table with intervals.

Grids of many settings are `adamix_lab.experiments.ablation`; this needs neither pandas nor Parquet.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from adamix_lab.analysis.statistics import format_interval
from adamix_lab.baselines import ONE_ADAPTER
from adamix_lab.baselines.making import fitted
from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import told, write_text
from adamix_lab.experiments.results import unit
from adamix_lab.experiments.settings import NAMES
from adamix_lab.models.model import attach
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.metrics import text_table
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import Evaluation, evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import parameter_report, save
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
    method: str = "adamix",
    pooling: str | None = None,
    say: Callable[[str], None] = print,
) -> list[list[Evaluation]]:
    """One run a seed, saved under `out/seedN`; prints a table of strategies (mean and 95 % t-interval over seeds).

    share: None takes the paper's side, "none" shares nothing. method: "adamix", or one adapter alone that its recipe
    sets apart (`ONE_ADAPTER`); experts and share are then of the AdaMix that it stands beside. pooling: of the head, as
    in `load_backbone`. Returns the evaluations, a list a seed. Raises ValueError for another method.
    """
    one_of("method", method, ("adamix", *ONE_ADAPTER))
    sides = PAPER_SHARE.get(adaptation.kind) if share is None else None if share == "none" else share
    named = f"AdaMix of {experts} experts ({sides or 'nothing'} shared)"
    if method != "adamix":
        recipe = fitted(method, recipe, experts, sides, adaptation.sides)
        named, experts, sides = NAMES.get(method, method), 1, None
    seeds, blocks = list(seeds), blocks and tuple(blocks)
    parts, start = task.evaluation_tasks(), time.perf_counter()
    results: dict[str, list[list[Evaluation]]] = {part.name: [] for part in parts}
    say(
        f"{task.name}: {len(task.train):,} rows to train on, {len(task.evaluation):,} to be judged on; "
        f"{backbone}, {named}: {adaptation}"
    )
    for seed in seeds:
        folder, began = out / f"seed{seed}", time.perf_counter()
        model, tokenizer = load_backbone(backbone, task.num_labels, seed, pooling=pooling)
        mixture = attach(model, adaptation, experts, sides, blocks=blocks, seed=seed)
        if seed == seeds[0]:
            say(f"parameters: {parameter_report(mixture)}")
        train(mixture, task, tokenizer, replace(recipe, seed=seed), folder / "run")
        seconds = time.perf_counter() - began
        shown = SHOWN if mixture.space.number > 1 else SHOWN[:1]  # all alike with a single route
        for part in parts:
            found = evaluate(mixture, part, tokenizer, shown, seed, max_length=recipe.max_length)
            results[part.name].append(found)
        merged = results[task.name][-1]
        notes = {
            "task": task.name, "source": told(task.source), "backbone": told(backbone), "classes": list(task.classes),
            "columns": len(task.text), "train_rows": len(task.train), "options": dict(task.options), "seed": seed,
            "recipe": recipe.to_dict(), "training_seconds": round(seconds, 1),
            "results": [result.row() for result in merged],
        }  # fmt: skip
        save(mixture, folder, notes)
        values = ", ".join(f"{name} {100 * value:.1f}{unit(name)}" for name, value in merged[0].main_metrics.items())
        say(f"seed {seed}: trained {seconds:.0f} s, merged {values}; saved in {folder}")
    for name, runs in results.items():
        say(f"\n{name if len(parts) > 1 else ''}\n{over_seeds(runs)}")
    say(f"\n{len(seeds)} seeds, {time.perf_counter() - start:.0f} s in all on {versions()['device']}")
    rows = [
        {"judged_on": name, "seed": seed, **result.row()}
        for name, runs in results.items()
        for seed, run in zip(seeds, runs, strict=True)
        for result in run
    ]
    record = {"task": task.name, "recipe": recipe.to_dict(), "versions": versions(), "rows": rows}
    write_text(out / "results.json", json.dumps(record, indent=2) + "\n")
    return results[task.name]


def over_seeds(results: Sequence[Sequence[Evaluation]]) -> str:
    """A table: strategy, the task's metrics (times 100) and loss, mean and 95 % t-interval over seeds, passes."""
    rows = []
    for column in zip(*results, strict=True):
        scores = {
            name: format_interval([100 * result.main_metrics[name] for result in column]) + unit(name)
            for name in column[0].main_metrics
        }
        loss = format_interval([result.loss for result in column], digits=3)
        rows.append({"strategy": column[0].strategy, **scores, "loss": loss, "passes": str(column[0].passes)})
    return text_table(rows)
