"""An ablation from its grid to its table: rates first, then the runs, then what they say."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.analysis.statistics import format_interval
from adamix_lab.baselines.making import known
from adamix_lab.core.errors import positive
from adamix_lab.core.files import write_text
from adamix_lab.experiments.batched import begin_set, begun_sets, end_set, perform_set, sets_of
from adamix_lab.experiments.grid import FORMAT, Grid, Run, Search, name
from adamix_lab.experiments.results import (
    FINISHED,
    begin,
    check_versions,
    error_of,
    fail,
    finish,
    gather,
    place_of,
    read_table,
    state,
)
from adamix_lab.experiments.running import SLICE, Job, Outcome
from adamix_lab.experiments.seeds import unit

if TYPE_CHECKING:
    from pandas import DataFrame


# -- engines -----------------------------------------------------------------------------------------------------
#
# Where runs are performed: here one by one, on the cores and GPUs of one machine, or on a cluster.
#
# All three are one function of sets of jobs to outcomes, over joblib: its own processes, or its `dask` and `ray`
# backends. What workers send back are bytes, so they need share neither memory nor disk with the driver; where they do
# share its disk, checkpoints lie there and a run goes on on another worker.


TIMEOUT = 15  # seconds that a cluster has to answer


class WorkersLost(RuntimeError):
    """A worker process ended without a word (killed, or out of memory); what it had under way can be done again."""


def outcomes(sets: Iterable[Sequence[Job]], workers: int = 1, cluster: str | None = None) -> Iterator[Outcome]:
    """What becomes of each job, in the order in which sets end. Sets are taken when a worker is free for them.

    Args:
        sets: jobs that are trained as one program; most are of one job. Taken lazily.
        workers: processes on this machine, or SLURM jobs; 1 performs the runs here.
        cluster: "tcp://HOST:PORT" or a scheduler file (dask), "ray" or "ray://HOST:PORT", "slurm"; None is this
            machine.

    Raises:
        WorkersLost: a worker process ended; whatever it had under way is no outcome.
        ConnectionError: the cluster does not answer.
        ImportError: the cluster's package is missing.
        OSError: the disk is full.
    """
    if workers == 1 and cluster is None:
        yield from chain.from_iterable(map(perform_set, sets))
        return
    try:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError
    except ImportError as error:
        raise ImportError("Several workers need joblib: run pip install 'adamix-lab[experiments]'.") from error

    with connected(cluster, workers) if cluster else nullcontext():
        parallel = Parallel(
            n_jobs=-1 if cluster else workers,
            return_as="generator_unordered",
            pre_dispatch=workers if cluster == "slurm" else "n_jobs",  # more of SLURM's jobs may begin later
            batch_size=1,
        )
        try:
            yield from chain.from_iterable(parallel(delayed(perform_set)(jobs) for jobs in sets))
        except Exception as error:
            if isinstance(error, TerminatedWorkerError) or type(error).__name__ == "KilledWorker":  # joblib's, dask's
                raise WorkersLost(" ".join(str(error).split())[:200]) from error
            raise


@contextmanager
def connected(cluster: str, workers: int) -> Iterator[None]:
    """Inside the block, joblib hands its tasks to the cluster. Raises as `outcomes` does."""
    from joblib import parallel_config

    kind, _, _ = cluster.partition(":")
    opened: dict[str, Callable[[str, int], Any]] = {"ray": _ray, "slurm": _slurm}
    with opened.get(kind, _dask)(cluster, workers), parallel_config(backend="ray" if kind == "ray" else "dask"):
        yield


def _distributed() -> Any:
    try:
        import dask.distributed as distributed
    except ImportError as error:
        raise ImportError("A dask cluster needs dask: run pip install 'adamix-lab[cluster]'.") from error
    return distributed


def _dask(cluster: str, workers: int) -> Any:
    distributed = _distributed()
    where = {"scheduler_file": cluster} if cluster.endswith(".json") else {"address": cluster}
    try:
        client = distributed.Client(**where, timeout=TIMEOUT)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConnectionError(
            f"The cluster {cluster!r} does not answer ({type(error).__name__}, {TIMEOUT} s): expected the address of a "
            'dask scheduler ("tcp://HOST:8786", as `dask scheduler` prints it), a scheduler file (.json), "ray", or '
            '"slurm". Finished runs are kept.'
        ) from error
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
    except TimeoutError as error:
        client.close()
        raise ConnectionError(
            f"The cluster {cluster!r} has no worker after {TIMEOUT} s: expected one at least. Start some with `dask "
            f"worker {cluster} --nthreads 1`. Finished runs are kept."
        ) from error
    return client


@contextmanager
def _slurm(cluster: str, workers: int) -> Iterator[None]:
    """SLURM jobs with a dask worker each; queue, cores and memory come from dask's configuration (jobqueue.slurm)."""
    distributed = _distributed()
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ImportError("SLURM needs dask-jobqueue: run pip install 'adamix-lab[slurm]'.") from error

    with SLURMCluster(processes=1) as jobs:
        jobs.scale(jobs=workers)
        with distributed.Client(jobs, timeout=TIMEOUT) as client:
            client.wait_for_workers(1)  # for as long as the queue takes
            yield


