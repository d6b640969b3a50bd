"""Lesson 05: the landscape viewer. Two sets of experts side by side, a segment between two of them, its barrier."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adamix_lab.analysis.landscape import Landscape, read_landscape
from adamix_lab.analysis.plots import Picture, despine, new_figure, panels, plot_curvature, plot_landscapes, style_of
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.analysis.study import landscape_of
from adamix_lab.analysis.theory import expert_similarity
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import read_record, require_file
from adamix_lab.core.views import Batch
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.merging import CORNERS
from adamix_lab.lessons.widgets import Explorer, Steps, View, mark_prediction
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.doctor import device_name
from adamix_lab.training.shipped import SEEDS, TWINS, load_twin

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# -- lesson 05: losses over the four faces of each tetrahedron of experts, measured once --------------------
# Four experts span a tetrahedron: experts at the corners, pairs on its edges, triples on its faces, the merge inside.
# `python data/lessons/make.py landscapes` measures its surface and the merge row by row, for each twin and seed.


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


def place_of(twin: str, seed: int, folder: Path | None = None) -> Path:
    """The file of a twin: `data/lessons/landscape/adamix-seed0.safetensors`. Raises ValueError for an unknown twin."""
    one_of("Twin", twin, TWINS)
    return (folder or data_root() / "lessons" / "landscape") / f"{twin}-seed{seed}.safetensors"


@lru_cache(maxsize=64)
def load_faces(twin: str, seed: int = 0, folder: Path | None = None) -> Faces:
    """What was measured of a twin.

    Raises ValueError for an unknown twin, FileNotFoundError where its file is not there, with what makes it.
    """
    expected = f"the losses between the experts of seeds {', '.join(map(str, SEEDS))}."
    made = f"{expected} `python data/lessons/make.py landscapes` makes them."
    kept, notes = read_record(require_file(place_of(twin, seed, folder), made), "notes", made)
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


# -- lesson 05: the shipped plane with its origin beside one made now; heights by number averaged; stored pictures ---


COMMAND = "adamix-lab landscape {twin} --kind {kind} --evaluation-rows 256 --out data/results/landscape"
ON_A_GPU = "adamix-lab landscape {twin} --kind plane --evaluation-rows 256 --points 51 --out data/results/landscape/gpu"
COMMITTED = "committed on 2026-11-21"  # arrays of that day hold no date of their own


@dataclass(frozen=True)
class Shipped:
    """A measured plane and where it comes from, in words."""

    plane: Landscape
    origin: str


def origin_of(plane: Landscape, command: str) -> str:
    """Points, rows, device, date and command of a measured landscape."""
    size = " x ".join(map(str, plane.shape))
    device = plane.notes.get("versions", {}).get("device", plane.notes.get("device", "unknown"))
    date = plane.notes.get("date", COMMITTED)
    return f"{size} points, {plane.rows} rows; device: {device}; date: {date}; command: {command}"


def shipped_plane(twin: str = "adamix", folder: Path | None = None) -> Shipped:
    """The plane measured on a GPU where one is stored, else the one measured on a CPU; its origin says which.

    A GPU's array belongs into `data/results/landscape/gpu`. Raises FileNotFoundError, with the command, for neither.
    """
    folder = folder or data_root() / "results" / "landscape"
    large, small = (place / f"plane-{twin}.safetensors" for place in (folder / "gpu", folder))
    if large.is_file():
        plane = read_landscape(large)
        return Shipped(plane, origin_of(plane, ON_A_GPU.format(twin=twin)))
    command = COMMAND.format(twin=twin, kind="plane")
    plane = read_landscape(require_file(small, f"a measured plane. `{command}` makes it."))
    none = (
        f"No plane from a GPU is stored (in {folder.name}/gpu): none has been measured. This makes a larger one on a "
        f"GPU: {ON_A_GPU.format(twin=twin)}"
    )
    return Shipped(plane, f"{origin_of(plane, command)}.\n{none}")


def beside_now(twin: str = "adamix", steps: int = 11, rows: int = 64) -> Picture:
    """The shipped plane and one of the same call made now, on one colour scale; prints where each comes from."""
    shipped = shipped_plane(twin)
    start = time.perf_counter()
    now = landscape_of(twin, "plane", steps=steps, rows=rows, device="cpu")
    seconds = time.perf_counter() - start
    print(f"Left, shipped: {shipped.origin}.")
    print(f"Right, made now: {steps} x {steps} points, {rows} rows; {device_name()}; {seconds:.0f} s.")
    return plot_landscapes({f"{twin}, shipped": shipped.plane, f"{twin}, made now": now})


def stored(kind: str, twins: Sequence[str]) -> Picture:
    """Shipped landscapes of a kind on one colour scale.

    Raises FileNotFoundError for a missing one, with the command that makes it.
    """
    found = {}
    for twin in twins:
        path = data_root() / "results" / "landscape" / f"{kind}-{twin}.safetensors"
        command = COMMAND.format(twin=twin, kind=kind)
        found[twin] = read_landscape(require_file(path, f"a measured landscape. `{command}` makes it."))
    return plot_landscapes(found)


def curvatures() -> Picture:
    """The stored table of curvature at merges, drawn.

    Raises FileNotFoundError where it is missing, with the command that makes it.
    """
    path = data_root() / "results" / "landscape" / "theory.json"
    require_file(path, f"a study. `python {path.with_suffix('.py')}` makes it.")
    return plot_curvature(json.loads(path.read_text(encoding="utf-8"))["curvature"])


def likeness(twin: str, batch: Batch) -> dict[str, float]:
    """Means over sites and pairs of what `expert_similarity` measures, by side and measure, on a batch."""
    by_name = defaultdict[str, list[float]](list)
    for row in expert_similarity(load_twin(twin)[0], batch):
        by_name[f"{row['measure']} {row['side']}".strip()].append(row["value"])
    return {name: statistics.fmean(values) for name, values in by_name.items()}


NAMES = {2: "the middle of two", 3: "the middle of three", 4: "the middle of all four"}
Heights = dict[str, dict[int, list[float]]]  # twin, number of experts averaged, nats above their mean, one a seed


def heights(rows: Sequence[Mapping[str, str]] | None = None) -> Heights:
    """Read from the rows of lesson 05's effect table; None takes the committed one."""
    rows = effects_table("05", "above their mean loss").rows if rows is None else rows
    by_name = {row["effect"]: [float(value) for value in row["by_seed"].split()] for row in rows}
    return {
        twin: {size: by_name[f"{twin}: {name} above their mean loss"] for size, name in NAMES.items()} for twin in TWINS
    }


