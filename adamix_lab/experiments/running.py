"""Performing one run: from settings to the bytes of its result files, in any process on any machine."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.baselines.making import costs
from adamix_lab.baselines.soup import train_apart
from adamix_lab.checkpoints import newest_checkpoint
from adamix_lab.doctor import versions
from adamix_lab.evaluation import Evaluation
from adamix_lab.experiments.judging import judged, mean_of, metric_rows, parquet, prediction_rows
from adamix_lab.experiments.preparing import (
    Prepared,
    blocks_of,
    equal_steps,
    load,
    operations_a_step,
    prepare,
)
from adamix_lab.experiments.settings import Run
from adamix_lab.files import write_tensors
from adamix_lab.model import MixtureModel
from adamix_lab.prefix import above
from adamix_lab.run import read_log
from adamix_lab.saving import trained_tensors
from adamix_lab.training import train
from adamix_lab.twins import STAGES

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
    with _ALONE:
        take_gpu()
        threads = torch.get_num_threads()
        torch.set_num_threads(job.threads)
        work = work_folder(job)
        try:
            outcome = measure(job, work)
            if work.parent != Path(job.place):
                shutil.rmtree(work, ignore_errors=True)  # nobody else cleans up on this machine
            return outcome
        except Stopped:
            return Outcome(job)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            return Outcome(job, error=traceback.format_exc())
        finally:
            torch.set_num_threads(threads)


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
    prepared = prepare(run)
    cost = operations_a_step(run, prepared)
    steps = run.steps if run.compute == "steps" else equal_steps(run, cost)
    prepared = replace(prepared, recipe=replace(prepared.recipe, steps=steps, checkpoint_every=EVERY))
    done = trained(job, prepared, work)
    start = time.perf_counter()
    results = judged(done.top, prepared.judged, prepared.task.metrics, run.seed, run.exact) + done.alone
    judging = time.perf_counter() - start
    parts = run.experts if run.method == "apart-soup" else 1
    count = costs(run.method, prepared.mixture)
    found = versions()
    common = {
        **{name: getattr(run, name) for name in ("task", "variant", "method", "experts", "size", "share")},
        **{name: getattr(run, name) for name in ("consistency", "routing", "examples", "seed", "compute")},
        "steps": steps * parts,
        "seconds": done.seconds,
        "evaluation_seconds": judging,
        "operations": float(cost * steps * parts),
        "trained": count.stored * parts if run.method == "apart-soup" else count.trained,
        "stored": count.stored,
        "inference": count.inference,
        "device": found["device"],
        "versions": json.dumps(found, sort_keys=True),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": json.dumps(run.identity(), sort_keys=True),
    }
    tables = {
        "results": [{"run": run.key, **common, **row} for result in results for row in metric_rows(result)],
        "predictions": [{"run": run.key, **row} for result in results for row in prediction_rows(result)],
        "curves": [{"run": run.key, **row} for row in done.curve],
    }
    files = {f"{name}.parquet": parquet(rows) for name, rows in tables.items()}
    if job.snapshots and done.top.mixture.sites:
        files |= {path.name: path.read_bytes() for path in sorted(work.glob("experts-*.safetensors"))}
    resumed = (f"went on from step {done.resumed_from}",) if done.resumed_from else ()
    return Outcome(job, files, (*prepared.notes, *resumed))


# -- training ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A run behind its last step.

    Attributes:
        top: the model as it is judged.
        curve: rows of the learning curve.
        seconds: of training, earlier tries included.
        alone: the evaluation of adapters trained apart, each alone.
        resumed_from: the step of the checkpoint that this try went on from.
    """

    top: MixtureModel
    curve: list[dict[str, Any]]
    seconds: float
    alone: list[Evaluation] = field(default_factory=list)
    resumed_from: int | None = None


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
