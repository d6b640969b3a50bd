"""From settings to what trains: task, model, recipe, and rows up to the first adapted block.

What the frozen prefix makes of a task's rows is the same for all runs that adapt the same blocks, so a process keeps
it from one run to the next.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from adamix_lab.baselines.making import Blocks, baseline, known
from adamix_lab.core.model import MixtureModel
from adamix_lab.experiments.comparison import few_to_judge
from adamix_lab.experiments.fewshot import few_shot
from adamix_lab.experiments.settings import DEFAULTS, MULTIPLIED, ONE_MODULE, PLACED, SIZED, Run
from adamix_lab.fast.prefix import above
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import Example, collate, encode, sequential
from adamix_lab.tasks.known_tasks import KNOWN
from adamix_lab.tasks.tasks import Task, hold_out, load_task
from adamix_lab.training.evaluation import Indexed
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import step_operations
from adamix_lab.training.train import cached_states, to_device

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
    top, cache = above(mixture) if run.top_blocks else (mixture, None)
    pad = tokenizer.pad_token_id or 0
    few = (run.examples, run.seed) if run.examples else ()
    place = "one module" if run.method in ONE_MODULE else run.method
    base = (run.backbone, *_source(run), run.max_length, run.top_blocks, place if run.top_blocks else "")

    def encoded(rows: Any) -> tuple[list[Example], tuple[str, ...]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            examples = encode(rows, task, tokenizer, run.max_length)
        said = tuple(str(w.message) for w in caught if "were cut" in str(w.message))
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
    place = Path(folder) / task if folder is not None and task in KNOWN else None
    found = load_task(task, rows=rows, folder=place)
    if judged_on == "slice":
        train, held_out = hold_out(found.train, SLICE, 0, found.label)
        found = replace(found, train=train, evaluation=held_out)
    return few_to_judge(found, judged)


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
        top = above(top)[0] if run.top_blocks else top
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
