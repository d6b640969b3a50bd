"""Performing many runs: finished ones are skipped, broken ones go on, failed ones do not stop the others."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adamix_lab.core.errors import positive
from adamix_lab.experiments.engines import WorkersLost, outcomes
from adamix_lab.experiments.grid import name
from adamix_lab.experiments.results import FINISHED, begin, check_versions, fail, finish, place_of, state
from adamix_lab.experiments.running import Job, Outcome
from adamix_lab.experiments.seeds import unit
from adamix_lab.experiments.sets import begin_set, begun_sets, end_set, sets_of
from adamix_lab.experiments.settings import Run

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
