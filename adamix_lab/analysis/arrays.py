"""What a landscape is once measured: arrays with their axes, kept in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.points import Points
from adamix_lab.core.errors import unknown
from adamix_lab.core.files import read_tensors, write_tensors

METRICS = ("loss", "accuracy", "entropy", "consistency")


@dataclass(frozen=True)
class Landscape:
    """What was measured at N points and some marks, over the rows seen so far.

    Attributes:
        kind, shape, marks, references, axes, coefficients: of the points (see `Points`).
        sums: over rows (or target tokens), `[metrics, N + marks]`, float64.
        rows: how many rows (or target tokens) the sums hold.
        batches: (done, all).
        notes: digest, seed, configuration, versions.
    """

    kind: str
    shape: tuple[int, ...]
    marks: tuple[str, ...]
    references: tuple[str, ...]
    axes: dict[str, Tensor]
    coefficients: Tensor
    sums: Tensor
    rows: int
    batches: tuple[int, int]
    notes: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether every batch was seen."""
        return self.batches[0] == self.batches[1]

    def plus(self, sums: Tensor, rows: int) -> Landscape:
        """With the sums of one more batch."""
        done, every = self.batches
        return replace(self, sums=self.sums + sums, rows=self.rows + rows, batches=(done + 1, every))

    def values(self, metric: str = "loss") -> Tensor:
        """Means over rows at the N points, in the grid's shape. In nats, but for accuracy, which is a share.

        loss: negative log-likelihood; entropy: of the predictions; consistency: the distance of Eq. 5 (symmetric KL)
        to the reference marks, averaged over them. Raises ValueError for an unknown metric.
        """
        return self._all(metric)[: -len(self.marks)].reshape(self.shape)

    def at(self, mark: str, metric: str = "loss") -> float:
        """The mean at a marked point. Raises ValueError for an unknown mark or metric."""
        return float(self._all(metric)[self._row(mark)])

    def place(self, mark: str) -> tuple[float, ...]:
        """The coordinates of a marked point."""
        return tuple(float(axis[self._row(mark)]) for axis in self.axes.values())

    def above_chord(self, metric: str = "loss") -> Tensor:
        """How far each point lies above the mixture of the reference marks' values, in the grid's shape.

        On a line: the height above the chord; the barrier is the maximum. Raises ValueError for planes, whose points
        are no mixtures.
        """
        if self.kind not in ("line", "simplex", "square"):
            raise ValueError(
                f"A {self.kind} has no chord: expected a line, a simplex or a square, whose points mix the marks."
            )
        rows = [self._row(mark) for mark in self.references]
        above = self._all(metric) - self._shares() @ self._all(metric)[rows]
        return above[: -len(self.marks)].reshape(self.shape)

    def barrier(self, metric: str = "loss") -> float:
        """The greatest height above the chord between the marks (Frankle et al., 2020); 0 where it is never above."""
        above = self.above_chord(metric).flatten()
        between = (self._shares() >= -1e-9).all(-1)[: len(above)]
        return max(0.0, float(above[between].max()))

    def _shares(self) -> Tensor:
        # how much of each reference mark a point holds, `[N + marks, references]`
        return self.coefficients @ torch.linalg.pinv(self.coefficients[[self._row(mark) for mark in self.references]])

    def _row(self, mark: str) -> int:
        if mark not in self.marks:
            raise unknown("Mark", mark, self.marks)
        return len(self.coefficients) - len(self.marks) + self.marks.index(mark)

    def _all(self, metric: str) -> Tensor:
        if metric not in METRICS:
            raise unknown("Metric", metric, METRICS)
        return self.sums[METRICS.index(metric)] / max(1, self.rows)


def empty_landscape(points: Points, batches: int, notes: dict[str, Any]) -> Landscape:
    """Nothing seen yet."""
    sums = torch.zeros(len(METRICS), len(points.coefficients), dtype=torch.float64)
    return Landscape(
        points.kind, points.shape, points.marks, points.references, points.axes, points.coefficients, sums, 0,
        (0, batches), notes,
    )  # fmt: skip


def save_landscape(landscape: Landscape, path: Path) -> Path:
    """One safetensors file, replaced at one instant: arrays, and everything else as JSON in its metadata."""
    tensors = {f"axes.{n}": axis for n, axis in enumerate(landscape.axes.values())}
    tensors |= {"coefficients": landscape.coefficients, "sums": landscape.sums}
    about = {
        "kind": landscape.kind,
        "shape": landscape.shape,
        "marks": landscape.marks,
        "references": landscape.references,
        "axes": list(landscape.axes),
        "metrics": METRICS,
        "rows": landscape.rows,
        "batches": landscape.batches,
        "notes": landscape.notes,
    }
    write_tensors(path, tensors, {"landscape": json.dumps(about)})
    return path


def read_landscape(path: str | Path) -> Landscape:
    """A landscape as `save_landscape` wrote it, whole or begun. Raises ValueError for another kind of file."""
    from safetensors import safe_open

    tensors = read_tensors(Path(path))
    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {}).get("landscape", "{}"))
    if about.get("metrics") != list(METRICS) or "sums" not in tensors:
        raise ValueError(f"{path} holds no landscape: expected a file written by evaluate_points or save_landscape.")
    axes = {name: tensors[f"axes.{n}"] for n, name in enumerate(about["axes"])}
    done, every = about["batches"]
    return Landscape(
        about["kind"], tuple(about["shape"]), tuple(about["marks"]), tuple(about["references"]), axes,
        tensors["coefficients"], tensors["sums"], about["rows"], (done, every), about["notes"],
    )  # fmt: skip
