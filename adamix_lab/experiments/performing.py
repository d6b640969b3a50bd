"""Many runs: what is not finished is handed out, here or on a cluster, and what comes back is stored.

A run is finished when its results are there, so a killed grid is simply begun again: `train`'s own checkpoints take up
the run that was under way. joblib hands the runs out, to processes of its own, or over its `dask` and `ray` backends.
What workers send back are bytes, so they need share neither memory nor disk with who hands out; where they do share
its disk, checkpoints lie there and a run goes on on another worker.
"""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.errors import extra
from adamix_lab.experiments.batched import StackedRuns, train_batched
from adamix_lab.experiments.results import RESULTS, SETTINGS, WORK, begin, check_folder, fail, finish, finished, unit
from adamix_lab.experiments.running import (
    Outcome,
    Prepared,
    Trained,
    curve_rows,
    judged,
    perform_run,
    prepare,
    stages_of,
    write_stage,
)
from adamix_lab.experiments.settings import DEFAULTS, Budget, Engine, Run, Stopped, Terms
from adamix_lab.models.model import load_trained, trained_tensors

Say = Callable[[str], None]
LOST = 2  # times in a row that workers are lost without any run ending: then runs are tried one by one
TIMEOUT = 15  # seconds that a cluster has to answer
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
STACKED = ("adamix", "single", "r-drop", "slow", "swa", "ema", "slow-swa", "wide", "houlsby", "pfeiffer")
# What runs of a stack may differ in.
OWN = ("variant", "seed", "lr", "head_lr", "weight_decay", "label_smoothing", "swa", "ema", "bucket", "temperature")

# Training seeds torch's, numpy's and Python's global generators: one run a process at a time.
_TRAINING = threading.Lock()


class WorkersLost(RuntimeError):
    """A worker process ended without a word (killed, or out of memory); what it had under way can be done again."""


def perform_all(runs: Sequence[Run], out: Path, engine: Engine, deadline: float | None, say: Say) -> dict[str, str]:
    """Performs what is not finished, in order; returns the errors of runs that failed, by key.

    Args:
        runs: in the order of their importance.
        out: holds a folder a run.
        engine: where.
        deadline: seconds since the epoch; None has no end.
        say: takes a line for each run that ends.

    Raises LabError where `out` holds an earlier version's runs, OSError where the disk is full, ConnectionError where
    the cluster does not answer, ImportError where its package is missing: what is finished stays.
    """
    check_folder(out)
    failed: dict[str, str] = {}
    start, ended, lost = time.perf_counter(), 0, 0
    while jobs := jobs_of(runs, out, 1 if lost >= LOST else engine.together, engine.terms(deadline), failed):
        one_by_one, before = lost >= LOST, ended  # one by one, out of their stacks: which of them ends its worker?
        taken = _begun(jobs[:1] if one_by_one else jobs, out)
        try:
            for job, outcomes in hand_out(taken, engine.workers, engine.cluster):
                for outcome in outcomes:
                    if not finished(out, outcome.run):  # a stack that goes on brings its finished runs, too
                        store(out, outcome, failed)
                        ended, lost = ended + 1, lost if one_by_one else 0
                        seconds = (time.perf_counter() - start) / ended
                        counts = progress(runs, out, len(failed), engine.workers, seconds)
                        say(f"{counts} {outcome.run}: {headline(outcome)}")
                if len(outcomes) > 1 and all(outcome.files or outcome.error for outcome in outcomes):
                    shutil.rmtree(out / job.name, ignore_errors=True)
        except WorkersLost as error:
            lost += 1
            say(f"A worker ended without a word ({error}). Going on with what is not finished.")
            for run in jobs[0].runs if one_by_one else ():
                reason = "its worker ended again and again without a word (killed, or out of memory)"
                store(out, Outcome(run, error=reason), failed)
                lost = 0
        else:
            if not one_by_one or ended == before:
                break
    return failed


def _begun(jobs: Sequence[Job], out: Path) -> Iterator[Job]:
    """The jobs, their folders made when they are asked for; none when time is over."""
    for job in jobs:
        if job.terms.deadline is not None and time.time() > job.terms.deadline:
            return
        for run in job.runs:
            begin(out, run)
        yield job


def store(out: Path, outcome: Outcome, failed: dict[str, str]) -> None:
    """Writes what a worker sent; notes an error in `failed`."""
    if outcome.files:
        finish(out / outcome.run.key, outcome.files, outcome.notes)
    elif outcome.error:
        failed[outcome.run.key] = outcome.error.strip().splitlines()[-1]
        fail(out / outcome.run.key, outcome.error)


