"""Performing one run: from settings to the bytes of its result files, in any process on any machine."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import tempfile
import threading
import time
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.analysis.posterior import marginal
from adamix_lab.baselines.making import Blocks, baseline, costs, known, train_apart
from adamix_lab.core.files import write_tensors
from adamix_lab.core.model import MixtureModel, evaluating, trained_tensors
from adamix_lab.experiments.grid import DEFAULTS, MULTIPLIED, ONE_MODULE, PLACED, SIZED, Run
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.fast.tree import tree_logits
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import Example, TextsCut, collate, encode, sequential
from adamix_lab.tasks.tasks import PAPER_TASKS, Task, few_shot, hold_out, load_task, subsample
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import Evaluation, Indexed, evaluate_batches, judge
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import step_operations
from adamix_lab.training.run import newest_checkpoint, read_log
from adamix_lab.training.shipped import STAGES
from adamix_lab.training.train import cached_states, to_device, train

# -- preparing ---------------------------------------------------------------------------------------------------
#
# From settings to what trains: task, model, recipe, and rows up to the first adapted block.
#
# What the frozen prefix makes of a task's rows is the same for all runs that adapt the same blocks, so a process keeps
# it from one run to the next.


SLICE = 0.2  # of the training rows, where a run is judged on them
JUDGED_AT_ONCE = 64
KEPT = 2 * 10**9  # bytes of encoded rows that a process keeps from run to run, the last used ones


@dataclass(frozen=True)
class Prepared:
    """A run before its first step.

    Attributes:
        mixture: the whole model.
        top: what trains: the mixture from its first site on where the prefix is cached, else the mixture.
        tokenizer: of the model.
        task: rows to train on and to be judged on.
        recipe: training settings; its steps are those of the run's settings.
        training: examples as `top` takes them.
        judged: (rows' numbers, batch with labels) as `top` takes them.
        notes: what was said of the rows (how many were cut).
    """

    mixture: MixtureModel
    top: MixtureModel
    tokenizer: Any
    task: Task
    recipe: Recipe
    training: list[Example]
    judged: list[Indexed]
    notes: tuple[str, ...]


def prepare(run: Run) -> Prepared:
    """Task, fresh model and encoded rows of a run, on the device that accelerate chooses.

    Raises ValueError for a task that generates, and whatever loading task and model raises.
    """
    from accelerate import PartialState

    task = task_of(run)
    mixture, tokenizer = model_of(run, task)
    mixture.to(PartialState().device)
    top, cache = cached_prefix(mixture) if run.top_blocks else (mixture, None)
    pad = tokenizer.pad_token_id or 0
    few = (run.examples, run.seed) if run.examples else ()
    place = "one module" if run.method in ONE_MODULE else run.method
    base = (run.backbone, *_source(run), run.max_length, run.top_blocks, place if run.top_blocks else "")

    def encoded(rows: Any) -> tuple[list[Example], tuple[str, ...]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            examples = encode(rows, task, tokenizer, run.max_length)
        said = tuple(str(w.message) for w in caught if issubclass(w.category, TextsCut))
        device = next(mixture.parameters()).device
        return cached_states(examples, cache, device, pad) if cache else examples, said

    training, cut = _remembered((*base, "train", *few), lambda: encoded(task.train))
    judged, cut_too = _remembered((*base, "judged"), lambda: encoded(task.evaluation))
    batches = list(sequential(judged, JUDGED_AT_ONCE, pad))
    notes = (*(f"train: {line}" for line in cut), *(f"judged: {line}" for line in cut_too))
    return Prepared(mixture, top, tokenizer, task, recipe_of(run, task), training, batches, notes)


def task_of(run: Run) -> Task:
    """The rows of a run. Raises ValueError for a task that generates, or with too few rows for few-shot."""
    task = _loaded(*_source(run))
    if task.generates:
        raise ValueError(f"Task {run.task!r} has texts to write: expected classes or numbers.")
    return few_shot(task, run.examples, run.seed) if run.examples else task


def _source(run: Run) -> tuple[Any, ...]:
    return run.task, run.folder, run.rows, run.evaluation_rows, run.judged_on


@lru_cache(maxsize=2)
def _loaded(task: str, folder: str | None, rows: int | None, judged: int | None, judged_on: str) -> Task:
    place = Path(folder) / task if folder is not None and task in PAPER_TASKS else None
    found = load_task(task, rows=rows, folder=place)
    if judged_on == "slice":
        train, held_out = hold_out(found.train, SLICE, 0, found.label)
        found = replace(found, train=train, evaluation=held_out)
    return subsample(found, judged)


def blocks_of(run: Run) -> Blocks:
    """The adapted layers' numbers; None is all."""
    return None if run.top_blocks is None else range(-run.top_blocks, 0)


def load(run: Run, task: Task) -> tuple[Any, Any]:
    """The backbone with the run's head, afresh, and its tokenizer."""
    model, tokenizer = load_backbone(run.backbone, num_labels=task.num_labels, seed=run.seed)
    if run.dropout is not None:
        set_dropout(model, run.dropout)
    return model, tokenizer


def set_dropout(model: nn.Module, share: float) -> None:
    """Sets all dropout of a backbone: its modules, and the shares that attention keeps as plain numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = share  # type: ignore[assignment]


def model_of(run: Run, task: Task) -> tuple[MixtureModel, Any]:
    """What trains, on a fresh backbone, and the tokenizer."""
    model, tokenizer = load(run, task)
    settings: dict[str, Any] = {}
    if run.method in SIZED:
        settings["rank" if run.method == "lora" else "size"] = run.size
    if run.method in MULTIPLIED:
        settings["experts"] = run.experts
    if run.method == "adamix":
        settings["share"] = None if run.share == "none" else run.share
    if run.method in PLACED:
        settings["blocks"] = blocks_of(run)
    return baseline(run.method, model, seed=run.seed, **settings), tokenizer


def recipe_of(run: Run, task: Task) -> Recipe:
    """The training settings: the last weights are kept, nothing is chosen on the way."""
    consistency = replace(known(run.method).consistency, weight=run.consistency)
    if task.regression:
        consistency = replace(consistency, kind="mse")
    return Recipe(
        steps=run.steps,
        batch_size=run.batch_size,
        lr=run.lr,
        head_lr=run.head_lr,
        weight_decay=run.weight_decay,
        max_length=run.max_length,
        bucket=run.bucket,
        consistency=consistency,
        per=run.routing,  # type: ignore[arg-type]
        seed=run.seed,
        dev_fraction=0.0,
    )


def operations_a_step(run: Run, prepared: Prepared) -> int:
    """Floating-point operations of one step on the first training rows; a prefix that is computed once is left out.

    Of adapters trained apart: of one of them.
    """
    batch = collate(prepared.training[: run.batch_size], prepared.tokenizer.pad_token_id or 0)
    top = prepared.top
    if run.method == "apart-soup":
        one = replace(run, method="single", variant="")
        top, _ = model_of(one, prepared.task)
        top = cached_prefix(top)[0] if run.top_blocks else top
        top.to(next(prepared.mixture.parameters()).device)
    return step_operations(top, to_device(batch, next(top.parameters()).device), prepared.recipe.consistency)


def equal_steps(run: Run, own: int) -> int:
    """The steps that take as many operations as AdaMix's `run.steps` do. `own`: operations of a step of this run."""
    size = run.size if run.method in PLACED else DEFAULTS["size"]
    subject = replace(run, method="adamix", variant="", experts=4, size=size, share="up", consistency=1.0)
    subject = replace(subject, routing="batch", compute="steps")
    parts = run.experts if run.method == "apart-soup" else 1
    return max(1, round(run.steps * operations_a_step(subject, prepare(subject)) / own / parts))


_KEPT: OrderedDict[tuple[Any, ...], tuple[list[Example], tuple[str, ...]]] = OrderedDict()


def _remembered(key: tuple[Any, ...], make: Callable[[], tuple[list[Example], tuple[str, ...]]]) -> Any:
    if key not in _KEPT:
        _KEPT[key] = make()
        while len(_KEPT) > 2 and sum(map(_bytes, _KEPT.values())) > KEPT:  # a run needs two: to train, to judge
            _KEPT.popitem(last=False)
    _KEPT.move_to_end(key)
    return _KEPT[key]


def _bytes(kept: tuple[list[Example], tuple[str, ...]]) -> int:
    return sum(tensor.nbytes for example in kept[0] for tensor in example.values())


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
        top = cached_prefix(mixture)[0] if run.top_blocks else mixture
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


# -- judging -----------------------------------------------------------------------------------------------------
#
# Judging a trained run: its strategies on the same batches, as rows of tidy tables.


APART = 10_007  # between the seeds of a run's draws of random routes: further than seeds of runs lie apart
STRATEGIES = ("merged", "fixed", "random", "ensemble")


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


def tables_of(run: Run, prepared: Prepared, done: Trained, cost: int) -> dict[str, bytes]:
    """The run's three tables as Parquet files. cost: operations of one step."""
    start = time.perf_counter()
    results = judged(done.top, prepared.judged, prepared.task.metrics, run.seed, run.exact, run.draws) + done.alone
    judging = time.perf_counter() - start
    parts = run.experts if run.method == "apart-soup" else 1
    steps = (prepared.recipe.steps or 0) * parts
    count = costs(run.method, prepared.mixture)
    found = versions()
    common = {
        **{name: getattr(run, name) for name in ("task", "variant", "method", "experts", "size", "share")},
        **{name: getattr(run, name) for name in ("consistency", "routing", "examples", "seed", "compute")},
        "steps": steps,
        "seconds": done.seconds,
        "evaluation_seconds": judging,
        "operations": float(cost * steps),
        "trained": count.stored * parts if run.method == "apart-soup" else count.trained,
        "stored": count.stored,
        "inference": count.inference,
        "device": found["device"],
        "versions": json.dumps(found, sort_keys=True),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": json.dumps(run.identity(), sort_keys=True),
    }
    first = {result.strategy: result for result in reversed(results)}  # of random draws, the first one's predictions
    tables = {
        "results": [{"run": run.key, **common, **row} for result in results for row in metric_rows(result)],
        "predictions": [{"run": run.key, **row} for result in first.values() for row in prediction_rows(result)],
        "curves": [{"run": run.key, **row} for row in done.curve],
    }
    return {f"{name}.parquet": parquet(rows) for name, rows in tables.items()}


def judged(
    top: MixtureModel, batches: Sequence[Indexed], metrics: tuple[str, ...], seed: int, limit: int, draws: int = 1
) -> list[Evaluation]:
    """Every strategy that can differ, on the same batches; the exact average where the routes are at most `limit`.

    draws: how often random routing is judged; the first draw stands beside the other strategies, the rest at the end.
    """
    device = next(top.parameters()).device
    there = [(rows, to_device(batch, device)) for rows, batch in batches]
    several = top.space.number > 1
    names = STRATEGIES if several else STRATEGIES[:1]
    results = [evaluate_batches(top, there, name, seed, metrics) for name in names]
    if several and top.space.number <= limit:
        results.append(exact(top, there, limit, metrics))
    more = range(1, draws) if several else ()
    return results + [evaluate_batches(top, there, "random", seed + APART * draw, metrics) for draw in more]


def exact(top: MixtureModel, batches: Sequence[Indexed], limit: int, metrics: tuple[str, ...]) -> Evaluation:
    """The average over all routes: of probabilities (Eq. 7), or of a regression's numbers."""
    order: list[int] = []
    answers, labels = [], []
    with torch.no_grad(), evaluating(top):
        for rows, batch in batches:
            logits = tree_logits(top, {name: value for name, value in batch.items() if name != "labels"}, limit)
            answers.append((logits.mean(1) if logits.shape[-1] == 1 else marginal(logits)).float().cpu())
            labels.append(batch["labels"].cpu())
            order += rows
    back = torch.tensor(order).argsort()
    return judge("exact", top.space.number, torch.cat(answers)[back], torch.cat(labels)[back], metrics)


def mean_of(alone: list[Evaluation]) -> Evaluation:
    """The mean of the figures of adapters trained apart, each alone with its own head; predictions of the first."""
    metrics = {name: sum(one.metrics[name] for one in alone) / len(alone) for name in alone[0].metrics}
    loss = sum(one.loss for one in alone) / len(alone)
    return replace(alone[0], strategy="alone", metrics=metrics, loss=loss)


def metric_rows(result: Evaluation) -> list[dict[str, Any]]:
    """The task's metrics, its own first (`primary`), and the loss."""
    values = {**result.shown, "loss": result.loss}
    return [
        {"strategy": result.strategy, "metric": name, "primary": n == 0, "value": float(value)}
        for n, (name, value) in enumerate(values.items())
    ]


def prediction_rows(result: Evaluation) -> list[dict[str, Any]]:
    """One row an example: label, prediction, and the label's probability (nan for a regression)."""
    log_p, labels = result.log_probabilities, result.labels
    classes = log_p.shape[-1] > 1
    likely = log_p.gather(1, labels.long().unsqueeze(1)).exp().squeeze(1).tolist() if classes else None
    return [
        {
            "strategy": result.strategy,
            "row": n,
            "label": float(label),
            "prediction": float(prediction),
            "probability_of_label": likely[n] if likely else math.nan,
        }
        for n, (label, prediction) in enumerate(zip(labels.tolist(), result.predictions.tolist(), strict=True))
    ]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """A table as the bytes of a Parquet file. Raises ImportError where pandas or pyarrow is missing."""
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Results are Parquet tables: expected {error.name}. Run pip install 'adamix-lab[experiments]'."
        ) from error

    table = pd.DataFrame(rows)
    if "probability_of_label" in table:
        table["probability_of_label"] = table["probability_of_label"].astype("float32")
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