def draw_heights(found: Heights, predicted: float | None = None) -> Picture:
    """Height of an average above the mean of its experts, against how many are averaged; each seed a small marker.

    predicted: nats that the learner expects of four adapters trained apart.
    """
    figure, ax = new_figure(7.4, 3.9)
    told = []
    for n, (twin, by_size) in enumerate(found.items()):
        colour, marker = style_of(twin)
        shift = 0.05 * (n - (len(found) - 1) / 2)
        at = {size + shift: values for size, values in by_size.items()}
        for x, values in at.items():
            ax.plot([x] * len(values), values, color=colour, marker=marker, markersize=4, linestyle="none", alpha=0.5)
        means = map(statistics.fmean, at.values())
        ax.plot([1, *at], [0, *means], color=colour, marker=marker, markersize=9, label=twin)
        listed = ", ".join(f"{size}: {format_interval(values, 3)}" for size, values in by_size.items())
        told.append(f"{twin} {listed}")
    ax.set(xticks=[1, 2, 3, 4], xlabel="experts averaged", ylabel="loss above the mean of these experts (nats)")
    despine(ax)
    ax.legend(frameon=False, loc="upper left", fontsize=9)
    seeds = len(next(iter(next(iter(found.values())).values())))
    alt = (
        f"Height of averaged experts above the mean of their losses in nats, by how many are averaged, mean and 95 % "
        f"interval over {seeds} seeds, each seed a small marker. {'; '.join(told)}."
    )
    return Picture(figure, mark_prediction(ax, alt, predicted, "nats", axis="y"))


