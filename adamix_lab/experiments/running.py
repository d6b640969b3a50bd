"""Performing one run: from settings to the bytes of its result files, in any process on any machine."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.baselines.soup import train_apart
from adamix_lab.core.files import write_tensors
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.saving import trained_tensors
from adamix_lab.experiments.judging import Trained, mean_of, tables_of
from adamix_lab.experiments.preparing import (
    Prepared,
    blocks_of,
    equal_steps,
    load,
    operations_a_step,
    prepare,
)
from adamix_lab.experiments.settings import Run
from adamix_lab.fast.prefix import above
from adamix_lab.training.checkpoints import newest_checkpoint
from adamix_lab.training.run import read_log
from adamix_lab.training.train import train
from adamix_lab.training.twins import STAGES

DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
SETTINGS = "settings.json"
WORK = "work"
EVERY = 50  # steps between checkpoints

# Training seeds torch's, numpy's and Python's global generators: one run a process at a time.
_ALONE = threading.Lock()


@dataclass(frozen=True)
class Job:
    """A run and how it is performed; nothing here decides its numbers (at equal threads and device).

    Attributes:
        run: the settings.
        place: the run's folder as the driver sees it, which has written the settings there.
        threads: for the CPU.
        snapshots: keep the experts at three stages of training.
        deadline: seconds since the epoch at which it stops at its next checkpoint; None never stops.
        driver: the process whose end ends the run, too; None outlives it.
    """

    run: Run
    place: str
    threads: int = 1
    snapshots: bool = True
    deadline: float | None = None
    driver: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: result files by name, or an error's text, or neither where it stopped for time."""

    job: Job
    files: dict[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""


class Stopped(Exception):
    """Time is over, or the driver is gone: the run stops behind a checkpoint."""


def perform(job: Job) -> Outcome:
    """Trains and judges a run; goes on from the checkpoints that an earlier try left.

    An error becomes the outcome's text, so that other runs go on. Raises OSError where the disk is full: that is no
    fault of this run, and the next would meet it, too.
    """
    with alone(job.threads):
        work = work_folder(job)
        try:
            outcome = measure(job, work)
        except Stopped:
            return Outcome(job)
        except Exception as error:
            if is_full_disk(error):
                raise
            return Outcome(job, error=traceback.format_exc())
        if work.parent != Path(job.place):
            shutil.rmtree(work, ignore_errors=True)  # nobody else cleans up on this machine
        return outcome


@contextmanager
def alone(threads: int) -> Iterator[None]:
    """Inside the block this process trains nothing else, on its own GPU, with so many CPU threads."""
    with _ALONE:
        take_gpu()
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def is_full_disk(error: Exception) -> bool:
    """Whether an error is no fault of the run: the next would meet it, too."""
    return isinstance(error, OSError) and error.errno in DISK_FULL


def work_folder(job: Job) -> Path:
    """Where the run's checkpoints lie: in the run's folder, or, if the driver's disk is not seen, on this machine."""
    place = Path(job.place)
    if (place / SETTINGS).is_file():
        return place / WORK
    return Path(tempfile.gettempdir()) / f"adamix-lab-{job.run.key}"


def take_gpu() -> None:
    """Where several workers share a machine with GPUs, the worker's number chooses its own."""
    import multiprocessing

    _, _, number = multiprocessing.current_process().name.rpartition("-")
    count = torch.cuda.device_count()
    if number.isdigit() and count > 1 and not torch.cuda.is_initialized():
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", f"cuda:{(int(number) - 1) % count}")


def measure(job: Job, work: Path) -> Outcome:
    """The result files of a run. Raises Stopped behind a checkpoint where time is over."""
    run = job.run
    prepared, cost = with_steps(run, prepare(run))
    done = trained(job, prepared, work)
    files = tables_of(run, prepared, done, cost)
    if job.snapshots and done.top.mixture.sites:
        files |= {path.name: path.read_bytes() for path in sorted(work.glob("experts-*.safetensors"))}
    resumed = (f"went on from step {done.resumed_from}",) if done.resumed_from else ()
    return Outcome(job, files, (*prepared.notes, *resumed))


def with_steps(run: Run, prepared: Prepared) -> tuple[Prepared, int]:
    """The run with the steps that its budget allows, and the operations of one step."""
    cost = operations_a_step(run, prepared)
    steps = run.steps if run.compute == "steps" else equal_steps(run, cost)
    return replace(prepared, recipe=replace(prepared.recipe, steps=steps, checkpoint_every=EVERY)), cost


# -- training ----------------------------------------------------------------------------------------------


def trained(job: Job, prepared: Prepared, work: Path) -> Trained:
    """Trains a run, from its last checkpoint on."""
    run, recipe = job.run, prepared.recipe
    if run.method == "apart-soup":
        pause = watch(job, lambda step: None)
        mixture, alone = train_apart(
            lambda: load(run, prepared.task),
            prepared.task,
            replace(recipe, cache_prefix=run.top_blocks is not None),
            run.experts,
            run.size,
            run.seed,
            progress=False,
            on_step=pause,
            blocks=blocks_of(run),
            folder=work,
        )
        logs = [read_log(work / f"adapter{n}" / "log.jsonl") for n in range(run.experts)]
        seconds = sum(log[-1]["seconds"] for log in logs)
        curve = [row for n, log in enumerate(logs) for row in curve_rows(log, n * (recipe.steps or 0))]
        top = above(mixture)[0] if run.top_blocks else mixture
        return Trained(top.to(next(prepared.top.parameters()).device), curve, seconds, [mean_of(alone)])
    top = prepared.top
    with snapshots(job, top, work, recipe.steps or 0) as keep:
        history = train(
            top,
            prepared.task,
            prepared.tokenizer,
            recipe,
            work,
            progress=False,
            on_step=watch(job, keep),
            encoder=lambda *_: prepared.training,
        )
    return Trained(top, curve_rows(history.rows), history.seconds, resumed_from=history.resumed_from)


def watch(job: Job, then: Callable[[int], None]) -> Callable[[int], None]:
    """What is called after each step: it stops the run behind a checkpoint where time is over or the driver is gone."""

    def after(step: int) -> None:
        then(step)
        if step % EVERY == 0 and job.deadline is not None and time.time() > job.deadline:
            raise Stopped
        if job.driver is not None and os.getppid() != job.driver:
            raise Stopped

    return after


@contextmanager
def snapshots(job: Job, mixture: MixtureModel, work: Path, steps: int) -> Iterator[Callable[[int], None]]:
    """Inside the block, the value given keeps the trained tensors (float16) when a stage of training is reached."""
    stages = {max(1, round(share * steps)): work / f"experts-{stage}.safetensors" for stage, share in STAGES.items()}
    wanted = job.snapshots and bool(mixture.mixture.sites)

    def write(path: Path, tensors: dict[str, Tensor]) -> None:
        write_tensors(path, {name: tensor.half() for name, tensor in tensors.items()})

    def keep(step: int) -> None:
        if wanted and step in stages:
            write(stages[step], trained_tensors(mixture))

    # A kill between a checkpoint and the snapshot of the same step: the checkpoint holds what the snapshot would.
    found = newest_checkpoint(work) if wanted and work.is_dir() else None
    if found and found.step in stages and not stages[found.step].is_file():
        write(stages[found.step], found.part("weights"))
    yield keep


def curve_rows(log: list[dict[str, Any]], before: int = 0) -> list[dict[str, Any]]:
    """The log's training rows as the curve has them, each step once."""
    rows = {row["step"]: row for row in log if "loss" in row}
    return [
        {"step": before + step, "loss": row["loss"], "task_loss": row["task"], "consistency": row["consistency"]}
        for step, row in sorted(rows.items())
    ]