def progress(runs: Sequence[Run], out: Path, failed: int, workers: int, seconds: float) -> str:
    """How many are done, running, failed, and about how long the rest takes. seconds: of a run."""
    done = sum(finished(out, run) for run in runs)
    left = len(runs) - done - failed
    running = min(left, workers) if workers > 1 else 0
    rest = duration(seconds * left)
    return f"[{done} of {len(runs)} done, {running} running, {failed} failed, about {rest} left]"


def headline(outcome: Outcome) -> str:
    """The merged model's own metric and the seconds of training, or what became of the run."""
    import pandas as pd

    if outcome.error:
        return f"FAILED: {outcome.error.strip().splitlines()[-1]}"
    if not outcome.files:
        return "stopped behind a checkpoint: time is over"
    table = pd.read_parquet(io.BytesIO(outcome.files[RESULTS]))
    row = table[table["primary"] & (table["strategy"] == "merged")].iloc[0]
    return f"{row['metric']} {100 * row['value']:.1f}{unit(row['metric'])} ({duration(row['seconds'])})"


def duration(seconds: float) -> str:
    """`35 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- jobs: a run, or a stack of runs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a worker does at once: a run, or a stack of runs of equal shape that train as one program.

    Attributes:
        runs: one, or those of the stack.
        out: the folder of the results, as who hands out sees it.
        terms: how it is performed.
    """

    runs: tuple[Run, ...]
    out: str
    terms: Terms

    @property
    def name(self) -> str:
        """Of the folder with its checkpoints: the run's key; of a stack, what follows from its members' keys."""
        keys = " ".join(run.key for run in self.runs)
        return keys if len(self.runs) == 1 else f"stack-{hashlib.sha256(keys.encode()).hexdigest()[:12]}"

    @property
    def work(self) -> Path:
        """Where checkpoints lie: in the results' folder, or, if that disk is not seen, on this machine."""
        if (Path(self.out) / self.runs[0].key / SETTINGS).is_file():
            return Path(self.out) / self.name / WORK
        return Path(tempfile.gettempdir()) / f"adamix-lab-{self.name}"


def jobs_of(runs: Sequence[Run], out: Path, together: int, terms: Terms, failed: Container[str] = ()) -> list[Job]:
    """What is left to do. A stack that was under way goes on with the same members: its masks are drawn for them."""
    jobs = []
    for group in stacks_of(runs, together):
        left = tuple(run for run in group if run.key not in failed and not finished(out, run))
        whole, rest = (Job(tuple(map(located, some)), str(out.resolve()), terms) for some in (group, left))
        if left:
            jobs.append(whole if len(group) > 1 and (out / whole.name).is_dir() else rest)
    return jobs


def located(run: Run) -> Run:
    """The run with the whole path of its data: workers may stand in other folders."""
    return run if run.folder is None else replace(run, folder=str(Path(run.folder).resolve()))


def stacks_of(runs: Iterable[Run], most: int) -> list[tuple[Run, ...]]:
    """The runs in stacks of equal shape, of at most `most`, in the order of their first members."""
    stacks: list[list[Run]] = []
    open_stacks: dict[object, list[Run]] = {}
    for run in runs:
        own = open_stacks.get(shape(run))
        if own is None or len(own) >= most:
            own = open_stacks[shape(run)] = []
            stacks.append(own)
        own.append(run)
    return [tuple(own) for own in stacks]


def shape(run: Run) -> object:
    """Equal for runs that can be one program."""
    if stacking_obstacle(run):
        return run.key
    # One view or two, a route a batch or a row: each run its own. But equal compute gives one view more steps.
    views = run.consistency > 0 if run.compute == "compute" else None
    budget: Budget = "compute" if run.compute == "compute" else "steps"
    own = {name: DEFAULTS[name] for name in OWN}
    return views, replace(run, **own, consistency=0.0, routing="batch", compute=budget)


def stacking_obstacle(run: Run) -> str:
    """Why a run cannot be one of a stack; "" where it can."""
    if run.method == "apart-soup":
        return "adapters trained apart are several trainings, one after another"
    if run.method not in STACKED:
        return "it trains weights of the model itself, or modules that are not stacked"
    if run.routing == "token":
        return "a route a token computes all vertices"
    return ""


