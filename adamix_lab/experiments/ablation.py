"""An ablation from its grid to its table: learning rates first, then the runs, then what they say.

Rates are chosen once, before the runs, by the same trials for every variant of every task. A trial is a run of fewer
steps that is judged on a fifth of the training rows, which it does not train on. No evaluation row is looked at.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.baselines.making import BASELINES
from adamix_lab.core.errors import LabError
from adamix_lab.core.files import write_text
from adamix_lab.experiments.grid import Grid, Run, Search
from adamix_lab.experiments.performing import Engine, Say, duration, perform_all
from adamix_lab.experiments.results import RESULTS, begin, check_folder, finished, gather, read_table, state, summary
from adamix_lab.experiments.running import SLICE

if TYPE_CHECKING:
    from pandas import DataFrame

TRIALS, RECORD = "search", "search.json"
Group = tuple[str, str, int]  # what has a rate of its own: (task, variant, few-shot examples)


def ablate(grid: Grid, out: Path, engine: Engine | None = None, say: Say = print) -> tuple[DataFrame | None, int]:
    """Performs a grid, or a slice of it; gathers and prints what is finished.

    Killed at any moment and called again, it ends with the same table (seconds and dates apart).

    Args:
        grid: from `read_grid` or `grid_of`.
        out: holds a folder a run, and the tables; see `adamix_lab.experiments.results`.
        engine: where the runs are performed; None takes this process.
        say: takes lines.

    Returns:
        The results of this grid's finished runs (None: there are none), and how many runs failed.

    Raises as `perform_all`, `with_rates` and `gather` do.
    """
    engine = engine or Engine()
    deadline = None if engine.minutes is None else time.time() + 60 * engine.minutes
    start, runs = time.perf_counter(), grid.runs
    if tried := all_trials(grid):
        failed = perform_all(tried, out / TRIALS, replace(engine, snapshots=False), deadline, say)
        if not all(finished(out / TRIALS, trial) or trial.key in failed for trial in tried):
            say("Time is over before all rates were tried: run the command again to go on.")
            return None, len(failed)
        runs = with_rates(grid, out)
        say(f"Rates are chosen ({out / RECORD}).")
    failed = perform_all(runs, out, engine, deadline, say)
    for run in runs:
        if run.key in failed:
            say(f"FAILED {run} ({run.key}): {failed[run.key]}")
    done = [run for run in runs if finished(out, run)]
    left, took = len(runs) - len(done) - len(failed), duration(time.perf_counter() - start)
    say(f"\n{len(done)} of {len(runs)} runs are finished, {len(failed)} failed, {left} are left; {took} this time")
    if not done:
        return None, len(failed)
    for run in done:
        begin(out, run)  # under this grid's name
    results = gather(out)
    results = results[results["run"].isin([run.key for run in done])]
    say(summary(results, list(dict.fromkeys(run.variant for run in done))))
    return results, len(failed)


def listed(grid: Grid, out: Path) -> list[str]:
    """A line for each run: key, state, name, the last line of its error. Trials stand first while rates are open."""

    def line(folder: Path, run: Run) -> str:
        name, error = state(folder, run)
        return f"{run.key}  {name:9}  {run}" + (f": {error}" if error else "")

    check_folder(out)
    tried = all_trials(grid)
    if any(state(out / TRIALS, trial)[0] in ("waiting", "under way") for trial in tried):
        lines = [f"{line(out / TRIALS, trial)}, trial of lr {trial.lr:g}" for trial in tried]
        return [*lines, f"{len(grid.runs)} runs follow when rates are chosen."]
    return [line(out, run) for run in (with_rates(grid, out) if tried else grid.runs)]


# -- rates -------------------------------------------------------------------------------------------------------


def group_of(run: Run) -> Group:
    """What the run shares its rate with."""
    return run.task, run.variant, run.examples


def trials(runs: Iterable[Run], search: Search) -> dict[Group, list[Run]]:
    """The trials of each group, by its first run; a probe has no rate."""
    found: dict[Group, list[Run]] = {}
    for run in runs:
        if group_of(run) not in found and run.method in BASELINES:
            trial = replace(
                run, steps=search.steps, seed=search.seed, judged_on="slice", compute="steps", exact=0, draws=1
            )
            rates = [BASELINES[run.method].lr * factor for factor in search.factors]
            found[group_of(run)] = [replace(trial, lr=rate) for rate in rates]
    return found


def all_trials(grid: Grid) -> list[Run]:
    """Every trial once, in the order of the runs; none where the grid has no search."""
    found = trials(grid.runs, grid.search) if grid.search else {}
    return list({trial.key: trial for group in found.values() for trial in group}.values())


def with_rates(grid: Grid, out: Path) -> tuple[Run, ...]:
    """The runs with the rates that the trials in `out/search` chose; writes `out/search.json`.

    The best value of the task's own metric counts, then the smaller loss; a trial that failed (a rate too high, say)
    is passed over. Raises ValueError where a group has no finished trial.
    """
    if grid.search is None:
        return grid.runs
    chosen: dict[Group, float | None] = {}
    record: list[dict[str, Any]] = []
    for group, tried in trials(grid.runs, grid.search).items():
        scores = {trial.lr: score for trial in tried if (score := _score(out / TRIALS, trial)) is not None}
        if not scores:
            raise LabError(
                f"No trial of {', '.join(map(str, group[:2]))} is finished: expected one of {len(tried)} at least. "
                f"Their errors stand in {out / TRIALS}."
            )
        chosen[group] = max(scores, key=lambda rate: (scores[rate][0], -scores[rate][1]))
        shown = {f"{rate:g}": {"value": value, "loss": loss} for rate, (value, loss) in scores.items()}
        names = dict(zip(("task", "variant", "examples"), group, strict=True))
        record.append({**names, "lr": chosen[group], "tried": shown})
    text = json.dumps({**asdict(grid.search), "slice": SLICE, "chosen": record}, indent=1) + "\n"
    if not (out / RECORD).is_file() or (out / RECORD).read_text(encoding="utf-8") != text:
        write_text(out / RECORD, text)
    return tuple(replace(run, lr=chosen.get(group_of(run), run.lr)) for run in grid.runs)


def _score(out: Path, trial: Run) -> tuple[float, float] | None:
    """(the task's own metric, loss) of the merged model; None where the trial is not finished, or undefined."""
    if not finished(out, trial):
        return None
    table = read_table(out / trial.key / RESULTS)
    merged = table[table["strategy"] == "merged"]
    value = float(merged.loc[merged["primary"], "value"].iloc[0])
    loss = float(merged.loc[merged["metric"] == "loss", "value"].iloc[0])
    return None if value != value else (value, loss)
