"""One run, from its settings to the bytes of its result files, in any process on any machine: prepare, train, judge.

What the frozen prefix makes of a task's rows is the same for all runs that adapt the same blocks, so a process keeps
it from one run to the next.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.analysis.calibration import tempered
from adamix_lab.analysis.posterior import marginal
from adamix_lab.baselines.making import baseline, costs, ensemble, fitted, linear_probe, mean_of, train_apart
from adamix_lab.core.errors import LabError
from adamix_lab.core.views import Batch
from adamix_lab.experiments.results import files_now, tables
from adamix_lab.experiments.settings import DEFAULTS, Run, settings_of
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.fast.tree import tree_logits
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import (
    Example,
    Padding,
    allowed_length,
    cache_examples,
    collate,
    encode,
    padding_of,
    sequential,
    to_device,
)
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task, balanced, few_shot, flip_labels, hold_out, subsample
from adamix_lab.training.evaluation import Evaluation, IndexedBatch, evaluate_batches, judge
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import step_operations
from adamix_lab.training.run import read_log
from adamix_lab.training.train import identify, start_accelerator, train_examples

SLICE = 0.2  # of the training rows, where a run is judged on them
TRUE = "true labels"  # the further rows of a noisy slice: the same rows as they were before
JUDGED_AT_ONCE = 64
KEPT = 2 * 10**9  # bytes of encoded rows that a process keeps from run to run, the last used ones
EVERY = 50  # steps between checkpoints
DRAWS_APART = 10_007  # between the seeds of a run's draws of random routes: further than seeds of runs lie apart
OnStep = Callable[[int], None]
STRATEGIES = ("merged", "fixed", "random", "ensemble")


@dataclass(frozen=True)
class Outcome:
    """What became of a run: result files by name, or an error's text, or neither where it stopped for time.

    note: what was special about it, for who watches.
    """

    run: Run
    files: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""
    error: str = ""


def perform_run(run: Run, work: Path, on_step: OnStep) -> Outcome:
    """Trains and judges a run; goes on from the checkpoints that an earlier try left in `work`.

    on_step: called after each step. Raises whatever it, loading, training and judging raise.
    """
    if run.method == "probe":
        return Outcome(run, probed(run))
    prepared = prepare(run)
    if run.method == "apart-soup":
        trained = train_parts(run, prepared, work, on_step)
    else:
        trained = train_whole(prepared, work, on_step)
    note = f"went on from step {trained.resumed_from}" if trained.resumed_from else ""
    return Outcome(run, judged(run, prepared, trained), note)


# -- preparing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A run before its first step.

    Attributes:
        mixture: what trains: from its first site on where the prefix is cached, else the whole.
        pad: how the tokenizer pads.
        task: rows to train on and to be judged on.
        recipe: training settings, with the steps that the run's budget allows.
        training: examples as the mixture takes them.
        judged: (rows' numbers, batch with labels) as the mixture takes them, by the name of further rows ("": the
            task's own).
        cost: floating-point operations of one step; a prefix that is computed once is left out.
    """

    mixture: MixtureModel
    pad: Padding
    task: Task
    recipe: Recipe
    training: list[Example]
    judged: dict[str, list[IndexedBatch]]
    cost: int