PAIRS = {f"{first} - {second}": (first, second) for first, second in itertools.combinations(range(4), 2)}
OTHERS = ("apart", "unshared-tied", "no-consistency")
GOAL = 0.15
Read = Callable[[str, int], Faces]  # twin, seed


@dataclass(frozen=True)
class Side:
    """One set of experts, seen from a segment.

    Attributes:
        name: of the twin.
        weights: `[N, 3]` of the segment's two experts and a third, over their face.
        losses: `[N]`, nats.
        t, along: places on the segment and the losses there, `[S]` each.
        rows: that the losses are means over.
    """

    name: str
    weights: Tensor
    losses: Tensor
    t: Tensor
    along: Tensor
    rows: int

    @property
    def top(self) -> int:
        """The number of the place that is highest above the chord."""
        return int(above_chord(self.t, self.along).argmax())

    @property
    def barrier(self) -> float:
        """Its height in nats, at least 0."""
        return barrier(self.t, self.along)


@dataclass(frozen=True)
class Viewed:
    """A state of the viewer: two sides with the same experts; scale: lowest, end of the colours, highest, in nats."""

    sides: tuple[Side, Side]
    experts: tuple[int, int, int]
    seed: int
    scale: tuple[float, float, float]


def side_of(name: str, seed: int, experts: tuple[int, int, int], read: Read = load_faces) -> Side:
    """The face of three experts, and the segment between the first two."""
    stored = read(name, seed)
    return Side(name, *face(stored, experts), *edge(stored, *experts[:2]), len(stored.losses))


def viewed(
    other: str, pair: str, seed: int, scale: tuple[float, float, float] | None = None, read: Read = load_faces
) -> Viewed:
    """AdaMix and another twin. The third corner is the first expert that the pair leaves over."""
    first, second = PAIRS[pair]
    third = next(n for n in range(4) if n not in (first, second))
    experts = (first, second, third)
    sides = (side_of("adamix", seed, experts, read), side_of(other, seed, experts, read))
    return Viewed(sides, experts, seed, scale or scale_of(seed, read=read))


def scale_of(*seeds: int, read: Read = load_faces) -> tuple[float, float, float]:
    """The lowest stored loss, 98 % of them (where the colours end), the highest: one scale for every state."""
    found = []
    for twin, seed in itertools.product(TWINS, seeds):
        with suppress(FileNotFoundError):
            found.append(read(twin, seed).losses.mean(0))
    losses = torch.cat(found)
    return float(losses.min()), float(losses.quantile(0.98)), float(losses.max())


def highest_pair(twin: str, seed: int, read: Read = load_faces) -> str:
    """The pair with the greatest barrier."""
    return max(PAIRS, key=lambda pair: side_of(twin, seed, (*PAIRS[pair], 0), read).barrier)


def draw_viewed(state: Viewed) -> View:
    """Two triangles on one colour scale; beside them the losses along the segment, with chords and barriers."""
    figure, (left, middle, right) = panels(3, 9.6, 3.4)
    figure.set_layout_engine(None)  # placed by hand: a layout that is computed takes longer than all that is drawn
    left.set_position((0.01, 0.02, 0.25, 0.86))
    middle.set_position((0.27, 0.02, 0.25, 0.86))
    right.set_position((0.66, 0.16, 0.33, 0.76))
    for ax, side in zip((left, middle), state.sides, strict=True):
        _draw_face(ax, side, state)
    _draw_segment(right, state)
    first, second, third = state.experts
    told = "; ".join(f"{side.name} {side.barrier:.3f} at {float(side.t[side.top]):.2f}" for side in state.sides)
    over = [side.name for side in state.sides if side.barrier > GOAL]
    readout = (
        f"Seed {state.seed}, from expert {first} (0) to expert {second} (1), {state.sides[0].rows} rows. Barrier above "
        f"the chord, in nats: {told}. Over {GOAL:g}: {', '.join(over) or 'neither'}."
    )
    faces = "; ".join(
        f"{side.name}: experts {', '.join(f'{loss:.3f}' for loss in _corners(side))}, over the face "
        f"{float(side.losses.min()):.3f} to {float(side.losses.max()):.3f}"
        for side in state.sides
    )
    alt = (
        f"Loss over two triangles of experts {first}, {second}, {third}, seed {state.seed}, on one colour scale from "
        f"{state.scale[0]:.2f} to {state.scale[1]:.2f} nats. {faces}. Along the segment from {first} to {second} the "
        f"barriers above the chord are: {told}."
    )
    return View(readout, Picture(figure, alt))


