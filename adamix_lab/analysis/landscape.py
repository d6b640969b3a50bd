"""Landscapes: loss, accuracy, entropy and consistency at many points of adapter space, kept in one safetensors file.

Batches come one after another; each is carried through the frozen prefix once, and then all points see it, several at
a time. What is stored after a batch are sums over rows, so a killed run goes on where it was.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.points import Grid, Point, Points, device_and_dtype, logits_at, point_of
from adamix_lab.core.errors import LabError, one_of, positive
from adamix_lab.core.files import read_record, write_record
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.sites import answer_kind
from adamix_lab.core.views import Batch
from adamix_lab.fast.tree import free_memory, group_bytes
from adamix_lab.models.model import MixtureModel
from adamix_lab.models.saving import describe
from adamix_lab.tasks.batches import encode, padding_of, sequential, to_device
from adamix_lab.tasks.tasks import Row, Task
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import try_cached_prefix

Say = Callable[[str], None]
METRICS = ("loss", "accuracy", "entropy", "consistency")
MOST_AT_ONCE = 256
SAVE_EVERY = 5  # seconds between writes


@dataclass(frozen=True)
class Landscape(Grid):
    """What was measured at N points and some marks, over the rows seen so far.

    Attributes:
        sums: over rows, `[metrics, N + marks]`, float64.
        rows: how many rows the sums hold.
        batches: (done, all).
        notes: digest, seed, configuration, versions.
    """

    sums: Tensor
    rows: int
    batches: tuple[int, int]
    notes: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether every batch was seen."""
        return self.batches[0] == self.batches[1]

    def add_batch(self, sums: Tensor, rows: int) -> Landscape:
        """With the sums of one more batch."""
        done, every = self.batches
        return replace(self, sums=self.sums + sums, rows=self.rows + rows, batches=(done + 1, every))

    def values(self, metric: str = "loss") -> Tensor:
        """Means over rows at the N points, in the grid's shape. In nats, but for accuracy, which is a share.

        loss: negative log-likelihood; entropy: of the predictions; consistency: the distance of Eq. 5 (symmetric KL)
        to the reference marks, averaged over them. Raises ValueError for an unknown metric.
        """
        return self._means(metric)[: len(self)].reshape(self.shape)

    def at(self, mark: str, metric: str = "loss") -> float:
        """The mean at a marked point. Raises ValueError for an unknown mark or metric."""
        one_of("Mark", mark, self.marks)
        return float(self._means(metric)[len(self) + self.marks.index(mark)])

    def above_chord(self, metric: str = "loss") -> Tensor:
        """How far each point lies above the mixture of the reference marks' values, in the grid's shape.

        On a line: the height above the chord; the barrier is the maximum. Raises ValueError for planes, whose points
        are no mixtures.
        """
        if self.kind not in ("line", "simplex"):
            raise LabError(f"A {self.kind} has no chord: expected a line or a simplex, whose points mix the marks.")
        ends = torch.tensor([self.at(mark, metric) for mark in self.references], dtype=torch.float64)
        chord = self.coefficients[: len(self)] @ ends  # the reference marks are the anchors
        return self.values(metric) - chord.reshape(self.shape)

    def barrier(self, metric: str = "loss") -> float:
        """The greatest height above the chord between the marks (Frankle et al., 2020); 0 where it is never above."""
        between = (self.coefficients[: len(self)] >= -1e-9).all(-1)
        if not between.any():
            raise LabError(f"None of the {len(self)} points lies between the marks: expected more points.")
        return max(0.0, float(self.above_chord(metric).flatten()[between].max()))

    def _means(self, metric: str) -> Tensor:
        one_of("Metric", metric, METRICS)
        return self.sums[METRICS.index(metric)] / max(1, self.rows)


def empty_landscape(points: Points, batches: int, notes: dict[str, Any]) -> Landscape:
    """Nothing seen yet."""
    grid = {each.name: getattr(points, each.name) for each in fields(Grid)}
    sums = torch.zeros(len(METRICS), len(points.coefficients), dtype=torch.float64)
    return Landscape(**grid, sums=sums, rows=0, batches=(0, batches), notes=notes)


def save_landscape(landscape: Landscape, path: Path) -> Path:
    """One safetensors file, replaced at one instant: arrays, and everything else as JSON in its metadata."""
    tensors = {f"axes.{n}": axis for n, axis in enumerate(landscape.axes.values())}
    tensors |= {"coefficients": landscape.coefficients, "sums": landscape.sums}
    names = ("kind", "shape", "marks", "references", "rows", "batches", "notes")
    about = {name: getattr(landscape, name) for name in names}
    about |= {"axes": list(landscape.axes), "metrics": METRICS}
    write_record(path, "landscape", tensors, about)
    return path