def prepare(run: Run) -> Prepared:
    """Task, fresh model and encoded rows of a run, on the device that accelerate chooses.

    Raises ValueError for a task that generates, and whatever loading task and model raises.
    """
    from accelerate import PartialState

    task = task_of(run)
    mixture, tokenizer = mixture_of(run, task)
    pad, longest = padding_of(tokenizer, mixture.model), allowed_length(run.max_length, mixture.model, tokenizer)
    mixture, cache = above_prefix(run, mixture.to(PartialState().device))
    device = next(mixture.parameters()).device
    sites = tuple(mixture.sites) if cache else ()
    shared = (run.backbone, run.max_length, sites)
    judged_on = _source(run) if run.judged_on == "slice" else (*_source(run)[:2], run.part, run.evaluation_rows)

    def encoded(name: str, rows: Any, *source: Any) -> list[Example]:
        def make() -> list[Example]:
            examples = encode(rows, task, tokenizer, longest)
            return cache_examples(examples, cache, device, pad) if cache else examples

        return _remembered((*shared, name, *source), make)

    training = encoded("train", task.train, *_source(run), *((run.examples, run.seed) if run.examples else ()))
    judged = {}
    for name, part in parts_to_judge(task):
        examples = encoded(f"judged, {name}" if name else "judged", part.evaluation, *judged_on)
        judged[name] = list(sequential(examples, JUDGED_AT_ONCE, pad))
    recipe, batch = recipe_of(run, task), to_device(collate(training[: run.batch_size], pad), device)
    subject = mixture
    if run.method == "apart-soup":  # one of them trains at a time
        single, _ = mixture_of(replace(run, method="single", variant=""), task)
        subject, _ = above_prefix(run, single.to(device))
    cost = step_operations(subject, batch, recipe.consistency)
    if run.compute == "compute":
        recipe = replace(recipe, steps=equal_steps(run, cost))
    return Prepared(mixture, pad, task, recipe, training, judged, cost)


def parts_to_judge(task: Task) -> list[tuple[str, Task]]:
    """The task under "", and for each further set of rows its name and the task judged on those."""
    return [(part.name.removeprefix(task.name).lstrip("-"), part) for part in task.evaluation_tasks()]


def task_of(run: Run) -> Task:
    """The rows of a run. Raises ValueError for a task that generates, or with too few rows for few-shot."""
    task = _loaded(*_source(run))
    if task.kind != "classes" and (task.kind != "numbers" or task.num_labels > 1):
        raise LabError(f"Task {run.task!r} asks for {task.num_labels} {task.kind}: expected classes or one number.")
    return few_shot(task, run.examples, run.seed) if run.examples else task


def _source(run: Run) -> tuple[Any, ...]:
    drawn = run.rows is not None or run.label_noise  # else every seed has the same rows, which are kept once
    seed = (run.seed if run.sample is None else run.sample) if drawn else None
    files = tuple(files_now(run).items())  # rows that a process keeps are not those of files that changed since
    return run.source, files, run.rows, run.label_noise, seed, run.part, run.evaluation_rows, run.judged_on


@lru_cache(maxsize=2)
def _loaded(*source: Any) -> Task:
    place, _, rows, label_noise, seed, part, evaluation_rows, judged_on = source
    found = load_task(place, part=part)
    if rows is not None and rows < len(found.train):  # a grid's rows are at most so many: its tasks differ in size
        found = replace(found, train=balanced(found.train, rows, seed, found.label, found.classes))
    if label_noise:
        found = replace(found, train=flip_labels(found.train, label_noise, seed, found.label, found.classes))
    if judged_on == "slice":
        train, held_out = hold_out(found.train, SLICE, 0, found.label)
        known = [{**row, found.label: row["true_label"]} for row in held_out] if label_noise else []
        found = replace(found, train=train, evaluation=held_out, further={TRUE: known} if known else {})
    return subsample(found, evaluation_rows)


def load(run: Run, task: Task) -> tuple[Any, Any]:
    """The backbone with the run's head, afresh, and its tokenizer."""
    model, tokenizer = load_backbone(run.backbone, task.num_labels, run.seed, pooling=run.pooling)
    for module in model.modules() if run.dropout is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = run.dropout  # type: ignore[assignment]
        elif isinstance(getattr(module, "attention_dropout", None), float):  # attention keeps it as a plain number
            module.attention_dropout = run.dropout  # type: ignore[assignment]
    return model, tokenizer


def mixture_of(run: Run, task: Task) -> tuple[MixtureModel, Any]:
    """What trains, on a fresh backbone, and the tokenizer."""
    model, tokenizer = load(run, task)
    taken = settings_of(run.method)
    given: dict[str, Any] = {"size" if "size" in taken else "rank": run.size, "experts": run.experts}
    given |= {"share": None if run.share == "none" else run.share, "blocks": blocks_of(run)}
    settings = {name: value for name, value in given.items() if name in taken}
    return baseline(run.method, model, seed=run.seed, **settings), tokenizer


