"""R runs of equal shape as one program: experts and heads stacked over runs, one forward pass for all their rows.

The runs share the frozen backbone and differ in what is small: starts (seeds), routes, batch order, rates, decay,
consistency. A step puts the runs' batches, padded to a common length, into one batch of R x B rows; each run's rows
meet its own effective weights; the losses are summed, so that each run gets its own gradient; clipping, schedule and
AdamW's moments are kept a run.

With dropout off each run equals the same run trained alone, to rounding. With dropout on the masks are drawn for all
rows together, so a run is one of its kind but not, digit for digit, the run alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import Losses
from adamix_lab.experiments.equal_shape import Start, why_apart
from adamix_lab.experiments.stacked_runs import Runs
from adamix_lab.tasks.batches import Encoder, Example, check_labels, encode
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.checkpoints import (
    check_same,
    clear_temporary,
    generator_states,
    load_optimizer,
    newest_checkpoint,
    optimizer_tensors,
    set_generator_states,
    write_checkpoint,
)
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import History
from adamix_lab.training.train import prepare_data, start_accelerator


@dataclass(frozen=True)
class Trained:
    """One run of a set.

    Attributes:
        weights: as `trained_tensors` names them; `load_trained` puts them into the mixture.
        history: its log rows; `seconds` are those of the whole set.
        failed: why its numbers are not to be used (a loss that is not finite); None for a sound run.
    """

    weights: dict[str, Tensor]
    history: History
    failed: str | None = None


def train_batched(
    mixture: MixtureModel,
    starts: Sequence[Start],
    task: Task | Sequence[Task],
    tokenizer: Any,
    recipes: Sequence[Recipe],
    encoder: Encoder = encode,
    progress: bool = True,
    on_step: Callable[[int, Runs], None] | None = None,
    folder: Path | None = None,
) -> list[Trained]:
    """Trains R runs side by side; the mixture lends its backbone and shape, its own weights stay as they are.

    Args:
        mixture: from `attach`; its settings of adaptation, experts and sharing are those of all runs.
        starts: each run's first weights: `trained_tensors` of a mixture that was attached with the run's seed.
        task: what all learn, or one task a run (few examples, drawn by the run's seed); only `train` is looked at.
        tokenizer: of the model.
        recipes: each run's settings.
        encoder: as in `train`.
        progress: show a bar.
        on_step: called after each step with the number of steps done and the runs.
        folder: for checkpoints, every `checkpoint_every` steps of the first recipe; a killed set goes on there.

    Raises ValueError for runs that cannot be one program (says why), another number of tasks than of runs, labels
    outside the head's classes, and a folder that holds another set's checkpoint.
    """
    from tqdm.auto import tqdm

    if reasons := why_apart(mixture, starts, recipes):
        raise ValueError(f"These runs cannot train as one program: {'; '.join(reasons)}. Train such runs one by one.")
    tasks = [task] * len(recipes) if isinstance(task, Task) else list(task)
    if len(tasks) != len(recipes):
        raise ValueError(f"{len(tasks)} tasks for {len(recipes)} runs: expected one for all, or one a run.")
    accelerator = start_accelerator(recipes[0])
    mixture.to(accelerator.device)
    prepared: dict[int, list[Example]] = {}
    for own in tasks:
        if encoder is encode:
            check_labels(mixture, own)
        if id(own) not in prepared:
            student, prepared[id(own)], _, pad = prepare_data(mixture, own, tokenizer, recipes[0], encoder)
    runs = Runs(student, starts, recipes, [prepared[id(own)] for own in tasks])
    totals = {recipe.total_steps(len(order)) for recipe, order in zip(recipes, runs.orders, strict=True)}
    if len(totals) > 1:
        raise ValueError(f"The runs take {sorted(totals)} steps: expected equally many. Give steps instead of epochs.")
    (total,) = totals
    histories, failed = [History() for _ in recipes], [""] * len(recipes)
    facts = {"recipes": [asdict(recipe) for recipe in recipes], "rows": [len(own) for own in runs.examples]}
    first = 0 if folder is None else resume(folder, runs, histories, failed, facts)
    began = time.perf_counter() - histories[0].seconds
    for step in tqdm(range(first, total), initial=first, total=total, disable=None if progress else True):
        student.train()
        with accelerator.autocast():
            losses = runs.losses(step, pad, accelerator.device)
        runs.update(losses, [recipe.rate(step, total) for recipe in recipes])
        for n, (recipe, history) in enumerate(zip(recipes, histories, strict=True)):
            history.steps, history.seconds = step + 1, time.perf_counter() - began
            if not failed[n] and ((step + 1) % recipe.log_every == 0 or step + 1 in (1, total)):
                failed[n] = _log(history, losses[n], recipe, recipe.rate(step, total), runs.routes[n])
        if folder is not None and ((step + 1) % (recipes[0].checkpoint_every or total) == 0 or step + 1 == total):
            keep(folder, step + 1, runs, histories, failed, facts)
        if on_step is not None:
            on_step(step + 1, runs)
    student.eval()
    return [Trained(runs.weights(n), history, failed[n] or None) for n, history in enumerate(histories)]


def _log(history: History, losses: Losses, recipe: Recipe, factor: float, routes: Tensor) -> str:
    """Adds a row as `train` logs it; answers what is wrong with it, or nothing."""
    loss, task, agree = (float(value.detach()) for value in losses[:3])
    if not math.isfinite(loss):
        return f"the loss at step {history.steps} is {loss}: lower lr (now {recipe.lr}) or raise warmup"
    row = {"step": history.steps, "loss": loss, "task": task, "consistency": agree, "lr": recipe.lr * factor}
    route = routes.tolist() if recipe.per == "batch" else None
    history.rows.append({**row, "seconds": round(history.seconds, 3), "route": route})
    return ""


# -- checkpoints -------------------------------------------------------------------------------------------


def keep(
    folder: Path, step: int, runs: Runs, histories: Sequence[History], failed: Sequence[str], facts: dict[str, Any]
) -> None:
    """Writes where the set stands. Raises OSError where the disk is full; the last checkpoint is whole."""
    parts = {
        "weights": {name: p.detach() for name, p in runs.stacked.items()},
        "optimizer": optimizer_tensors(runs.optimizer),
        "generators": generator_states(next(iter(runs.stacked.values())).device),
    }
    tensors = {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}
    logs = {"rows": [h.rows for h in histories], "failed": list(failed), "seconds": histories[0].seconds}
    write_checkpoint(folder, step, tensors, {"run": facts, **logs})


def resume(folder: Path, runs: Runs, histories: Sequence[History], failed: list[str], facts: dict[str, Any]) -> int:
    """Puts a set back to where its newest checkpoint stood; returns the steps done. Raises ValueError for another's."""
    folder.mkdir(parents=True, exist_ok=True)
    clear_temporary(folder)
    found = newest_checkpoint(folder)
    if found is None:
        return 0
    check_same(found.facts["run"], facts, found.path)
    with torch.no_grad():
        for name, tensor in found.part("weights").items():
            runs.stacked[name].copy_(tensor)
    load_optimizer(runs.optimizer, found.part("optimizer"))
    set_generator_states(found.part("generators"), next(iter(runs.stacked.values())).device)
    for n, history in enumerate(histories):
        history.rows, history.steps, history.seconds = found.facts["rows"][n], found.step, found.facts["seconds"]
        history.resumed_from, failed[n] = found.step, found.facts["failed"][n]
    return found.step
