"""What surrounds the loop: log rows, looks at the dev slice, the best weights, checkpoints and resuming.

A checkpoint, from which a run goes on bit for bit, is one safetensors file: tensors (weights, best and averaged ones,
optimiser, random generators), and as JSON in its metadata the step, the scores, what the run is, and a checksum over
all. One file means one rename: a kill at any instant leaves the last two checkpoints whole.
"""

from __future__ import annotations

import json
import math
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from adamix_lab.core import lazy_function
from adamix_lab.core.errors import LabError
from adamix_lab.core.files import read_record, write_record, write_text
from adamix_lab.core.objective import IGNORED, Objective, task_loss_of, without_labels
from adamix_lab.core.sites import answer_kind
from adamix_lab.core.views import logits_of
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.tasks.batches import ZEROS, Example, Padding, sequential, to_device
from adamix_lab.training.recipe import Recipe, flatten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

LOG = "log.jsonl"
FORMAT = 4
KEEP = 2
MAY_DIFFER = ("recipe.log_every", "recipe.checkpoint_every")  # these change no weight
_PATTERN = "checkpoint-????????.safetensors"


@dataclass(repr=False)
class History:
    """What happened in a run.

    Attributes:
        rows: log rows; training rows have `loss`, `task`, `consistency`, `agreement` (the share of the answers that
            two routes give alike; where there are two), `lr`, `seconds`, `route`, looks have `dev`. A row's `step`
            counts the steps done: its route is `Router(space, seed).views(step - 1)`.
        steps: done in all, earlier parts of a resumed run included.
        best: the look whose weights were kept; None without a dev slice: the last weights.
        seconds: of training, earlier parts included, without loading data.
        stopped_early: patience ended it.
        since_best: looks since the best one.
        resumed_from: the step of the checkpoint it went on from.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    stopped_early: bool = False
    since_best: int = 0
    resumed_from: int | None = None

    @property
    def losses(self) -> list[float]:
        """The logged total losses."""
        return [row["loss"] for row in self.rows if "loss" in row]

    @property
    def looks(self) -> list[dict[str, Any]]:
        """The rows of looks at the dev slice."""
        return [row for row in self.rows if "dev" in row]

    def to_frame(self) -> DataFrame:
        """The log as a pandas frame, by step; the looks at the dev slice are columns `dev ...`."""
        from adamix_lab.training.display import history_frame

        return history_frame(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws task loss and consistency over the steps, and the dev slice's loss where there is one."""
        from adamix_lab.training.display import plot_history

        return plot_history(self, ax)

    __repr__ = lazy_function("adamix_lab.training.display", "history_text")
    _repr_html_ = lazy_function("adamix_lab.training.display", "history_html")


def loss_parts(parts: Sequence[float]) -> dict[str, float]:
    """Task loss, consistency and agreement by name, as a log has them; agreement where there is one."""
    found = dict(zip(("task", "consistency", "agreement"), parts, strict=True))
    return {name: value for name, value in found.items() if name != "agreement" or not math.isnan(value)}