def read_landscape(path: str | Path) -> Landscape:
    """A landscape as `save_landscape` wrote it, whole or begun. Raises ValueError for another kind of file."""
    expected = "a file written by evaluate_points or save_landscape. Remove it to compute it anew."
    tensors, about = read_record(Path(path), "landscape", expected)
    about.pop("sha256", None)
    if about.pop("metrics", None) != list(METRICS) or "sums" not in tensors:
        raise LabError(f"{path} holds no landscape of these metrics: expected {expected}")
    about |= {name: tuple(about[name]) for name in ("shape", "marks", "references", "batches")}
    about["axes"] = {name: tensors[f"axes.{n}"] for n, name in enumerate(about["axes"])}
    return Landscape(**about, coefficients=tensors["coefficients"], sums=tensors["sums"])


# -- measuring -------------------------------------------------------------------------------------------------------


def evaluate_points(
    mixture: MixtureModel,
    points: Points,
    batches: Sequence[Batch],
    store: Path | None = None,
    at_once: int | None = None,
    seed: int = 0,
    say: Say = print,
) -> Landscape:
    """Every point on the same batches, in evaluation mode; the model is as it was afterwards, bit for bit.

    Args:
        mixture: hosts the points: where it is and in which dtype it is, they are evaluated.
        points: lines, planes, simplices (`adamix_lab.analysis.points`).
        batches: with labels, a class a row.
        store: a safetensors file, written every few seconds and at the end. A run that was killed goes on
            from it, to the same numbers.
        at_once: points a pass; None fits them to the memory there is. A GPU that runs out of it takes half.
        seed: of what the points were drawn with, kept in the notes.
        say: takes a line about resuming.

    Raises ValueError for no batches, other answers than classes, points of another model, a store of another
    landscape, or batches that are too large for the memory.
    """
    check_batches(mixture, batches)
    check_points(mixture, points.anchors)
    device, dtype = device_and_dtype(mixture)
    if at_once is None:
        at_once = max(1, min(MOST_AT_ONCE, free_memory(device) // group_bytes(mixture, batches[0])))
    positive("at_once", at_once)
    notes = {
        "digest": digest_of(points, batches, str(dtype)), "seed": seed, "dtype": str(dtype), "device": str(device),
        "config": describe(mixture), "versions": versions(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    landscape = _begin(points, len(batches), notes, store, say)
    points = replace(points, anchors={name: anchors.to(device) for name, anchors in points.anchors.items()})
    written = time.monotonic()
    with torch.no_grad(), evaluating(mixture):
        top, cache = try_cached_prefix(mixture)
        for n in range(landscape.batches[0], len(batches)):
            batch = cache(to_device(batches[n], device))
            while landscape.batches[0] == n:
                try:
                    landscape = landscape.add_batch(*_one_batch(top, points, batch, at_once))
                except torch.OutOfMemoryError as error:
                    if at_once == 1:
                        rows = len(batch["labels"])
                        raise LabError(
                            f"batch_size = {rows}: a single point of so many rows is more than the memory of {device} "
                            "holds; expected fewer. Take a smaller batch_size."
                        ) from error
                    at_once //= 2
            if store and (landscape.finished or time.monotonic() - written >= SAVE_EVERY):
                save_landscape(landscape, store)
                written = time.monotonic()
    return landscape


def task_batches(
    task: Task, tokenizer: Any, rows: int | None = None, batch_size: int = 64, max_length: int = 128, model: Any = None
) -> list[Batch]:
    """Rows of a task's evaluation set as fixed batches with labels, longest rows first.

    rows: so many, always the same; None takes all. model: asked for the side of the padding, where the tokenizer pads
    on the left.

    Raises ValueError for an empty evaluation set, or a task that is not one of classes.
    """
    if task.kind != "classes":
        raise LabError(f"Task {task.name!r} asks for {task.kind}: expected classes.")
    chosen = sample(task.evaluation, rows, random.Random(0))
    if not chosen:
        raise LabError(f"The evaluation set of {task.name!r} is empty ({rows = }): expected at least one row.")
    examples = encode(chosen, task, tokenizer, max_length)
    return [batch for _, batch in sequential(examples, batch_size, padding_of(tokenizer, model))]


def sample(rows: Sequence[Row], most: int | None, rng: random.Random) -> list[Row]:
    """So many rows, drawn, in their order (a set may stand in the order of its classes); None: all of them."""
    most = len(rows) if most is None else min(most, len(rows))
    return [rows[n] for n in sorted(rng.sample(range(len(rows)), most))]


def _one_batch(mixture: MixtureModel, points: Points, batch: Batch, at_once: int) -> tuple[Tensor, int]:
    """Sums over a batch's rows `[metrics, N + marks]`, and the number of rows."""
    gold = batch["labels"]

    def log_p(start: int, stop: int) -> Iterator[Tensor]:
        for first in range(start, stop, at_once):
            logits = logits_at(mixture, batch, points.weights(first, min(first + at_once, stop)))
            yield logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    # the marks come first: all others are compared with them
    marks = torch.cat(list(log_p(len(points), len(points.coefficients))))
    references = marks[[points.marks.index(name) for name in points.references]]
    sums = [sums_of(each, gold, references) for each in log_p(0, len(points))]
    return torch.cat([*sums, sums_of(marks, gold, references)], -1).cpu(), len(gold)


def sums_of(log_p: Tensor, gold: Tensor, references: Tensor) -> Tensor:
    """Sums over rows of the four METRICS, `[4, K]`, float64.

    log_p: `[K, B, C]`; gold `[B]`; references `[R, B, C]`, log-probabilities too.
    """
    p = log_p.exp()
    loss = -log_p.gather(-1, gold.expand(len(log_p), -1).unsqueeze(-1)).squeeze(-1)
    right = log_p.argmax(-1) == gold
    entropy = -torch.where(p > 0, p * log_p, 0).sum(-1)
    divergence = torch.stack([(0.5 * (p - q.exp()) * (log_p - q)).sum(-1) for q in references]).mean(0)
    return torch.stack([value.double().sum(-1) for value in (loss, right, entropy, divergence)])


def digest_of(points: Points, batches: Sequence[Batch], dtype: str) -> str:
    """A short hash of what is asked: the points, the batches, the kind of numbers."""
    digest = hashlib.sha256(f"{points.kind}{points.marks}{points.references}{dtype}".encode())
    tensors = [*sorted(points.anchors.items()), ("coefficients", points.coefficients)]
    for name, tensor in [*tensors, *(item for batch in batches for item in sorted(batch.items()))]:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name}{list(tensor.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _begin(points: Points, batches: int, notes: dict[str, Any], store: Path | None, say: Say) -> Landscape:
    if store is None or not store.is_file():
        return empty_landscape(points, batches, notes)
    found = read_landscape(store)
    if found.notes.get("digest") != notes["digest"]:
        raise LabError(
            f"{store} holds another landscape (digest {found.notes.get('digest')}): expected {notes['digest']}, of "
            "these points, batches and numbers. Choose another file, or delete it."
        )
    if found.batches[0]:
        say(f"{store}: {found.batches[0]} of {batches} batches are done")
    return found


def check_batches(mixture: MixtureModel, batches: Sequence[Batch]) -> None:
    """Raises ValueError for no batches, batches without labels, and models of anything but classes."""
    if not batches:
        raise LabError("There are no batches: expected at least one with labels. Is the validation set empty?")
    if lacking := [n for n, batch in enumerate(batches) if "labels" not in batch]:
        raise LabError(f"Batch {lacking[0]} has no labels: expected rows with answers, which the loss is measured on.")
    if (kind := answer_kind(mixture.model)) != "classes":
        raise LabError(f"The model answers with {kind}: expected classes, one a row.")


def check_points(mixture: MixtureModel, anchors: Point) -> None:
    """Raises ValueError for stacked points `[A, ...]` that are not those of a model attached like this one."""
    own = point_of(mixture)
    for name, stacked in anchors.items():
        if name not in own or own[name].shape != stacked.shape[1:]:
            there = f"{list(own[name].shape)}" if name in own else "not there"
            raise LabError(
                f"The points do not fit the model: {name} is {list(stacked.shape[1:])}, in the model {there}. Expected "
                "points of models attached alike (same base, adaptation and sites)."
            )


def plane_coordinates(landscape: Landscape) -> tuple[Tensor, Tensor]:
    """Where points and marks are drawn: the two axes, or the place inside an equilateral triangle."""
    axes = list(landscape.axes.values())
    if landscape.kind != "simplex":
        return axes[0], axes[1]
    return axes[1] + axes[2] / 2, axes[2] * math.sqrt(3) / 2
