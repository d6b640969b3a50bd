"""Many runs: what is not finished is handed out, here or on a cluster, and what comes back is stored.

A run is finished when its results are there, so a killed grid is simply begun again: `train`'s own checkpoints take up
the run that was under way. joblib hands the runs out, to processes of its own, or over its `dask` backend.
What workers send back are bytes, so they need share neither memory nor disk with who hands out; where they do share
its disk, checkpoints lie there and a run goes on on another worker.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from adamix_lab.core.errors import LabError, extra
from adamix_lab.core.files import write_text
from adamix_lab.experiments import running
from adamix_lab.experiments.batched import train_batched
from adamix_lab.experiments.results import ERROR, RESULTS, SETTINGS, WORK, begin, check_files, finish, finished, unit
from adamix_lab.experiments.running import OnStep, Outcome, Prepared, Trained, curve_rows, judged, perform_run, prepare
from adamix_lab.experiments.settings import DEFAULTS, Budget, Engine, Run
from adamix_lab.models.model import load_trained, trained_tensors

Say = Callable[[str], None]
LOST = 2  # times in a row that workers are lost without any run ending: then the next job has them to itself
TIMEOUT = 15  # seconds that a cluster has to answer
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
STACKED = "adamix adamix-lora lora single r-drop slow swa ema slow-swa wide houlsby pfeiffer".split()
SINGLE = "single r-drop slow swa ema slow-swa".split()  # one adapter each, trained by other recipes: of one shape
# What runs of a stack may differ in.
OWN = "variant seed label_noise lr head_lr weight_decay label_smoothing swa ema bucket temperature".split()

# Training seeds torch's, numpy's and Python's global generators: one run a process at a time.
_TRAINING = threading.Lock()


class WorkersLost(LabError):
    """A worker process ended without a word (killed, or out of memory); what it had under way can be done again."""


def perform_all(runs: Sequence[Run], out: Path, engine: Engine, deadline: float | None, say: Say) -> dict[str, str]:
    """Performs what is not finished, in order; returns the errors of runs that failed, by key.

    Args:
        runs: in the order of their importance.
        out: holds a folder a run.
        engine: where.
        deadline: seconds since the epoch; None has no end.
        say: takes a line for each run that ends.

    A job that loses its worker when it has the workers to itself has failed; others go on.

    Raises LabError where rows have changed (`check_files`), OSError where the disk is full, ConnectionError where the
    cluster does not answer, ImportError where its package is missing: what is finished stays.
    """
    check_files(runs, out)
    failed: dict[str, str] = {}
    start, ended, lost = time.perf_counter(), 0, 0
    while jobs := jobs_of(runs, out, engine, deadline, failed):
        before, alone = ended, lost == LOST
        try:
            for job, outcomes in hand_out(_begun(jobs[:1] if alone else jobs, out), engine.workers, engine.cluster):
                for outcome in outcomes:
                    if not finished(out, outcome.run):  # a stack that goes on brings its finished runs, too
                        store(out, outcome, failed)
                        ended += 1
                        counts = progress(runs, out, len(failed), (time.perf_counter() - start) / ended)
                        say(f"{counts} {outcome.run}: {headline(outcome)}")
                if len(outcomes) > 1 and all(outcome.files or outcome.error for outcome in outcomes):
                    shutil.rmtree(out / job.name, ignore_errors=True)
        except WorkersLost as error:
            lost = 0 if alone or ended > before else lost + 1
            for run in jobs[0].runs if alone else ():
                if not finished(out, run):
                    store(out, Outcome(run, error=str(error)), failed)
                    say(f"FAILED {run}, alone with the workers.")
            say(f"{error} Going on with what is not finished.")
        else:
            if not alone:
                break
            lost = 0
    return failed


def _begun(jobs: Sequence[Job], out: Path) -> Iterator[Job]:
    """The jobs, their folders made when they are asked for; none when time is over."""
    for job in jobs:
        if job.deadline is not None and time.time() > job.deadline:
            return
        for run in job.runs:
            begin(out, run)
        yield job


def store(out: Path, outcome: Outcome, failed: dict[str, str]) -> None:
    """Writes what a worker sent; notes an error in `failed`."""
    if outcome.files:
        finish(out / outcome.run.key, outcome.files)
    elif outcome.error:
        failed[outcome.run.key] = outcome.error.strip().splitlines()[-1]
        write_text(out / outcome.run.key / ERROR, outcome.error.rstrip() + "\n")


def progress(runs: Sequence[Run], out: Path, failed: int, seconds: float) -> str:
    """How many are done and failed, and about how long the rest takes. seconds: of a run."""
    done = sum(finished(out, run) for run in runs)
    rest = duration(seconds * (len(runs) - done - failed))
    return f"[{done} of {len(runs)} done, {failed} failed, about {rest} left]"


def headline(outcome: Outcome) -> str:
    """The merged model's own metric and the seconds of training, or what became of the run."""
    import pandas as pd

    if outcome.error:
        return f"FAILED: {outcome.error.strip().splitlines()[-1]}"
    if not outcome.files:
        return "stopped behind a checkpoint: time is over"
    table = pd.read_parquet(io.BytesIO(outcome.files[RESULTS]))
    row = table[table["primary"] & (table["strategy"] == "merged")].iloc[0]
    took = "; ".join(filter(None, (duration(row["seconds"]), outcome.note)))
    return f"{row['metric']} {100 * row['value']:.1f}{unit(row['metric'])} ({took})"


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
        threads: of the CPU.
        deadline: seconds since the epoch at which it stops at its next checkpoint; None never stops.
        driver: the process whose end ends the job, too; None outlives it.
    """

    runs: tuple[Run, ...]
    out: str
    threads: int = 1
    deadline: float | None = None
    driver: int | None = None

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

    def check(self, step: int) -> None:
        """Called after each step. Raises Stopped behind a checkpoint where time is over, and without a driver."""
        over = self.deadline is not None and step % running.EVERY == 0 and time.time() > self.deadline
        if over or (self.driver is not None and os.getppid() != self.driver):
            raise Stopped


class Stopped(Exception):
    """Time is over, or who handed out the run is gone: the run stops behind a checkpoint."""


def jobs_of(
    runs: Sequence[Run], out: Path, engine: Engine, deadline: float | None = None, failed: Container[str] = ()
) -> list[Job]:
    """What is left to do. A stack that was under way goes on with the same members: its masks are drawn for them."""
    threads = engine.threads or max(1, (os.cpu_count() or 1) // (1 if engine.cluster else engine.workers))
    driver = os.getpid() if engine.workers > 1 and engine.cluster is None else None
    # Workers of a cluster may stand in another folder than this process.
    runs = [replace(run, folder=run.folder and str(Path(run.folder).resolve())) for run in runs]
    jobs = []
    for group in stacks_of(runs, engine.together):
        left = tuple(run for run in group if run.key not in failed and not finished(out, run))
        whole, rest = (Job(some, str(out.resolve()), threads, deadline, driver) for some in (group, left))
        if left:
            jobs.append(whole if len(group) > 1 and (out / whole.name).is_dir() else rest)
    return jobs


def stacks_of(runs: Iterable[Run], most: int) -> list[tuple[Run, ...]]:
    """The runs in stacks of equal shape, of at most `most`, in the order of their first members.

    Runs of one seed have batches of equal lengths: where they fill more than half of a stack, no other seed joins them.
    """
    stacks: list[list[Run]] = []
    unfilled: dict[object, list[Run]] = {}
    for run in runs:
        own = unfilled.get(shape(run))
        seeds = {each.seed for each in own or ()}
        if own is None or len(own) >= most or (2 * len(own) > most and len(seeds) == 1 and run.seed not in seeds):
            own = unfilled[shape(run)] = []
            stacks.append(own)
        own.append(run)
    return [tuple(own) for own in stacks]


def shape(run: Run) -> object:
    """Equal for runs that can be one program.

    Adapters trained apart are several trainings; other methods outside of STACKED train weights of the model itself;
    runs of a stack share a route a batch.
    """
    if run.method not in STACKED or run.routing != "batch":
        return run.key
    # One view or two: each run its own. But equal compute gives one view more steps.
    views = run.consistency > 0 if run.compute == "compute" else None
    budget: Budget = "compute" if run.compute == "compute" else "steps"
    own = {name: DEFAULTS[name] for name in OWN} | {"method": "single" if run.method in SINGLE else run.method}
    return views, replace(run, **own, consistency=0.0, compute=budget)


def perform(job: Job) -> tuple[Job, list[Outcome]]:
    """Trains and judges a job's runs, going on from the checkpoints that an earlier try left.

    An error becomes the outcome's text, so that other runs go on; a stack that fails is performed run by run. Raises
    OSError where the disk is full: that is no fault of this run, and the next would meet it, too.
    """
    work = job.work
    try:
        with _TRAINING, cpu_threads(job.threads):
            many = len(job.runs) > 1
            outcomes = perform_stack(job.runs, work, job.check) if many else [perform_run(job.runs[0], work, job.check)]
    except Stopped:
        return job, [Outcome(run) for run in job.runs]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if len(job.runs) == 1:
            return job, [Outcome(job.runs[0], error=traceback.format_exc())]
        note = f"performed alone, for the stack failed: {' '.join(str(error).split()) or type(error).__name__}"
        alone = [perform(replace(job, runs=(run,)))[1][0] for run in job.runs]
        outcomes = [replace(outcome, note=note) for outcome in alone]
    if not work.is_relative_to(job.out):
        shutil.rmtree(work, ignore_errors=True)  # nobody else cleans up on this machine
    return job, outcomes


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """So many of PyTorch's CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def perform_stack(runs: Sequence[Run], work: Path, on_step: OnStep) -> list[Outcome]:
    """Trains runs of equal shape as one program and judges each. Raises ValueError where they cannot be one."""
    members: list[Prepared] = []
    starts: list[dict[str, Tensor]] = []
    for run in runs:  # the models of all but the first are let go
        prepared = prepare(run)
        starts.append({name: tensor.clone() for name, tensor in trained_tensors(prepared.mixture).items()})
        members.append(replace(prepared, mixture=members[0].mixture) if members else prepared)
    mixture, recipes = members[0].mixture, [member.recipe for member in members]
    examples, pad = [member.training for member in members], members[0].pad
    found = train_batched(mixture, starts, examples, recipes, pad, progress=False, on_step=on_step, folder=work)
    outcomes = []
    for run, member, each in zip(runs, members, found, strict=True):
        if each.failed:
            outcomes.append(Outcome(run, error=f"FloatingPointError: {each.failed}"))
            continue
        load_trained(mixture, each.weights)
        trained = Trained(mixture, curve_rows(each.history.rows), each.history.seconds / len(runs))
        outcomes.append(Outcome(run, judged(run, member, trained), f"one of {len(runs)} runs of one program"))
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

    with connected(cluster) if cluster else nullcontext():
        most = -1 if cluster else workers
        parallel = Parallel(most, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
        try:
            yield from parallel(delayed(perform)(job) for job in jobs)
        except Exception as error:
            if isinstance(error, TerminatedWorkerError) or type(error).__name__ == "KilledWorker":  # joblib's, dask's
                raise WorkersLost(
                    f"A worker ended without a word ({' '.join(str(error).split())[:200]}): expected enough memory for "
                    "each. Take fewer workers or smaller batches; what is finished is kept."
                ) from error
            raise


@contextmanager
def connected(cluster: str) -> Iterator[None]:
    """Inside the block, joblib hands its tasks to a dask cluster. Raises as `perform_all` does."""
    from joblib import parallel_config

    with extra("cluster"):
        from dask.distributed import Client

    where = {"scheduler_file": cluster} if cluster.endswith(".json") else {"address": cluster}
    try:
        client = Client(**where, timeout=TIMEOUT)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConnectionError(
            f"The cluster {cluster!r} does not answer ({type(error).__name__}, {TIMEOUT} s): expected the address of a "
            'dask scheduler ("tcp://HOST:8786", as `dask scheduler` prints it), or a scheduler file (.json). Finished '
            "runs are kept."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=TIMEOUT)
        except TimeoutError as error:
            raise ConnectionError(
                f"The cluster {cluster!r} has no worker after {TIMEOUT} s: expected one at least. Start some with "
                f"`dask worker {cluster} --nthreads 1`. Finished runs are kept."
            ) from error
        with parallel_config(backend="dask"):
            yield