class Run:
    """The mutable side of a training run: `start`, `after` each step, `finish`.

    Args:
        accelerator, objective, optimizer: as `Accelerator.prepare` gave them.
        recipe: settings.
        dev: examples that choose the best weights; none keeps the last.
        pad: how the tokenizer pads.
        folder: for the log and checkpoints, or None.
        identity: which model and data these are (`train.identify`).
    """

    def __init__(
        self,
        accelerator: Any,
        objective: Any,
        optimizer: Any,
        recipe: Recipe,
        dev: Sequence[Example] = (),
        pad: Padding = ZEROS,
        folder: str | Path | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.accelerator, self.optimizer, self.recipe, self.dev, self.pad = accelerator, optimizer, recipe, dev, pad
        self.objective: Objective = accelerator.unwrap_model(objective)
        self.mixture: MixtureModel = self.objective.mixture
        self.folder = None if folder is None else Path(folder)
        self.main: bool = accelerator.is_main_process
        self.facts = {"recipe": recipe.to_dict(), **(identity or {}), "processes": accelerator.num_processes}
        self.judge = task_loss_of(self.mixture) if recipe.label_smoothing else self.objective.task_loss
        self.history = History()
        self.average: dict[str, Tensor] = {}
        self.best_weights: dict[str, Tensor] = {}

    def start(self, total: int, every: int) -> int:
        """The step to begin with: 0, or that of the folder's checkpoint.

        total: the run's steps. every: steps between looks. Raises ValueError for another run's checkpoint, and for an
        average over no steps.
        """
        self.total, self.every = total, every
        self.recipe.share_in_average(total, total)
        if self.folder is not None:
            self._resume(self.folder)
        self.began = time.perf_counter() - self.history.seconds
        self.accelerator.wait_for_everyone()
        return total if self.history.stopped_early else self.history.steps

    def finish(self) -> History:
        """Puts back the best weights, if there was a choice; else the average, if there is one."""
        if kept := self.best_weights or self.average:
            load_trained(self.mixture, kept)
        self.mixture.eval()
        return self.history

    def after(self, step: int, losses: Tensor, routes: Tensor) -> None:
        """Averages, logs, looks and writes a checkpoint, where they are due.

        losses: total, task, consistency and agreement `[4]`.

        Raises FloatingPointError for a loss that is not finite.
        """
        history, recipe, last = self.history, self.recipe, step == self.total
        history.steps, history.seconds = step, time.perf_counter() - self.began
        if share := recipe.share_in_average(step, self.total):
            update_average(self.average, trained_tensors(self.mixture), share)
        if step % recipe.log_every == 0 or step == 1 or last:
            self._log_step(step, losses, routes)
        if self.dev and (step % self.every == 0 or last):
            self._look(step)
        due = bool(recipe.checkpoint_every) and step % recipe.checkpoint_every == 0
        if self.folder and (due or last or history.stopped_early):
            self._checkpoint(self.folder, step)

    # -- log and look -------------------------------------------------------------------------------

    def _log_step(self, step: int, losses: Tensor, routes: Tensor) -> None:
        recipe = self.recipe
        loss, *parts = self.accelerator.reduce(losses, "sum").tolist()
        if not math.isfinite(loss) and recipe.precision != "fp16":  # there, a scale that is too high heals itself
            raise FloatingPointError(
                f"The loss at step {step} is {loss}: expected a finite number. Lower lr (now {recipe.lr}) or raise "
                "warmup, keep clip above 0, and look for odd numbers in the labels or in a task_loss of your own."
            )
        row = {"step": step, "loss": loss, **loss_parts(parts)}
        row |= {"lr": recipe.lr * recipe.rate(step - 1, self.total), "seconds": round(self.history.seconds, 3)}
        row["route"] = routes.tolist() if recipe.per == "batch" else None  # (seed, step) replays the wider ones
        self._log(row)

    def _log(self, row: dict[str, Any]) -> None:
        self.history.rows.append(row)
        if self.folder and self.main:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def _look(self, step: int) -> None:
        from accelerate.utils import broadcast_object_list

        # One process's figures decide for all, so that all stop at the same step.
        with holding(self.mixture, self.average):
            scores = broadcast_object_list([self.scores()])[0]
        row, history = {"step": step, "dev": scores}, self.history
        self._log(row)
        if history.best is None or _better(scores, history.best["dev"]):
            history.best, history.since_best = row, 0
            kept = self.average or trained_tensors(self.mixture)
            self.best_weights = {name: tensor.clone() for name, tensor in kept.items()}
        else:
            history.since_best += 1
            history.stopped_early = history.since_best == self.recipe.patience

    @torch.no_grad()
    def scores(self) -> dict[str, float]:
        """Loss, and accuracy for classes, of the merged model on the dev slice."""
        from adamix_lab.fast.blocks import cut_last_block

        self.mixture.eval()
        loss, right, kind = 0.0, [], answer_kind(self.mixture.model)
        for indices, batch in sequential(self.dev, 2 * self.recipe.batch_size, self.pad):
            batch = to_device(batch, self.accelerator.device)
            labels, inputs = batch["labels"], without_labels(self.mixture.model, batch)
            with self.accelerator.autocast(), cut_last_block(self.mixture.model, inputs):
                logits = logits_of(self.mixture(selection="merge", **inputs))
            loss += float(self.judge(logits, labels)) * len(indices)
            if kind in ("classes", "tokens") and labels.shape == logits.shape[:-1] and not labels.is_floating_point():
                right += (logits.argmax(-1) == labels)[labels != IGNORED].tolist()
        return {"loss": loss / len(self.dev), **({"accuracy": sum(right) / len(right)} if right else {})}

    # -- checkpoints --------------------------------------------------------------------------------

    def _checkpoint(self, folder: Path, step: int) -> None:
        from accelerate.utils import gather_object

        states = gather_object([generator_states(self.accelerator.device)])
        if self.main:
            groups = {
                "weights": trained_tensors(self.mixture),
                "best": self.best_weights,
                "average": self.average,
                "optimizer": optimizer_tensors(self.optimizer),
                **{f"random.{rank}": state for rank, state in enumerate(states)},
            }
            tensors = {f"{group}.{name}": t for group, named in groups.items() for name, t in named.items()}
            scaler = self.accelerator.scaler
            history = {**vars(self.history), "rows": None, "resumed_from": None}  # the log has the rows
            facts = {"run": self.facts, "history": history, "scaler": scaler.state_dict() if scaler else None}
            write_checkpoint(folder, step, tensors, facts)
        self.accelerator.wait_for_everyone()

    def _resume(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        found = newest_checkpoint(folder)
        if found is not None:
            check_same_run(found.facts["run"], self.facts, found.path)
            load_trained(self.mixture, found.part("weights"))
            load_optimizer(self.optimizer, found.part("optimizer"))
            device = self.accelerator.device
            set_generator_states(found.part(f"random.{self.accelerator.process_index}"), device)
            self.best_weights = found.part("best")
            self.average = {name: tensor.to(device) for name, tensor in found.part("average").items()}
            rows = [row for row in read_log(folder / LOG) if row["step"] <= found.step]
            self.history = History(**{**found.facts["history"], "rows": rows, "resumed_from": found.step})
            if found.facts["scaler"] and self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(found.facts["scaler"])
        if self.main:  # without rows of steps that are about to be done again
            write_text(folder / LOG, "".join(json.dumps(row) + "\n" for row in self.history.rows))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


def _better(new: dict[str, float], old: dict[str, float]) -> bool:
    """By accuracy, as the reference selects; equal ones (and regressions) by loss. A loss of nan is never better."""
    loss = new["loss"] if math.isfinite(new["loss"]) else math.inf
    return (new.get("accuracy", 0.0), -loss) > (old.get("accuracy", 0.0), -old["loss"])


# -- averages of weights over steps: SWA, even over a window (Izmailov et al., 2018), and EMA ----------------
#
# `Recipe.share_in_average` says how far the average moves at a step. It is kept in float32 at least, since a share of
# one in some hundred is lost in fewer digits.


@torch.no_grad()
def update_average(average: dict[str, Tensor], weights: Mapping[str, Tensor], share: float) -> None:
    """Moves an average a share of the way to a step's weights, in place; the first weights begin it."""
    for name, weight in weights.items():
        exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
        average[name] = average[name].lerp(exact, share) if name in average else exact.clone()


@contextmanager
def holding(mixture: MixtureModel, tensors: dict[str, Tensor]) -> Iterator[None]:
    """The mixture has these trained tensors inside the block (its own where there are none), and then its own again."""
    own = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()} if tensors else {}
    if tensors:
        load_trained(mixture, tensors)
    try:
        yield
    finally:
        if own:
            load_trained(mixture, own)


# -- checkpoints -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """What a file held: tensors by name, and facts as plain values."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix.`, by the rest of their name."""
        return {name.removeprefix(f"{prefix}."): t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Writes a checkpoint of a step and removes all but the last two. Raises OSError where the disk is full.

    The file appears whole or not at all, and older ones go only when it is there.
    """
    path = folder / f"checkpoint-{step:08d}.safetensors"
    for left in folder.glob(".checkpoint-*"):  # a killed write's, which may take the room that this one needs
        left.unlink()
    write_record(path, "state", tensors, {**facts, "step": step, "format": FORMAT})
    for old in sorted(folder.glob(_PATTERN))[:-KEEP]:
        old.unlink()
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint. Raises ValueError where it is truncated, changed, or of another format."""
    expected = "a checkpoint that adamix_lab.train wrote. Train in an empty folder, or use the version that wrote it."
    tensors, facts = read_record(path, "state", expected)
    if facts.get("format") != FORMAT or "sha256" not in facts:
        raise LabError(f"{path} is no checkpoint of format {FORMAT}: expected {expected}")
    return Checkpoint(path, int(facts["step"]), tensors, facts)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a folder, None where there is none.

    A damaged one is passed over with a warning. Raises ValueError where all that are there are damaged.
    """
    paths = sorted(folder.glob(_PATTERN), reverse=True)
    problems = []
    for path in paths:
        try:
            found = read_checkpoint(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]} Going on from the one before it, {path.name}.", stacklevel=2)
        return found
    if problems:
        raise LabError(
            f"No checkpoint in {folder} is whole, expected one of {len(paths)} at least: {problems[0]} "
            "Remove them to train from the start, or name another folder."
        )
    return None


def check_same_run(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuses to go on with another run. Raises ValueError that names each difference."""
    old, new = flatten(saved), flatten(json.loads(json.dumps(now)))
    was = {**flatten({"recipe": Recipe().to_dict()}), **old}  # settings that came since had their defaults
    differing = [
        f"{name} was {was.get(name, 'absent')!r}, is {new.get(name, 'absent')!r}"
        for name in sorted(old.keys() | new.keys())
        if name not in MAY_DIFFER and was.get(name, "absent") != new.get(name, "absent")
    ]
    if differing:
        raise LabError(
            f"{path} belongs to another run: {'; '.join(differing[:5])}. Expected the same recipe, model and "
            "data. Set them as they were to go on, or name another folder to start anew."
        )


# -- optimiser and random generators as tensors ------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state: `<parameter's number>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{n}.{name}": torch.as_tensor(value) for n, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave. The groups come from the recipe, which is the same."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the global generators of torch, Python and numpy; the latter two as the bytes of JSON."""
    kind, words, *rest = np.random.get_state()
    others = {"python": random.getstate(), "numpy": (kind, np.asarray(words).tolist(), *rest)}
    states = {name: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8) for name, state in others.items()}
    states["torch"] = torch.get_rng_state()
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what `generator_states` gave."""
    version, words, gauss = json.loads(bytes(states["python"].tolist()))
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(json.loads(bytes(states["numpy"].tolist()))))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
