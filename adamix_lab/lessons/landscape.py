"""Lesson 05: the landscape viewer. Two sets of experts side by side, a segment between two of them, its barrier."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adamix_lab.analysis.pictures_landscapes import style_of
from adamix_lab.analysis.plots import Picture
from adamix_lab.lessons.controls import Steps
from adamix_lab.lessons.faces import Faces, above_chord, barrier, edge, face, load_faces, place_of
from adamix_lab.lessons.frame import Explorer, View
from adamix_lab.lessons.triangle import CORNERS
from adamix_lab.training.twins import SEEDS, TWINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    there = [(twin, seed) for seed in seeds for twin in TWINS if _there(twin, seed, read)]
    losses = torch.cat([read(twin, seed).losses.mean(0) for twin, seed in there])
    return float(losses.min()), float(losses.quantile(0.98)), float(losses.max())


def _there(twin: str, seed: int, read: Read) -> bool:
    try:
        read(twin, seed)
    except FileNotFoundError:
        return False
    return True


def highest_pair(twin: str, seed: int, read: Read = load_faces) -> str:
    """The pair with the greatest barrier."""
    return max(PAIRS, key=lambda pair: side_of(twin, seed, (*PAIRS[pair], 0), read).barrier)


def draw_viewed(state: Viewed) -> View:
    """Two triangles on one colour scale; beside them the losses along the segment, with chords and barriers."""
    figure, (left, middle, right) = _panels()
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
    ax.set_xlim(-0.12, 1.12)
    ax.set_ylim(-0.24, 1.1)
    ax.set_aspect("equal")
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
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def _corners(side: Side) -> list[float]:
    # losses of the three experts alone
    return [float(side.losses[side.weights[:, n].argmax()]) for n in range(3)]


def _panels() -> tuple[Figure, tuple[Axes, Axes, Axes]]:
    # placed by hand: a layout that is computed takes longer than all that is drawn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), facecolor="white")
    FigureCanvasAgg(figure)
    places = ((0.01, 0.02, 0.25, 0.86), (0.27, 0.02, 0.25, 0.86), (0.66, 0.16, 0.33, 0.76))
    left, middle, right = (figure.add_axes(place) for place in places)
    return figure, (left, middle, right)


def seeds_there() -> tuple[int, ...]:
    """The seeds for which AdaMix and a twin were measured. Raises FileNotFoundError, with the command, for none."""
    seeds = tuple(seed for seed in SEEDS if all(place_of(twin, seed).is_file() for twin in ("adamix", OTHERS[0])))
    if not seeds:
        load_faces("adamix", SEEDS[0])  # says what is missing and what makes it
    return seeds


def landscape_viewer() -> Explorer:
    """The widget of lesson 05, over losses that were measured beforehand."""
    seeds = seeds_there()
    pairs = tuple(PAIRS)
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
