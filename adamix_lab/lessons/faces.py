"""Lesson 05: what the landscape viewer reads. Losses over the four faces of each tetrahedron of experts, measured once.

Four experts span a tetrahedron: experts at the corners, pairs on its edges, triples on its faces, the merge inside.
`adamix-lab lesson-landscapes` measures its surface and the merge row by row, for each shipped twin and seed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.kinds import experts_of
from adamix_lab.analysis.points import anchored, simplex
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import read_tensors, write_tensors
from adamix_lab.core.model import MixtureModel
from adamix_lab.lessons.between import losses_of_rows, random_points
from adamix_lab.tasks.tasks import Task, data_root, load_task
from adamix_lab.training.doctor import versions
from adamix_lab.training.twins import SEEDS, TWINS, load_twin

STEPS = 6  # halves and thirds are on the grid: the middles of edges and faces are points of it
ROWS = 256  # of the evaluation set, as in data/results/landscape


@dataclass(frozen=True)
class Faces:
    """Losses between four experts.

    Attributes:
        weights: of the experts at each point, `[N, 4]`: the surface, and the mean of all four at last.
        losses: `[rows, N]`, nats.
        random: `[rows, R]`, R / 4 random directions from each expert, as far as the middles of its edges.
        notes: twin, seed, versions.
    """

    weights: Tensor
    losses: Tensor
    random: Tensor
    notes: dict[str, Any]

    def at(self, group: Sequence[int]) -> Tensor:
        """The losses where the weights of a group of experts are averaged, `[rows]`."""
        mean = torch.zeros(4)
        mean[list(group)] = 1 / len(group)
        apart = (self.weights - mean).abs().amax(1)
        return self.losses[:, int(apart.argmin())]

    def height(self, size: int) -> Tensor:
        """Averages of so many experts above the mean of those experts' losses, `[rows, groups of that size]`.

        For two it is the height of a segment's middle above its chord.
        """
        groups = list(itertools.combinations(range(4), size))
        return torch.stack([self.at(g) - torch.stack([self.at((n,)) for n in g]).mean(0) for g in groups], 1)

    def random_rise(self) -> Tensor:
        """In random directions, above the expert they start from, `[rows, R]`."""
        experts = torch.stack([self.at((n,)) for n in range(4)], 1)
        return self.random - experts.repeat_interleave(self.random.shape[1] // 4, 1)

    def toward_rise(self) -> Tensor:
        """The middle of a segment above an end of it, `[rows, 12]`."""
        return torch.stack([self.at(pair) - self.at(pair[:1]) for pair in itertools.permutations(range(4), 2)], 1)


def measure_faces(mixture: MixtureModel, task: Task, tokenizer: Any, seed: int = 0, rows: int | None = ROWS) -> Faces:
    """Measures a mixture of four experts. Raises ValueError for fewer."""
    experts = experts_of(mixture, 4)
    whole = simplex(experts, STEPS)
    outside = (whole.coefficients == 0).any(-1)
    outside[-1] = True  # the mean
    outside[-5:-1] = False  # the corners once more
    shares = whole.coefficients[outside].float()
    between = {name: torch.tensordot(shares.to(w), w, dims=1) for name, w in whole.anchors.items()}
    away = anchored(random_points(list(experts.values()), seed))
    points = {name: torch.cat([between[name], away[name]]) for name in between}
    losses = losses_of_rows(mixture, task, tokenizer, points, rows)
    return Faces(shares, losses[:, : len(shares)], losses[:, len(shares) :], {"seed": seed, "versions": versions()})


def place_of(twin: str, seed: int, folder: Path | None = None) -> Path:
    """The file of a twin: `data/lessons/landscape/adamix-seed0.safetensors`. Raises ValueError for an unknown twin."""
    one_of("Twin", twin, TWINS)
    return (folder or data_root() / "lessons" / "landscape") / f"{twin}-seed{seed}.safetensors"


def make_faces(
    folder: Path | None = None,
    twins: Sequence[str] = tuple(TWINS),
    seeds: Sequence[int] = SEEDS,
    rows: int | None = ROWS,
    say: Callable[[str], None] = print,
) -> None:
    """Measures what is not there yet and writes it in float16; a killed command goes on after the last file."""
    task = load_task("aspects")
    for seed in seeds:
        for twin in twins:
            path = place_of(twin, seed, folder)
            if path.is_file():
                say(f"{twin}, seed {seed}: already there")
                continue
            found = measure_faces(*_with_task(twin, seed, task), seed, rows)
            numbers = {"weights": found.weights, "losses": found.losses.half(), "random": found.random.half()}
            write_tensors(path, numbers, {"notes": json.dumps({"twin": twin, **found.notes})})
            say(f"{twin}, seed {seed}: {len(found.weights)} points, {len(found.losses)} rows")


def _with_task(twin: str, seed: int, task: Task) -> tuple[MixtureModel, Task, Any]:
    mixture, tokenizer = load_twin(twin, seed)
    return mixture, task, tokenizer


@lru_cache(maxsize=64)
def load_faces(twin: str, seed: int = 0, folder: Path | None = None) -> Faces:
    """What was measured of a twin.

    Raises ValueError for an unknown twin, FileNotFoundError where its file is not there, with what makes it.
    """
    from safetensors import safe_open

    path = place_of(twin, seed, folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: expected the losses between the experts of seeds {', '.join(map(str, SEEDS))}. "
            "`adamix-lab lesson-landscapes` makes them."
        )
    kept = read_tensors(path)
    with safe_open(path, "pt") as file:
        notes = json.loads((file.metadata() or {}).get("notes", "{}"))
    return Faces(kept["weights"], kept["losses"].float(), kept["random"].float(), notes)


def face(faces: Faces, experts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(weights `[N, k]` of some experts, mean losses `[N]`) at the points where no other expert has a part."""
    others = [n for n in range(4) if n not in experts]
    on = (faces.weights[:, others] == 0).all(-1)
    return faces.weights[on][:, list(experts)], faces.losses[:, on].mean(0)


def edge(faces: Faces, first: int, second: int) -> tuple[Tensor, Tensor]:
    """(t from 0 at the first expert to 1 at the second, mean losses) along a segment, `[7]` each, in order."""
    weights, losses = face(faces, (first, second))
    order = weights[:, 1].argsort()
    return weights[order, 1], losses[order]


def above_chord(t: Tensor, losses: Tensor) -> Tensor:
    """Heights `[N]` above the straight line between the ends' losses, at places t `[N]` from 0 to 1."""
    return losses - ((1 - t) * losses[0] + t * losses[-1])


def barrier(t: Tensor, losses: Tensor) -> float:
    """The greatest height above the chord, in nats; 0 where the loss is never above it (Frankle et al., 2020)."""
    return max(0.0, float(above_chord(t, losses).max()))
