"""The training loop, on one screen, over accelerate.

What makes it AdaMix is two lines: routes are drawn before the forward pass, and the objective runs both views.
The rest is what any loop needs: the best weights on a slice of train, a log, checkpoints (`adamix_lab.training.run`).
"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.files import locked
from adamix_lab.core.mixture import MixtureLayer
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
    cache_examples,
    cache_passes,
    check_labels,
    collate,
    encode,
    labelled,
    length,
    padding_of,
    to_device,
)
from adamix_lab.tasks.tasks import Row, Task, hold_out, rows_digest
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import History, Run

BETAS = (0.9, 0.999)


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
    chosen_on = task.evaluation if recipe.choose_on == "evaluation" else ()
    identity = identify(mixture, task, chosen_on) if folder is not None else None
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
    batches = Batches(examples, recipe.batch_size, recipe.seed, recipe.bucket, recipe.cached_passes or 1)
    router = Router(mixture.space, recipe.seed, recipe.per)
    total = recipe.total_steps(len(batches))
    if (warm := recipe.warmup_steps or 0) >= total:
        text = (
            f"warmup_steps = {warm} in a run of {total} steps: the rate never reaches lr = {recipe.lr:g}. Lower it, or "
        )
        warnings.warn(text + "give warmup, a share of the run.", stacklevel=3)
    run = Run(accelerator, objective, optimizer, recipe, dev, pad, folder, identity)
    first = run.start(total, every=recipe.evaluate_every or len(batches))

    for step in watch(first, total, run.history, progress and run.main):
        objective.train()
        batch = [examples[n] for n in batches.at(step)]  # which rows: (seed, epoch)
        tokens = max(map(length, batch))
        routes = router.views(step, recipe.consistency.number, len(batch), tokens)  # which experts: (seed, step, view)
        set_rate(optimizer, recipe.rate(step, total))
        rest_off_route(optimizer, mixture, routes)
        losses = torch.zeros(4, device=accelerator.device)
        for piece, own, weight in pieces(batch, routes, accelerator, recipe.accumulate, pad):
            with accelerator.accumulate(objective):
                out = objective(piece, own)  # two views: task and consistency
                # accelerate averages over pieces and processes; the weight makes that the mean over rows
                accelerator.backward(out.total * weight * recipe.accumulate * accelerator.num_processes)
                if recipe.clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(objective.parameters(), recipe.clip)
                optimizer.step()
                optimizer.zero_grad()
            losses += weight * torch.stack([out.total.detach(), *out[1:4]])
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


def identify(mixture: MixtureModel, task: Task, chosen_on: Sequence[Row] = ()) -> dict[str, Any]:
    """Plain values that say which model learns from, and is chosen on, which rows; another's checkpoint is refused."""
    from adamix_lab.models.saving import describe

    attached = describe(mixture)
    model = {name: attached[name] for name in ("adaptation", "experts", "share", "sites", "head", "num_labels")}
    digest = rows_digest([*task.train, *chosen_on], (*task.text, task.label))
    data = {"rows": len(task.train), "sha256": digest}
    return {"model": {**model, "base": attached["base"]["fingerprint"]}, "data": data}


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


def keep_freed_memory() -> bool:
    """Lets glibc keep freed blocks of up to 1 GiB, which the next step asks for again; True where it does.

    Else activations above 32 MiB come from the system each time, zeroed page by page: up to a third of a step at 64
    rows of 128 tokens. An environment that sets the allocator (`MALLOC_...`) is left alone.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(-3, 1 << 30) and mallopt(-1, (1 << 31) - 1))  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (malloc.h)


def prepare_data(
    mixture: MixtureModel, task: Task, tokenizer: Any, recipe: Recipe, encoder: Encoder = encode
) -> tuple[MixtureModel, list[Example], list[Example], Padding]:
    """(what is trained, training examples, dev examples, padding): tokenised, or cached up to the first block.

    With `cached_passes` the training examples stand there so many times, each time under dropout masks of its own.
    """
    rows, dev_rows = task.train, task.evaluation
    if recipe.choose_on == "slice":
        together = task.text if task.generates else ()
        label = task.label if task.kind == "classes" else ""  # whole numbers to be met are no classes
        rows, dev_rows = hold_out(task.train, recipe.dev_fraction, recipe.seed, label, together)
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
        if recipe.cached_passes:
            dev = cache_examples(dev, cache, device, pad)
            return mixture, cache_passes(examples, cache, device, pad, recipe.cached_passes), dev, pad
        both = cache_examples([*examples, *dev], cache, device, pad)
        examples, dev = both[: len(examples)], both[len(examples) :]
    return mixture, examples, dev, pad


# -- the optimiser, and what becomes of experts that a step's routes leave out -------------------------------------
#
# Experts are stacked in one tensor `[M, ...]`, so an expert off the route has a gradient of zeros, not None. Under
# plain AdamW it still moves, by momentum and weight decay: so does the authors' code under the torch of its time, and
# so does "drift". Separate Parameters under today's torch would rest, as they do here under "freeze" (`StackedAdamW`).


def parameter_groups(mixture: MixtureModel, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: experts by the rate of their side, own weights of a baseline, and head, with and without decay.

    `base_lr` is the rate that the schedule scales.

    Experts decay as their adaptation declares (a stacked bias has two dimensions, so shapes tell nothing). The head's
    and a baseline's own biases and norms do not decay. Raises ValueError where nothing trains, or below float32, and
    for the rate of a side that the adaptation has not.
    """
    trained: dict[tuple[str, float, bool], list[nn.Parameter]] = defaultdict(list)
    check_sides(mixture, recipe)
    for layer in mixture.sites.values():
        for name, parameter in layer.experts.items():
            trained["experts", side_rate(layer, name, recipe), layer.decays[name]].append(parameter)
    for part, named in (("own", mixture.own_parameters()), ("head", mixture.head_parameters())):
        for _, parameter in named:
            trained[part, 1.0, parameter.dim() > 1].append(parameter)
    groups = []
    for (part, factor, decays), group in trained.items():
        lr = recipe.head_lr if part == "head" and recipe.head_lr is not None else recipe.lr * factor
        decay = recipe.weight_decay if decays or recipe.decay == "all" else 0.0
        if parameters := [parameter for parameter in group if parameter.requires_grad]:
            if narrow := [parameter.dtype for parameter in parameters if parameter.element_size() < 4]:
                raise LabError(
                    f"The weights of the {part} are {narrow[0]}: expected float32 to train. Use mixture.float()."
                )
            rates = {"lr": lr, "base_lr": lr, "weight_decay": decay}
            groups.append({"params": parameters, **rates, "stacked": part == "experts"})
    if not groups:
        raise LabError("Nothing trains: expected experts or a head with requires_grad. Attach the model afresh.")
    return groups