def blocks_of(run: Run) -> list[int] | None:
    """The adapted layers' numbers; None is all."""
    return None if run.top_blocks is None else list(range(-run.top_blocks, 0))


def above_prefix(run: Run, mixture: MixtureModel) -> tuple[MixtureModel, Any]:
    """(what trains above the frozen prefix, what caches a batch for it); the whole and None where it is not cached."""
    if run.top_blocks is None or not mixture.sites:
        return mixture, None
    return cached_prefix(mixture)


def recipe_of(run: Run, task: Task) -> Recipe:
    """The training settings: the last weights are kept, nothing is chosen on the way."""
    names = "steps batch_size head_lr weight_decay max_length bucket label_smoothing swa ema seed".split()
    own: dict[str, Any] = {name: getattr(run, name) for name in names}
    own |= {"lr": run.lr or 0.0, "per": run.routing, "dev_fraction": 0.0, "checkpoint_every": EVERY}
    recipe = fitted(run.method, Recipe(**own), run.experts, run.share)
    kind = "mse" if task.regression else recipe.consistency.kind
    return recipe.with_options(consistency=run.consistency, consistency_kind=kind)


def equal_steps(run: Run, own: int) -> int:
    """The steps that take as many operations as AdaMix's `run.steps` do. `own`: operations of a step of this run."""
    size = run.size if "size" in settings_of(run.method) else DEFAULTS["size"]
    subject = replace(
        run, method="adamix", variant="", experts=4, size=size, share="up", consistency=1.0, routing="batch",
        compute="steps",
    )  # fmt: skip
    return max(1, round(run.steps * prepare(subject).cost / own / parts_of(run)))


def parts_of(run: Run) -> int:
    """How many trainings a run is."""
    return run.experts if run.method == "apart-soup" else 1


_KEPT: OrderedDict[tuple[Any, ...], list[Example]] = OrderedDict()


def _remembered(key: tuple[Any, ...], make: Callable[[], list[Example]]) -> list[Example]:
    if key not in _KEPT:
        _KEPT[key] = make()
        # a run needs two: to train, to judge
        while len(_KEPT) > 2 and sum(t.nbytes for rows in _KEPT.values() for row in rows for t in row.values()) > KEPT:
            _KEPT.popitem(last=False)
    _KEPT.move_to_end(key)
    return _KEPT[key]


# -- training ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A run behind its last step.

    Attributes:
        mixture: as it is judged.
        curve: rows of the learning curve.
        seconds: of training, earlier tries included.
        parts: evaluations of adapters trained apart: the mean of each alone, and their ensemble.
        resumed_from: the step of the checkpoint that this try went on from.
    """

    mixture: MixtureModel
    curve: list[dict[str, Any]]
    seconds: float
    parts: list[Evaluation] = field(default_factory=list)
    resumed_from: int | None = None


def train_whole(prepared: Prepared, work: Path, on_step: OnStep | None = None, progress: bool = False) -> Trained:
    """One training, from its last checkpoint on; `on_step` and `progress` as in `train`."""
    mixture = prepared.mixture
    history = train_examples(
        mixture, prepared.training, prepared.recipe, start_accelerator(prepared.recipe), pad=prepared.pad, folder=work,
        identity=identify(mixture, prepared.task), progress=progress, on_step=on_step,
    )  # fmt: skip
    return Trained(mixture, curve_rows(history.rows), history.seconds, resumed_from=history.resumed_from)


def train_parts(run: Run, prepared: Prepared, work: Path, on_step: OnStep) -> Trained:
    """Adapters trained apart, one after another, from the last checkpoint on."""
    recipe = replace(prepared.recipe, cache_prefix=run.top_blocks is not None)
    soup, alone = train_apart(
        lambda: load(run, prepared.task), prepared.task, recipe, run.experts, run.size, run.seed,
        progress=False, on_step=on_step, blocks=blocks_of(run), folder=work,
    )  # fmt: skip
    logs = [read_log(work / f"adapter{n}" / "log.jsonl") for n in range(run.experts)]
    curve = [row for n, log in enumerate(logs) for row in curve_rows(log, n * (recipe.steps or 0))]
    mixture, _ = above_prefix(run, soup.to(next(prepared.mixture.parameters()).device))
    seconds = sum(log[-1]["seconds"] for log in logs)
    return Trained(mixture, curve, seconds, [mean_of(alone), ensemble(alone)])


def curve_rows(log: Sequence[Mapping[str, Any]], before: int = 0) -> list[dict[str, Any]]:
    """The log's training rows as the curve has them, each step once."""
    rows = {row["step"]: row for row in log if "loss" in row}
    return [
        {"step": before + step, "loss": row["loss"], "task_loss": row["task"], "consistency": row["consistency"]}
        for step, row in sorted(rows.items())
    ]


