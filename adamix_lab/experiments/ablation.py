"""An ablation from its grid to its table: rates and stops first, then the runs, then what they say.

Rates and stops are chosen once, before the runs, by the same trials for every variant of every task. A trial is a run
of its own length, at its own schedule, that is judged on a fifth of the training rows, with their labels as they are,
wrong ones included; it does not train on these. One rule chooses: the smallest loss on that slice (the NLL; of a
regression the squared error). No row that is reported on is looked at. Where labels are noisy, what their true values
would have chosen is a line of its own, the oracle.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.baselines import BASELINES
from adamix_lab.core.errors import LabError
from adamix_lab.core.files import alone, write_text
from adamix_lab.experiments.grids import Grid, Search
from adamix_lab.experiments.performing import Say, duration, perform_all
from adamix_lab.experiments.results import RESULTS, finished, gather, read_table, state, summary, task_name
from adamix_lab.experiments.running import SLICE, TRUE
from adamix_lab.experiments.settings import BUDGETS, Engine, Run

if TYPE_CHECKING:
    from pandas import DataFrame

TRIALS, RECORD = "search", "search.json"
RULE = "the smallest loss on the slice"
CHOSEN = ("lr", "steps", "temperature")
# Of a trial: lr, steps; value, loss, temperature on the slice; true_value, ... by true labels (None: none are wrong).
Tried = dict[str, Any]


# -- performing -------------------------------------------------------------------------------------------------


@alone("out")
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
        failed = perform_all(tried, out / TRIALS, engine, deadline, say)
        if not all(finished(out / TRIALS, trial) or trial.key in failed for trial in tried):
            say("Time is over before all rates were tried: run the command again to go on.")
            return None, len(failed)
        runs = with_rates(grid, out)
        say(f"Rates are chosen ({out / RECORD}).")
        for line in at_edges(out):
            say(line)
    failed = perform_all(runs, out, engine, deadline, say)
    for run in runs:
        if run.key in failed:
            say(f"FAILED {run} ({run.key}): {failed[run.key]}")
    done = [run for run in runs if finished(out, run)]
    left, took = len(runs) - len(done) - len(failed), duration(time.perf_counter() - start)
    say(f"\n{len(done)} of {len(runs)} runs are finished, {len(failed)} failed, {left} are left; {took} this time")
    if not done:
        return None, len(failed)
    names = {run.key: run.variant for run in done}
    results = gather(out, names)
    results = results[results["run"].isin(names)]
    say(summary(results.sort_values("run", key=lambda keys: keys.map(list(names).index), kind="stable")))
    return results, len(failed)


def listed(grid: Grid, out: Path) -> list[str]:
    """A line for each run: key, state, name; for each trial while these are open."""
    tried = all_trials(grid)
    trying = any(state(out / TRIALS, trial) == "waiting" for trial in tried)
    folder, runs = (out / TRIALS, tried) if trying else (out, with_rates(grid, out))
    return [f"{run.key}  {state(folder, run):8}  {run}: lr {run.lr:g}, {run.steps} steps" for run in runs]


# -- rates -------------------------------------------------------------------------------------------------------


def trials(run: Run, search: Search) -> list[Run]:
    """The trials of a run: rates by lengths. Runs that differ by their seed alone have the same; none has a probe."""
    begun = replace(
        run, seed=0, judged_on="slice", part=None, temperature=None, exact=0, draws=1,
        compute="compute" if run.compute == "compute" else "steps",
    )  # fmt: skip
    return [
        replace(begun, steps=steps, lr=BASELINES[run.method].lr * factor)
        for steps in search.lengths(run)
        for factor in search.factors
    ]


def all_trials(grid: Grid) -> list[Run]:
    """Every trial once, in the order of the runs; none where the grid has no search."""
    found = [trial for run in grid.runs for trial in trials(run, grid.search)] if grid.search else []
    return list({trial.key: trial for trial in found}.values())


def with_rates(grid: Grid, out: Path) -> tuple[Run, ...]:
    """The runs with the rates (stops, temperatures) that the trials in `out/search` chose; writes `out/search.json`.

    The record has every trial, so the whole curve by rate and steps. The smallest loss counts; a trial that failed (a
    rate too high, say) is passed over. Raises ValueError where a run has no finished trial.
    """
    if grid.search is None:
        return grid.runs
    known = {trial.key: found for trial in all_trials(grid) if (found := _result(out / TRIALS, trial))}
    record: dict[Any, dict[str, Any]] = {}
    runs = []
    for run in grid.runs:
        if not (own := trials(run, grid.search)):
            runs.append(run)
            continue
        tried = [known[trial.key] for trial in own if trial.key in known]
        if not tried:
            raise LabError(
                f"No trial of {run.task}, {run.variant} is finished: expected one of {len(own)} at least. Their errors "
                f"stand in {out / TRIALS}."
            )
        runs.append(chosen := _chosen(run, tried))
        shown = {name: getattr(chosen, name) for name in ("variant", "examples", "compute", *CHOSEN)}
        record.setdefault((run.compute, own[0].key), {"task": task_name(run), **shown, "tried": tried})
    whole = {**asdict(grid.search), "slice": SLICE, "rule": RULE, "chosen": list(record.values())}
    text = json.dumps(whole, indent=1) + "\n"
    if not (out / RECORD).is_file() or (out / RECORD).read_text(encoding="utf-8") != text:
        write_text(out / RECORD, text)
    return tuple(runs)


def _chosen(run: Run, tried: Sequence[Tried]) -> Run:
    """The run at the rate with the smallest loss; of "best" and "oracle" with its steps and temperature, too."""
    by = "true_" if run.compute == "oracle" else ""
    best = min(tried, key=lambda found: found[f"{by}loss"])
    own = {"lr": best["lr"], "steps": best["steps"], "temperature": best[f"{by}temperature"]}
    return replace(run, **(own if run.compute in ("best", "oracle") else {"lr": best["lr"]}))


def at_edges(out: Path) -> list[str]:
    """A line for each choice whose rate is the smallest or largest that was tried."""
    lines = []
    for found in json.loads((out / RECORD).read_text(encoding="utf-8"))["chosen"]:
        rates = {trial["lr"] for trial in found["tried"]}
        if len(rates) > 2 and found["lr"] in (min(rates), max(rates)):
            where = f"{found['task']}, {found['variant']}, {BUDGETS[found['compute']]}"
            lines.append(f"{where}: lr {found['lr']:g} is at the edge of what was tried; a better one may lie beyond.")
    return lines


def _result(out: Path, trial: Run) -> Tried | None:
    """What a trial gave; None where it is not finished, or has no loss."""
    if not finished(out, trial):
        return None
    table = read_table(out / trial.key / RESULTS)
    merged = table[table["strategy"] == "merged"].set_index("metric")["value"].to_dict()
    names = {"value": table.loc[table["primary"], "metric"].iloc[0], "loss": "loss", "temperature": "temperature"}
    found = {name: merged.get(metric) for name, metric in names.items()}
    true = {f"true_{name}": merged.get(f"{metric}, {TRUE}") for name, metric in names.items()}
    return None if math.isnan(merged["loss"]) else {"lr": trial.lr, "steps": trial.steps, **found, **true}