def _draw_face(ax: Axes, side: Side, state: Viewed) -> None:
    x, y = (side.weights.float() @ torch.tensor(CORNERS)).T.numpy()
    low, high, _ = state.scale
    drawn = ax.tripcolor(x, y, side.losses.numpy(), shading="gouraud", cmap="cividis", vmin=low, vmax=high)
    colour, _ = style_of(side.name)
    ax.plot([0, 1], [0, 0], color=colour, linewidth=3, clip_on=False)
    for n, ((cx, cy), expert, loss) in enumerate(zip(CORNERS, state.experts, _corners(side), strict=True)):
        ax.annotate(f"expert {expert}\n{loss:.3f}", (cx, cy), xytext=(0, 3 if n == 2 else -26),
                    textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    ax.set_title(side.name, fontsize=11, y=1.0)  # without y, its place is sought: a fifth of the drawing
    ax.set(xlim=(-0.12, 1.12), ylim=(-0.24, 1.1), aspect="equal")
    ax.set_axis_off()
    if side is state.sides[1]:
        place = ax.figure.add_axes((0.535, 0.2, 0.012, 0.6))
        ax.figure.colorbar(drawn, cax=place, extend="max")
        place.set_title("loss\n(nats)", fontsize=8, y=1.05)
        place.tick_params(labelsize=8)


def _draw_segment(ax: Axes, state: Viewed) -> None:
    for side in state.sides:
        colour, marker = style_of(side.name)
        t, along = side.t.numpy(), side.along.numpy()
        ax.plot(t, along, color=colour, marker=marker, markersize=5, label=f"{side.name}: barrier {side.barrier:.3f}")
        ax.plot([0, 1], [along[0], along[-1]], color=colour, linestyle=":", linewidth=1.2)
        if side.barrier > 0:
            top = along[side.top]
            ax.plot([t[side.top]] * 2, [top - side.barrier, top], color=colour, linewidth=4, alpha=0.35)
    first, second, _ = state.experts
    ax.set_ylim(0, 1.25 * state.scale[2])  # room for the legend, and equal in every state
    ax.set_xlabel(f"from expert {first} (0) to expert {second} (1); dotted: chord", fontsize=9)
    ax.set_ylabel("loss (nats)", fontsize=9)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    despine(ax)


def _corners(side: Side) -> list[float]:
    # losses of the three experts alone
    return [float(side.losses[side.weights[:, n].argmax()]) for n in range(3)]


def seeds_there() -> tuple[int, ...]:
    """The seeds for which AdaMix and a twin were measured. Raises FileNotFoundError, with the command, for none."""
    seeds = tuple(seed for seed in SEEDS if all(place_of(twin, seed).is_file() for twin in ("adamix", OTHERS[0])))
    if not seeds:
        load_faces("adamix", SEEDS[0])  # says what is missing and what makes it
    return seeds


def landscape_viewer() -> Explorer:
    """The widget of lesson 05, over losses that were measured beforehand."""
    seeds, pairs = seeds_there(), tuple(PAIRS)
    return Explorer(
        "Landscape viewer",
        f"Find a segment with a barrier over {GOAL:g} nats. Then find the highest on AdaMix, over pairs and seeds.",
        [
            Steps("other", "beside AdaMix", OTHERS, OTHERS[0]),
            Steps("pair", "segment between experts", pairs, pairs[0]),
            Steps("seed", "seed", seeds, seeds[0]),
        ],
        partial(viewed, scale=scale_of(*seeds)),
        draw_viewed,
        shown={"other": OTHERS[0], "pair": highest_pair(OTHERS[0], seeds[0]), "seed": seeds[0]},
    )
