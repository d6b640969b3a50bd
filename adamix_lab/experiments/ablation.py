"""An ablation from its grid to its table: rates first, then the runs, then what they say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adamix_lab.experiments.grid import Grid, name
from adamix_lab.experiments.performing import Engine, Say, duration, perform_all
from adamix_lab.experiments.results import begin, check_versions, error_of, gather, state
from adamix_lab.experiments.search import FOLDER, all_trials, with_rates
from adamix_lab.experiments.seeds import interval, unit
from adamix_lab.experiments.settings import Run

if TYPE_CHECKING:
    from pandas import DataFrame


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
    start = time.perf_counter()
    runs = grid.runs
    if tried := all_trials(grid):
        failed = perform_all(tried, out / FOLDER, replace(engine, snapshots=False), deadline, say)
        if any(state(out / FOLDER, trial) != "finished" and trial.key not in failed for trial in tried):
            say("Time is over before all rates were tried: run the command again to go on.")
            return None, len(failed)
        runs = with_rates(grid, out)
        say(f"Rates are chosen ({out / 'search.json'}).")
    failed = perform_all(runs, out, engine, deadline, say)
    finished = [run for run in runs if state(out, run) == "finished"]
    for run in finished:
        begin(out, run)  # under this grid's name
    for run in runs:
        if run.key in failed:
            say(f"FAILED {name(run)} ({run.key}): {failed[run.key]}")
    left = len(runs) - len(finished) - len(failed)
    say(f"\n{len(finished)} of {len(runs)} runs are finished, {len(failed)} failed, {left} are left; {_took(start)}")
    if not finished:
        return None, len(failed)
    results = gather(out)
    results = results[results["run"].isin([run.key for run in finished])]
    say(table(results, runs))
    return results, len(failed)


def _took(start: float) -> str:
    return f"{duration(time.perf_counter() - start)} this time"


def listed(grid: Grid, out: Path) -> list[str]:
    """A line for each run: key, state, name, the last line of its error. Trials stand first while rates are open."""
    check_versions(out)
    tried = all_trials(grid)
    lines = []
    if any(state(out / FOLDER, trial) in ("waiting", "under way") for trial in tried):
        lines += [f"{_line(out / FOLDER, trial)}, trial of lr {trial.lr:g}" for trial in tried]
        return [*lines, f"{len(grid.runs)} runs follow when rates are chosen."]
    return [_line(out, run) for run in (with_rates(grid, out) if tried else grid.runs)]


def _line(out: Path, run: Run) -> str:
    error = error_of(out, run)
    return f"{run.key}  {state(out, run):9}  {name(run)}" + (f": {error}" if error else "")


def table(results: DataFrame, runs: Sequence[Run]) -> str:
    """Each task's own metric (times 100) by variant and strategy: mean ± 95 % t-interval over seeds."""
    own = results[results["primary"]]
    strategies = list(dict.fromkeys(own["strategy"]))
    variants = list(dict.fromkeys(run.variant for run in runs))
    lines: list[str] = []
    for (task, examples, compute), part in own.groupby(["task", "examples", "compute"], sort=False):
        metric = part["metric"].iloc[0]
        few = f", {examples} examples" if examples else ""
        more = ", equal compute" if compute == "compute" else ""
        head = f"{'variant':26}" + "".join(f"{strategy:>16}" for strategy in strategies) + f"{'seeds':>7}{'steps':>7}"
        lines += ["", f"{task}{few}{more}: {metric} x 100{' (%)' if unit(metric) else ''}", head, "-" * len(head)]
        for variant in variants:
            rows = part[part["variant"] == variant].sort_values("seed")
            if rows.empty:
                continue
            means = rows.groupby(["strategy", "seed"])["value"].mean()  # over a run's draws of random routes
            cells = [[100 * v for v in means.get(s, ())] for s in strategies]
            shown = "".join(f"{interval(values) if values else '':>16}" for values in cells)
            lines.append(f"{variant:26}{shown}{rows['seed'].nunique():>7}{rows['steps'].iloc[0]:>7}")
    return "\n".join(lines)