def side_rate(layer: MixtureLayer, weight: str, recipe: Recipe) -> float:
    """The factor of `lr` for a stacked weight of a site, by its side."""
    return recipe.side_rates.get(layer.adaptation.sides[layer.side_of[weight]], 1.0)


def check_sides(mixture: MixtureModel, recipe: Recipe) -> None:
    """Raises ValueError where the recipe names the rate of a side that the adaptation has not."""
    adaptation = mixture.mixture.adaptation
    for side in recipe.side_rates:
        one_of(f"Side of {adaptation.kind} in side_rates", side, adaptation.sides or ("(none)",))


def make_optimizer(mixture: MixtureModel, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over experts and head; `StackedAdamW` where experts off the route rest."""
    kind = StackedAdamW if recipe.off_route == "freeze" else torch.optim.AdamW
    return kind(parameter_groups(mixture, recipe), lr=recipe.lr, betas=BETAS, eps=recipe.eps)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scales every group's own rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def rest_off_route(optimizer: Any, mixture: MixtureModel, routes: Tensor) -> None:
    """Before a step: names the experts on its routes to a `StackedAdamW`, also inside accelerate's; others drift."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if isinstance(inner, StackedAdamW):
        inner.active = on_route(mixture, routes)


def on_route(mixture: MixtureModel, routes: Tensor) -> dict[nn.Parameter, Tensor]:
    """For each stacked weight `[M, ...]` which experts the routes `[..., sites, sides]` take: booleans `[M]`."""
    masks = {}
    for n, layer in enumerate(mixture.sites.values()):
        for name, parameter in layer.experts.items():
            mask = torch.zeros(len(parameter), dtype=torch.bool)
            mask[routes[..., n, layer.side_of[name]].flatten().cpu()] = True
            masks[parameter] = mask
    return masks


class StackedAdamW(torch.optim.Optimizer):
    """AdamW on stacked experts, one by one: those off the route keep their weights, both moments and step count.

    Equal to `torch.optim.AdamW` over separate Parameters whose gradient is None where they were not used. Set
    `active` (see `on_route`) before each step; weights that it does not name are updated whole. A stacked group's `lr`
    and `weight_decay` may be tensors `[copies]`, one a copy.
    """

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        defaults = {"lr": 1e-3, "betas": BETAS, "eps": 1e-8, "weight_decay": 0.01, "stacked": False}
        super().__init__(params, defaults | settings)
        self.active: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of the experts on the route."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        column = (len(parameter), *[1] * (parameter.dim() - 1)) if group["stacked"] else (1,)
        if not state:
            state["step"] = torch.zeros(column[0])  # one count an expert; on the CPU, where every device has doubles
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        on = self.active.get(parameter)
        state["step"] += 1 if on is None else on
        beta1, beta2 = group["betas"]
        lr, decay = (
            torch.as_tensor(group[name], dtype=torch.double).reshape(-1, *column[1:]) for name in ("lr", "weight_decay")
        )
        # Off the route a count may still be 0: its correction would divide by zero, and its result is dropped anyway.
        count = state["step"].clamp(min=1).double().reshape(column)
        scale = (lr / (1 - beta1**count)).to(parameter)
        spread = (1 - beta2**count).sqrt().to(parameter)
        first = state["exp_avg"].lerp(gradient, 1 - beta1)
        second = (state["exp_avg_sq"] * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = (second.sqrt() / spread).add_(group["eps"])
        moved = parameter * (1 - lr * decay).to(parameter) - scale * first / size
        on = None if on is None else on.reshape(column).to(parameter.device)
        for old, new in ((state["exp_avg"], first), (state["exp_avg_sq"], second), (parameter, moved)):
            old.copy_(new if on is None else torch.where(on, new, old))