@contextmanager
def _ray(cluster: str, workers: int) -> Iterator[None]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ImportError("A ray cluster needs ray, which no extra brings: run pip install ray.") from error

    try:
        ray.init(address="auto" if cluster == "ray" else cluster)
    except Exception as error:
        raise ConnectionError(f"The cluster {cluster!r} does not answer ({error}): expected a running ray.") from error
    register_ray()
    try:
        yield
    finally:
        ray.shutdown()


# -- performing --------------------------------------------------------------------------------------------------
#
# Performing many runs: finished ones are skipped, broken ones go on, failed ones do not stop the others.


Say = Callable[[str], None]
LOST = 2  # times in a row that workers are lost without any run ending: then runs are tried one by one


@dataclass(frozen=True)
class Engine:
    """Where and how long runs are performed; nothing here decides their numbers.

    Attributes:
        workers: processes on this machine (or SLURM jobs); 1 performs runs one by one in this one.
        threads: of the CPU for each; None shares this machine's cores. Sums in another order differ in the last
            digits, so equal numbers to the last bit need equal threads.
        cluster: as `engines.outcomes` takes it.
        minutes: of this slice: nothing is begun behind it, and what is under way stops at its next checkpoint.
        snapshots: keep the experts at three stages of training.
        together: at most so many runs of equal shape train as one program (`experiments.sets`). Under dropout this
            does decide digits: masks are then drawn for all of them together.
    """

    workers: int = 1
    threads: int | None = None
    cluster: str | None = None
    minutes: float | None = None
    snapshots: bool = True
    together: int = 1

    def __post_init__(self) -> None:
        positive("workers", self.workers)
        positive("together", self.together)
        if self.threads is not None:
            positive("threads", self.threads)
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes = {self.minutes}: expected a number above 0.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "A grid was started by accelerate launch or torchrun: expected one process. Use --workers for several "
                "runs at once; `accelerate launch -m adamix_lab train` puts one run on several GPUs."
            )

    @property
    def threads_each(self) -> int:
        """CPU threads of a run."""
        return self.threads or max(1, (os.cpu_count() or 1) // (1 if self.cluster else self.workers))


def perform_all(runs: Sequence[Run], out: Path, engine: Engine, deadline: float | None, say: Say) -> dict[str, str]:
    """Performs what is not finished, in order; returns the errors of runs that failed, by key.

    Args:
        runs: in the order of their importance.
        out: holds a folder a run.
        engine: where.
        deadline: seconds since the epoch; None has no end.
        say: takes a line for each run that ends.

    Raises ValueError where `out` holds another version's results, OSError where the disk is full, ConnectionError
    where the cluster does not answer: what is finished stays.
    """
    check_versions(out)
    failed: dict[str, str] = {}
    lost = 0

    def go(some: Sequence[Sequence[Run]], view: Progress) -> None:
        nonlocal lost
        for outcome in outcomes(_jobs(some, out, engine, deadline), engine.workers, engine.cluster):
            lost = 0
            if state(out, outcome.job.run) != "finished":  # a set that goes on brings its finished members, too
                store(out, outcome, failed)
                say(view.after(outcome))

    while todo := [run for run in runs if run.key not in failed and state(out, run) != "finished"]:
        view = Progress(len(runs), len(runs) - len(todo) - len(failed), len(failed), engine.workers)
        try:
            begun = begun_sets(out)
            go(sets_of(_with_their_sets(todo, runs, begun), engine.together, begun), view)
            break
        except WorkersLost as error:
            lost += 1
            say(f"A worker ended without a word ({error}). Going on with what is not finished.")
        if lost < LOST:
            continue
        for run in todo:  # one at a time: which of them ends its worker?
            try:
                go([(run,)], view)
            except WorkersLost:
                failed[run.key] = "its worker ended again and again without a word (killed, or out of memory)"
                fail(place_of(out, run), failed[run.key])
                lost = 0
                break
    for keys in begun_sets(out):
        if all(key in failed or (out / key / FINISHED).is_file() for key in keys):
            end_set(out, keys)
    return failed


def _with_their_sets(todo: Sequence[Run], runs: Sequence[Run], begun: Sequence[Sequence[str]]) -> list[Run]:
    """What is to be done, with the finished members of sets that were under way: a set goes on as it was."""
    open_keys = {run.key for run in todo}
    again = {key for keys in begun if open_keys & set(keys) for key in keys}
    return [run for run in runs if run.key in open_keys or run.key in again]


def _jobs(
    sets: Sequence[Sequence[Run]], out: Path, engine: Engine, deadline: float | None
) -> Iterator[tuple[Job, ...]]:
    """The jobs of sets of runs, made when they are asked for; none when time is over."""
    driver = os.getpid() if engine.workers > 1 and engine.cluster is None else None
    for runs in sets:
        if deadline is not None and time.time() > deadline:
            return
        places = [str(begin(out, run).resolve()) for run in runs]
        if len(runs) > 1:
            begin_set(out, [run.key for run in runs])
        yield tuple(
            Job(located(run), place, engine.threads_each, engine.snapshots, deadline, driver)
            for run, place in zip(runs, places, strict=True)
        )


def located(run: Run) -> Run:
    """The run with the whole path of its data: workers may stand in other folders."""
    return run if run.folder is None else replace(run, folder=str(Path(run.folder).resolve()))


def store(out: Path, outcome: Outcome, failed: dict[str, str]) -> None:
    """Writes what a worker sent; notes an error in `failed`."""
    place = place_of(out, outcome.job.run)
    if outcome.files:
        finish(place, outcome.files, outcome.notes)
    elif outcome.error:
        failed[outcome.job.run.key] = outcome.error.strip().splitlines()[-1]
        fail(place, outcome.error)


@dataclass
class Progress:
    """How many are done, running, failed, and about how long the rest takes."""

    total: int
    done: int
    failed: int
    workers: int

    def __post_init__(self) -> None:
        self.start, self.ended = time.perf_counter(), 0

    def after(self, outcome: Outcome) -> str:
        """The line for a run that has ended."""
        self.ended += 1
        run = outcome.job.run
        if outcome.error:
            self.failed += 1
            what = f"FAILED: {outcome.error.strip().splitlines()[-1]}"
        elif outcome.files:
            self.done += 1
            what = figures(outcome)
        else:
            what = "stopped behind a checkpoint: time is over"
        left = self.total - self.done - self.failed
        a_run = (time.perf_counter() - self.start) / self.ended
        running = min(left, self.workers) if self.workers > 1 else 0
        return (
            f"[{self.done} of {self.total} done, {running} running, {self.failed} failed, about "
            f"{duration(a_run * left)} left] {name(run)}: {what}"
        )


def figures(outcome: Outcome) -> str:
    """The merged model's own metric, and the seconds of training."""
    import pandas as pd

    table = pd.read_parquet(io.BytesIO(outcome.files["results.parquet"]))
    row = table[table["primary"] & (table["strategy"] == "merged")].iloc[0]
    return f"{row['metric']} {100 * row['value']:.1f}{unit(row['metric'])} ({duration(row['seconds'])})"


def duration(seconds: float) -> str:
    """`35 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- search ------------------------------------------------------------------------------------------------------
#
# Learning rates, chosen once before the runs: the same trials for every variant of every task.
#
# A trial is a run of fewer steps that is judged on a fifth of the training rows, which it does not train on. No
# evaluation row is looked at.


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
            shown = "".join(f"{format_interval(values) if values else '':>16}" for values in cells)
            lines.append(f"{variant:26}{shown}{rows['seed'].nunique():>7}{rows['steps'].iloc[0]:>7}")
    return "\n".join(lines)