# -- judging -----------------------------------------------------------------------------------------------------


def judged(run: Run, prepared: Prepared, trained: Trained) -> dict[str, bytes]:
    """The run's three tables as Parquet files."""
    start, mixture, metrics = time.perf_counter(), trained.mixture, prepared.task.metrics
    device = next(mixture.parameters()).device
    results: list[tuple[str, Evaluation]] = []
    for name, batches in prepared.judged.items():
        there = [(rows, to_device(batch, device)) for rows, batch in batches]
        if name:
            found = [evaluate_batches(mixture, there, "merged", run.seed, metrics)]
        else:
            found = [*strategies(run, mixture, there, metrics), *trained.parts]
            if run.temperature is not None:
                scaled = tempered(found[0].log_probabilities, run.temperature).float()
                found.append(judge("scaled", 1, scaled, found[0].labels, metrics))
        results += [(name, result) for result in found]
    count, parts = costs(run.method, mixture), parts_of(run)
    if run.method == "apart-soup":
        count = replace(count, trained=count.stored * parts)
    steps = (prepared.recipe.steps or 0) * parts
    facts = {"steps": steps, "operations": float(prepared.cost * steps), "seconds": trained.seconds, **vars(count)}
    return tables(run, results, trained.curve, evaluation_seconds=time.perf_counter() - start, **facts)


def strategies(
    run: Run, mixture: MixtureModel, there: Sequence[IndexedBatch], metrics: tuple[str, ...]
) -> list[Evaluation]:
    """Every strategy that can differ, on the same batches; the exact average where the routes are few enough.

    The exact average is of probabilities (Eq. 7), or of a regression's numbers. Of several draws of random routes the
    first stands beside the other strategies, the rest at the end.
    """
    number = mixture.space.number
    if number == 1:
        return [evaluate_batches(mixture, there, STRATEGIES[0], run.seed, metrics)]

    def every_route(mixture: MixtureModel, inputs: Batch, generator: torch.Generator) -> Tensor:
        logits = tree_logits(mixture, inputs, run.exact)
        return logits.mean(1) if logits.shape[-1] == 1 else marginal(logits)

    results = [evaluate_batches(mixture, there, name, run.seed, metrics) for name in STRATEGIES]
    if number <= run.exact:
        results.append(evaluate_batches(mixture, there, "exact", run.seed, metrics, (every_route, number)))
    seeds = [run.seed + DRAWS_APART * draw for draw in range(1, run.draws)]
    return results + [evaluate_batches(mixture, there, "random", seed, metrics) for seed in seeds]


def probed(run: Run) -> dict[str, bytes]:
    """The tables of a linear probe: the frozen features of every training row are read once, nothing is trained."""
    task = task_of(run)
    model, tokenizer = load(run, task)
    start = time.perf_counter()
    results = []
    for name, part in parts_to_judge(task):
        result = linear_probe(model, part, tokenizer, run.max_length, run.compute == "oracle")
        results.append((name, replace(result, strategy="merged")))
    outputs = 1 if task.num_labels <= 2 else task.num_labels  # of two classes one is enough
    weights = outputs * (int(model.config.hidden_size) + 1)
    facts = {"steps": 0, "operations": 0.0, "seconds": time.perf_counter() - start, "evaluation_seconds": 0.0}
    return tables(run, results, [], **facts, **dict.fromkeys(("trained", "stored", "inference"), weights))
