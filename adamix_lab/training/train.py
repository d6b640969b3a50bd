"""The training loop, on one screen, over accelerate.

What makes it AdaMix is two lines: routes are drawn before the forward pass, and the objective runs both views.
The rest is what any loop needs: the best weights on a slice of train, a log, checkpoints (`adamix_lab.training.run`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.errors import LabError
from adamix_lab.core.files import locked
from adamix_lab.core.objective import Objective, TaskLoss, task_loss_of
from adamix_lab.core.routing import Router
from adamix_lab.core.sites import PROBLEM_TYPES, answer_kind, count_answers, declare
from adamix_lab.core.views import Batch
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import (
    ZEROS,
    Batches,
    Encoder,
    Example,
    Padding,
    allowed_length,
    check_encoder,
    check_labels,
    collate,
    encode,
    labelled,
    length,
    padding_of,
    sequential,
    to_device,
)
from adamix_lab.tasks.tasks import Task, hold_out
from adamix_lab.training.optim import keep_freed_memory, make_optimizer, rest_off_route, set_rate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import History, Run


def train(
    mixture: MixtureModel,
    task: Task,
    tokenizer: Any,
    recipe: Recipe | None = None,
    folder: str | Path | None = None,
    task_loss: TaskLoss | None = None,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
    encoder: Encoder = encode,
) -> History:
    """Trains experts and head, in place, and leaves the model in evaluation mode with its best (or last) weights.

    With `accelerate launch` or `torchrun`, each process takes its contiguous share of every batch, under the same
    routes. Python's, numpy's and torch's global generators are seeded from the recipe.

    Args:
        mixture: from `attach`.
        task: what to learn; only `task.train` is looked at, unless the recipe chooses on the evaluation rows.
        tokenizer: of the model.
        recipe: settings; None takes the defaults.
        folder: for the log and checkpoints. If it holds a checkpoint of the same run, training goes on from there.
        task_loss: (logits `[B, ...]`, labels) to a mean over rows; None takes what fits the head.
        progress: show a bar, on a terminal or in a notebook; there the curves of the losses grow under it.
        on_step: called after each step with the number of steps done, to look at the model while it trains.
        encoder: (rows, task, tokenizer, max_length) to examples; another than `encode` brings labels of its own kind
            (one a token, say), and a `task_loss` that takes them.

    Raises:
        ValueError: labels outside the head's classes, a max_length above the model's positions, a folder with another
            run's checkpoint, one that another run writes into, fp16 without a GPU.
        FloatingPointError: a logged loss is not finite.
        OSError: a checkpoint cannot be written; earlier ones are whole.
        KeyboardInterrupt: it was stopped (Ctrl-C, a notebook's square); what was trained so far is kept in place.

    >>> history = train(mixture, task, tokenizer, Recipe(steps=4, batch_size=8), progress=False)
    >>> history.steps, len(history.losses) > 0
    (4, True)
    """
    recipe = recipe or Recipe()
    if encoder is encode:
        check_labels(mixture, task)
    declare_task(mixture, task, encoder)
    accelerator = start_accelerator(recipe)
    student, examples, dev, pad = prepare_data(mixture.to(accelerator.device), task, tokenizer, recipe, encoder)
    identity = identify(mixture, task) if folder is not None else None
    # of several processes the main one writes
    lock = locked(Path(folder)) if folder is not None and accelerator.is_main_process else nullcontext()
    try:
        with lock:
            return train_examples(
                student, examples, recipe, accelerator, dev, pad, folder, identity, task_loss, progress, on_step
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Training was stopped. The mixture keeps the weights that it has now: the last step's, not the best or "
            f"averaged ones. The same call {'goes on from the last checkpoint' if folder else 'trains on from these'}."
        ) from None
    finally:
        mixture.eval()


def train_examples(
    mixture: MixtureModel,
    examples: Sequence[Example],
    recipe: Recipe,
    accelerator: Any,
    dev: Sequence[Example] = (),
    pad: Padding = ZEROS,
    folder: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    task_loss: TaskLoss | None = None,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> History:
    """The loop of `train`, on examples as the mixture takes them: token ids, or cached states.

    Args:
        dev: examples that choose the best weights; none keeps the last.
        pad: how the tokenizer pads.
        identity: plain values that say which model and data these are; a checkpoint of others is refused.
    """
    from tqdm.auto import tqdm

    from adamix_lab.fast.blocks import WAYS
    from adamix_lab.training.display import watch

    if task_loss is not None and recipe.label_smoothing:
        raise LabError(
            f"label_smoothing = {recipe.label_smoothing} with a task_loss of your own: expected one of them. Smooth "
            "the labels in that loss, and leave label_smoothing at 0."
        )
    task_loss = task_loss or task_loss_of(mixture, recipe.label_smoothing)
    objective = Objective(mixture, recipe.consistency, task_loss, WAYS)
    objective, optimizer = accelerator.prepare(objective, make_optimizer(mixture, recipe))
    batches = Batches(examples, recipe.batch_size, recipe.seed, recipe.bucket)
    router = Router(mixture.space, recipe.seed, recipe.per)
    total = recipe.total_steps(len(batches))
    run = Run(accelerator, objective, optimizer, recipe, dev, pad, folder, identity)
    first = run.start(total, every=recipe.evaluate_every or len(batches))

    shown = progress and run.main
    bar = tqdm(range(first, total), initial=first, total=total, disable=None if shown else True)
    for step in watch(bar, run.history, shown):
        objective.train()
        batch = [examples[n] for n in batches.at(step)]  # which rows: (seed, epoch)
        tokens = max(map(length, batch))
        routes = router.views(step, recipe.consistency.number, len(batch), tokens)  # which experts: (seed, step, view)
        set_rate(optimizer, recipe.rate(step, total))
        rest_off_route(optimizer, mixture, routes)
        losses = torch.zeros(3, device=accelerator.device)
        for piece, own, weight in pieces(batch, routes, accelerator, recipe.accumulate, pad):
            with accelerator.accumulate(objective):
                out = objective(piece, own)  # two views: task and consistency
                # accelerate averages over pieces and processes; the weight makes that the mean over rows
                accelerator.backward(out.total * weight * recipe.accumulate * accelerator.num_processes)
                if recipe.clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(objective.parameters(), recipe.clip)
                optimizer.step()
                optimizer.zero_grad()
            losses += weight * torch.stack([out.total.detach(), out.task, out.consistency])
        run.after(step + 1, losses, routes)  # log, look, checkpoint
        if on_step is not None:
            on_step(step + 1)
        if run.history.stopped_early:
            break
    return run.finish()


def declare_task(mixture: MixtureModel, task: Task, encoder: Encoder = encode) -> None:
    """Writes the kind and the names of the task's answers into the model's configuration.

    With an encoder of one's own the kind is the model's, as its labels are.
    """
    model = mixture.model
    kind = task.kind if encoder is encode and answer_kind(model) in PROBLEM_TYPES else answer_kind(model)
    assert kind is not None
    declare(model, kind, task.classes if len(task.classes) == count_answers(model) else ())


def identify(mixture: MixtureModel, task: Task) -> dict[str, Any]:
    """Plain values that say which model learns from which rows; a checkpoint of others is refused."""
    from adamix_lab.models.saving import describe

    attached = describe(mixture)
    model = {name: attached[name] for name in ("adaptation", "experts", "share", "sites", "head", "num_labels")}
    digest = hashlib.sha256()
    for row in task.train:
        digest.update(json.dumps([row[name] for name in (*task.text, task.label)]).encode())
    return {
        "model": {**model, "base": attached["base"]["fingerprint"]},
        "data": {"rows": len(task.train), "sha256": digest.hexdigest()[:16]},
    }


# -- a step's pieces ---------------------------------------------------------------------------------------


def pieces(
    batch: Sequence[Example], routes: Tensor, accelerator: Any, accumulate: int, pad: Padding
) -> Iterator[tuple[Batch, Tensor, float]]:
    """This process's contiguous pieces of a batch, one as a rule: rows on the device, their routes, their share of all.

    All processes run equally many pieces, else they would wait for each other: where rows run out, one row counts 0.
    """
    parts, first = accelerator.num_processes * accumulate, accelerator.process_index * accumulate
    for part in range(first, first + accumulate):
        start, stop = len(batch) * part // parts, len(batch) * (part + 1) // parts
        rows = slice(start, stop) if stop > start else slice(0, 1)
        piece = to_device(collate(batch[rows], pad), accelerator.device)
        yield piece, routes_of(routes, rows, piece, pad.side), (stop - start) / len(batch)


def routes_of(routes: Tensor, rows: slice, piece: Batch, side: str = "right") -> Tensor:
    """The routes of a piece of the batch: all of `[K, sites, sides]`, else the piece's rows (and tokens)."""
    if routes.dim() > 3:
        routes = routes[:, rows]
    if routes.dim() > 4:
        tokens = piece["attention_mask"].shape[1]
        routes = routes[:, :, -tokens:] if side == "left" else routes[:, :, :tokens]
    return routes.to(piece["labels"].device)


# -- before the first step ---------------------------------------------------------------------------------


def start_accelerator(recipe: Recipe) -> Any:
    """An Accelerator for the recipe, with the global generators seeded (apart for each process)."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    if recipe.precision == "fp16" and PartialState().device.type == "cpu":
        raise LabError('precision = "fp16" without a GPU: expected "no" or "bf16" on a CPU. Use "bf16".')
    # accelerate keeps one precision a process and refuses a second; a notebook trains several times.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=recipe.precision, gradient_accumulation_steps=recipe.accumulate)
    set_seed(recipe.seed + accelerator.process_index)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def prepare_data(
    mixture: MixtureModel, task: Task, tokenizer: Any, recipe: Recipe, encoder: Encoder = encode
) -> tuple[MixtureModel, list[Example], list[Example], Padding]:
    """(what is trained, training examples, dev examples, padding): tokenised, or cached up to the first block."""
    check_encoder(mixture, encoder)
    rows, dev_rows = task.train, task.evaluation
    if recipe.choose_on == "slice":
        together = task.text if task.generates else ()
        rows, dev_rows = hold_out(task.train, recipe.dev_fraction, recipe.seed, task.label, together)
    longest = allowed_length(recipe.max_length, mixture.model, tokenizer)
    examples = encoder(rows, task, tokenizer, longest)
    dev = encoder(dev_rows, task, tokenizer, longest) if dev_rows else []
    if encoder is encode:
        labelled([*examples, *dev], task)
    pad = padding_of(tokenizer, mixture.model)
    if recipe.cache_prefix:
        from adamix_lab.fast.prefix import cached_prefix

        device = next(mixture.parameters()).device
        mixture, cache = cached_prefix(mixture)
        both = cache_examples([*examples, *dev], cache, device, pad)
        examples, dev = both[: len(examples)], both[len(examples) :]
    return mixture, examples, dev, pad


def cache_examples(examples: list[Example], cache: Any, device: torch.device, pad: Padding) -> list[Example]:
    """The examples with the states `[T, d]` that enter the first adapted block in the place of their tokens."""
    kept: list[Example] = [{} for _ in examples]
    for indices, batch in sequential(examples, 64, pad):
        states = cache(to_device(batch, device))["inputs_embeds"].cpu()
        for n, state in zip(indices, states, strict=True):
            rest = {name: value for name, value in examples[n].items() if name in ("attention_mask", "labels")}
            tokens = length(examples[n])
            state = state[-tokens:] if pad.side == "left" else state[:tokens]
            kept[n] = {"inputs_embeds": state.clone(), **rest}
    return kept
