"""What surrounds the loop: log rows, looks at the dev slice, the best weights, checkpoints and resuming."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.files import write_text
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import TaskLoss, task_loss_of
from adamix_lab.core.saving import describe, load_trained, trained_tensors
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.tasks.batches import Example, sequential
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.checkpoints import (
    Checkpoint,
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

LOG = "log.jsonl"


@dataclass
class History:
    """What happened in a run.

    Attributes:
        rows: log rows; training rows have `loss`, `task`, `consistency`, `lr`, `seconds`, `route`, looks have `dev`. A
            row's `step` counts the steps done: its route is `Router(space, seed).views(step - 1)`.
        steps: done in all, earlier parts of a resumed run included.
        best: the look whose weights were kept; None without a dev slice: the last weights.
        seconds: of training, earlier parts included, without loading data.
        stopped_early: patience ended it.
        resumed_from: the step of the checkpoint it went on from.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    stopped_early: bool = False
    resumed_from: int | None = None

    @property
    def losses(self) -> list[float]:
        """The logged total losses."""
        return [row["loss"] for row in self.rows if "loss" in row]

    @property
    def looks(self) -> list[dict[str, Any]]:
        """The rows of looks at the dev slice."""
        return [row for row in self.rows if "dev" in row]


class Run:
    """The mutable side of a training run: `start`, `after` each step, `finish`."""

    def __init__(
        self,
        accelerator: Any,
        mixture: MixtureModel,
        student: MixtureModel,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        dev: list[Example],
        pad: int,
        folder: str | Path | None,
        task_loss: TaskLoss | None = None,
    ) -> None:
        self.accelerator, self.mixture, self.student = accelerator, mixture, student
        self.optimizer, self.recipe, self.dev, self.pad = optimizer, recipe, dev, pad
        self.task_loss = task_loss or task_loss_of(mixture)
        self.folder = None if folder is None else Path(folder)
        self.main: bool = accelerator.is_main_process
        self.history = History()
        self.best_weights: dict[str, Tensor] = {}
        self.since_best = 0
        self.facts: dict[str, Any] = {}

    @property
    def stopped(self) -> bool:
        """Whether patience has ended the run."""
        return self.history.stopped_early

    # -- start and end ------------------------------------------------------------------------------

    def start(self, task: Task, total: int, every: int) -> int:
        """The step to begin with: 0, or that of the folder's checkpoint. Raises ValueError if that is another run's."""
        self.total, self.every = total, every
        if self.folder is not None:
            self.facts = self._facts(task)
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.main:
                clear_temporary(self.folder)
            found = newest_checkpoint(self.folder)
            if found is not None:
                self._resume(found)
            if self.main:
                text = "".join(json.dumps(row) + "\n" for row in self.history.rows)
                write_text(self.folder / LOG, text)  # without rows of steps that are about to be done again
        self.began = time.perf_counter() - self.history.seconds
        self.accelerator.wait_for_everyone()
        return self.total if self.stopped else self.history.steps

    def finish(self) -> History:
        """Keeps the best weights, if there was a choice."""
        if self.best_weights:
            load_trained(self.mixture, self.best_weights)
        self.mixture.eval()
        return self.history

    # -- a step -------------------------------------------------------------------------------------

    def after(self, step: int, losses: Tensor, lr: float, routes: Tensor) -> None:
        """Logs, looks and writes a checkpoint, where they are due. `losses`: total, task, consistency `[3]`.

        Raises FloatingPointError for a loss that is not finite.
        """
        history, recipe, last = self.history, self.recipe, step == self.total
        history.steps, history.seconds = step, time.perf_counter() - self.began
        if step % recipe.log_every == 0 or step == 1 or last:
            loss, task, agree = self.accelerator.reduce(losses, "sum").tolist()
            route = routes.tolist() if recipe.per == "batch" else None  # (seed, step) replays the wider ones
            if not math.isfinite(loss) and recipe.precision != "fp16":  # there, a scale that is too high heals itself
                raise FloatingPointError(
                    f"The loss at step {step} is {loss}: expected a finite number. Lower lr (now {recipe.lr}) or raise "
                    "warmup, keep clip above 0, and look for odd numbers in the labels or in a task_loss of your own."
                )
            row = {"step": step, "loss": loss, "task": task, "consistency": agree, "lr": lr}
            self._log({**row, "seconds": round(history.seconds, 3), "route": route})
        if self.dev and (step % self.every == 0 or last):
            self._look(step)
        if self.folder and (self._due(step) or last or self.stopped):
            self._checkpoint(step)

    def _due(self, step: int) -> bool:
        return bool(self.recipe.checkpoint_every) and step % self.recipe.checkpoint_every == 0

    def _log(self, row: dict[str, Any]) -> None:
        self.history.rows.append(row)
        if self.folder and self.main:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def _look(self, step: int) -> None:
        from accelerate.utils import broadcast_object_list

        # One process's figures decide for all, so that all stop at the same step.
        scores = broadcast_object_list([self.scores()])[0]
        row = {"step": step, "dev": scores}
        self._log(row)
        if self.history.best is None or _better(scores, self.history.best["dev"]):
            self.history.best, self.since_best = row, 0
            self.best_weights = {name: t.clone() for name, t in trained_tensors(self.mixture).items()}
        else:
            self.since_best += 1
            self.history.stopped_early = self.since_best == self.recipe.patience

    @torch.no_grad()
    def scores(self) -> dict[str, float]:
        """Loss, and accuracy for classes, of the merged model on the dev slice."""
        self.student.eval()
        loss, right, classes = 0.0, 0, False
        for indices, batch in sequential(self.dev, 2 * self.recipe.batch_size, self.pad):
            batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
            labels = batch.pop("labels")
            with self.accelerator.autocast(), cut_last_block(self.student.model):
                logits = self.student(**batch).logits
            loss += float(self.task_loss(logits, labels)) * len(indices)
            if logits.dim() == 2 and not labels.is_floating_point() and labels.dim() == 1:
                classes, right = True, right + int((logits.argmax(-1) == labels).sum())
        rows = len(self.dev)
        return {"loss": loss / rows, **({"accuracy": right / rows} if classes else {})}

    # -- checkpoints --------------------------------------------------------------------------------

    def _facts(self, task: Task) -> dict[str, Any]:
        attached = describe(self.mixture)
        model = {name: attached[name] for name in ("adaptation", "experts", "share", "sites", "head", "num_labels")}
        data = {"rows": len(task.train), "sha256": _digest(task)}
        return {
            "recipe": self.recipe.to_dict(),
            "model": {**model, "base": attached["base"]["fingerprint"]},
            "data": data,
            "processes": self.accelerator.num_processes,
        }

    def _checkpoint(self, step: int) -> None:
        from accelerate.utils import gather_object

        states = gather_object([generator_states(self.accelerator.device)])
        if self.main:
            history = self.history
            groups = {
                "weights": trained_tensors(self.mixture),
                "best": self.best_weights,
                "optimizer": optimizer_tensors(self.optimizer),
                **{f"random.{rank}": state for rank, state in enumerate(states)},
            }
            tensors = {f"{group}.{name}": t for group, named in groups.items() for name, t in named.items()}
            scaler = self.accelerator.scaler
            progress = {
                "best": history.best,
                "since_best": self.since_best,
                "stopped_early": history.stopped_early,
                "seconds": history.seconds,
                "scaler": scaler.state_dict() if scaler else None,
            }
            assert self.folder is not None
            write_checkpoint(self.folder, step, tensors, {"run": self.facts, "progress": progress})
        self.accelerator.wait_for_everyone()

    def _resume(self, found: Checkpoint) -> None:
        check_same(found.facts["run"], self.facts, found.path)
        load_trained(self.mixture, found.part("weights"))
        load_optimizer(self.optimizer, found.part("optimizer"))
        device = self.accelerator.device
        set_generator_states(found.part(f"random.{self.accelerator.process_index}"), device)
        self.best_weights = found.part("best")
        progress, history = found.facts["progress"], self.history
        history.best, self.since_best = progress["best"], progress["since_best"]
        history.stopped_early, history.seconds = progress["stopped_early"], progress["seconds"]
        history.steps = history.resumed_from = found.step
        if progress["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(progress["scaler"])
        assert self.folder is not None
        history.rows = [row for row in read_log(self.folder / LOG) if row["step"] <= found.step]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _better(new: dict[str, float], old: dict[str, float]) -> bool:
    """By accuracy, as the reference selects; equal ones (and regressions) by loss. A loss of nan is never better."""
    loss = new["loss"] if math.isfinite(new["loss"]) else math.inf
    return (new.get("accuracy", 0.0), -loss) > (old.get("accuracy", 0.0), -old["loss"])


def _digest(task: Task) -> str:
    digest = hashlib.sha256()
    for row in task.train:
        digest.update(json.dumps([row[name] for name in (*task.text, task.label)]).encode())
    return digest.hexdigest()[:16]
