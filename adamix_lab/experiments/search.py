"""Learning rates, chosen once before the runs: the same trials for every variant of every task.

A trial is a run of fewer steps that is judged on a fifth of the training rows, which it does not train on. No
evaluation row is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from adamix_lab.baselines.making import known
from adamix_lab.core.files import write_text
from adamix_lab.experiments.grid import Grid, Search
from adamix_lab.experiments.preparing import SLICE
from adamix_lab.experiments.results import place_of, read_table, state
from adamix_lab.experiments.settings import FORMAT, Run

FOLDER = "search"
RECORD = "search.json"
Group = tuple[str, str, int]


def group_of(run: Run) -> Group:
    """What has a rate of its own: (task, variant, few-shot examples)."""
    return run.task, run.variant, run.examples


def trials(runs: Iterable[Run], search: Search) -> dict[Group, list[Run]]:
    """The trials of each group, by its first run."""
    found: dict[Group, list[Run]] = {}
    for run in runs:
        if group_of(run) not in found:
            trial = replace(
                run, steps=search.steps, seed=search.seed, judged_on="slice", compute="steps", exact=0, draws=1
            )
            found[group_of(run)] = [replace(trial, lr=known(run.method).lr * factor) for factor in search.factors]
    return found


def all_trials(grid: Grid) -> list[Run]:
    """Every trial once, in the order of the runs; none where the grid has no search."""
    if grid.search is None:
        return []
    every = [trial for group in trials(grid.runs, grid.search).values() for trial in group]
    return list({trial.key: trial for trial in every}.values())


def with_rates(grid: Grid, out: Path) -> tuple[Run, ...]:
    """The runs with the rates that the trials in `out/search` chose; writes `out/search.json`.

    The best value of the task's own metric counts, then the smaller loss; a trial that failed (a rate too high, say)
    is passed over. Raises ValueError where a group has no finished trial.
    """
    if grid.search is None:
        return grid.runs
    chosen: dict[Group, float] = {}
    record: list[dict[str, Any]] = []
    for group, tried in trials(grid.runs, grid.search).items():
        scores = {trial.lr: score for trial in tried if (score := _score(out / FOLDER, trial)) is not None}
        if not scores:
            raise ValueError(
                f"No trial of {', '.join(map(str, group[:2]))} is finished: expected one of {len(tried)} at least. "
                f"Their errors stand in {out / FOLDER}."
            )
        chosen[group] = max(scores.items(), key=lambda item: (item[1][0], -item[1][1]))[0]
        shown = {f"{rate:g}": {"value": value, "loss": loss} for rate, (value, loss) in scores.items()}
        task, variant, examples = group
        row = {"task": task, "variant": variant, "examples": examples, "lr": chosen[group], "tried": shown}
        record.append(row)
    head = {"format": FORMAT, "factors": grid.search.factors, "steps": grid.search.steps, "seed": grid.search.seed}
    text = json.dumps({**head, "slice": SLICE, "chosen": record}, indent=1) + "\n"
    if not (out / RECORD).is_file() or (out / RECORD).read_text(encoding="utf-8") != text:
        write_text(out / RECORD, text)
    return tuple(replace(run, lr=chosen[group_of(run)]) for run in grid.runs)


def _score(out: Path, trial: Run) -> tuple[float, float] | None:
    """(the task's own metric, loss) of the merged model; None where the trial is not finished, or undefined."""
    if state(out, trial) != "finished":
        return None
    table = read_table(place_of(out, trial) / "results.parquet", "results")
    merged = table[table["strategy"] == "merged"]
    value = float(merged.loc[merged["primary"], "value"].iloc[0])
    loss = float(merged.loc[merged["metric"] == "loss", "value"].iloc[0])
    return None if value != value else (value, loss)