def perform(job: Job) -> tuple[Job, list[Outcome]]:
    """Trains and judges a job's runs, going on from the checkpoints that an earlier try left.

    An error becomes the outcome's text, so that other runs go on; a stack that fails is performed run by run. Raises
    OSError where the disk is full: that is no fault of this run, and the next would meet it, too.
    """
    work = job.work
    try:
        with _one_at_a_time(job.terms.threads):
            if len(job.runs) > 1:
                outcomes = perform_stack(job.runs, work, job.terms)
            else:
                outcomes = [perform_run(job.runs[0], work, job.terms)]
    except Stopped:
        return job, [Outcome(run) for run in job.runs]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if len(job.runs) == 1:
            return job, [Outcome(job.runs[0], error=traceback.format_exc())]
        note = f"performed alone, for the stack failed: {' '.join(str(error).split()) or type(error).__name__}"
        found = [outcome for run in job.runs for outcome in perform(replace(job, runs=(run,)))[1]]
        outcomes = [replace(outcome, notes=(*outcome.notes, note)) for outcome in found]
    if not work.is_relative_to(job.out):
        shutil.rmtree(work, ignore_errors=True)  # nobody else cleans up on this machine
    return job, outcomes


@contextmanager
def _one_at_a_time(threads: int) -> Iterator[None]:
    """Inside the block this process trains nothing else, with so many CPU threads."""
    with _TRAINING:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def perform_stack(runs: Sequence[Run], work: Path, terms: Terms) -> list[Outcome]:
    """Trains runs of equal shape as one program and judges each. Raises ValueError where they cannot be one."""
    members: list[Prepared] = []
    starts: list[dict[str, Tensor]] = []
    for run in runs:  # the models of all but the first are let go
        prepared = prepare(run)
        starts.append({name: tensor.clone() for name, tensor in trained_tensors(prepared.mixture).items()})
        members.append(replace(prepared, mixture=members[0].mixture) if members else prepared)
    mixture, recipes = members[0].mixture, [member.recipe for member in members]
    total = recipes[0].steps or 0
    stages = stages_of(total) if terms.snapshots else {}

    def after(step: int, stack: StackedRuns) -> None:
        for n, run in enumerate(runs) if step in stages else ():
            write_stage(work / run.key / stages[step], stack.result(n, total) if step == total else stack.weights(n))
        terms.check(step, recipes[0].checkpoint_every)

    examples, pad = [member.training for member in members], members[0].pad
    found = train_batched(mixture, starts, examples, recipes, pad, progress=False, on_step=after, folder=work)
    outcomes = []
    for run, member, each in zip(runs, members, found, strict=True):
        if each.failed:
            outcomes.append(Outcome(run, error=f"FloatingPointError: {each.failed}"))
            continue
        load_trained(mixture, each.weights)
        trained = Trained(mixture, curve_rows(each.history.rows), each.history.seconds / len(runs))
        files = judged(run, member, trained)
        files |= {path.name: path.read_bytes() for path in sorted((work / run.key).glob("experts-*"))}
        notes = (*member.notes, f"one of {len(runs)} runs of one program; seconds are its share")
        outcomes.append(Outcome(run, files, notes))
    return outcomes


# -- where: this process, several, or a cluster ---------------------------------------------------------------------


def hand_out(jobs: Iterable[Job], workers: int = 1, cluster: str | None = None) -> Iterator[tuple[Job, list[Outcome]]]:
    """What becomes of each job, in the order in which they end; they are taken when a worker is free for them.

    Raises WorkersLost where a worker process ended: whatever it had under way is no outcome; and as `perform_all` does.
    """
    if workers == 1 and cluster is None:
        yield from map(perform, jobs)
        return
    with extra("experiments"):
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

    with connected(cluster, workers) if cluster else nullcontext():
        parallel = Parallel(
            n_jobs=-1 if cluster else workers,
            return_as="generator_unordered",
            pre_dispatch=workers if cluster == "slurm" else "n_jobs",  # more of SLURM's jobs may begin later
            batch_size=1,
        )
        try:
            yield from parallel(delayed(perform)(job) for job in jobs)
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


def _dask(cluster: str, workers: int) -> Any:
    with extra("cluster"):
        from dask.distributed import Client

    where = {"scheduler_file": cluster} if cluster.endswith(".json") else {"address": cluster}
    try:
        client = Client(**where, timeout=TIMEOUT)
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
    with extra("slurm"):
        from dask.distributed import Client
        from dask_jobqueue import SLURMCluster

    with SLURMCluster(processes=1) as jobs:
        jobs.scale(jobs=workers)
        with Client(jobs, timeout=TIMEOUT) as client:
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
