"""Lesson 05: what lies between experts. A segment in one dimension, lines, planes and simplices on real weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adamix_lab.analysis.landscape import Landscape, evaluate_points, read_landscape, task_batches
from adamix_lab.analysis.plots import Picture, despine, panels, plot_landscapes, style_of
from adamix_lab.analysis.points import Tensors, aligned, experts_of, line, permuted_copies
from adamix_lab.analysis.study import landscape_of
from adamix_lab.analysis.theory import barycentre
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import require_file
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.lessons import shared
from adamix_lab.lessons.answers import changed_twin, spread
from adamix_lab.lessons.controls import described
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.world import Curves, World, align, outputs, permute, train_world
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.shipped import load_twin

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["landscape_of"]
__getattr__ = shared  # what all notebooks use


def above_chord(t: Tensor, losses: Tensor) -> Tensor:
    """Heights `[N]` above the straight line between the ends' losses, at places t `[N]` from 0 to 1."""
    return losses - ((1 - t) * losses[0] + t * losses[-1])


def barrier(t: Tensor, losses: Tensor) -> float:
    """The greatest height above the chord; 0 where the loss is never above it (Frankle et al., 2020)."""
    return max(0.0, float(above_chord(t, losses).max()))


# -- in one dimension: a segment between two experts, whose curve bends as one goes along it ------------------


ORDERS: dict[str, Callable[[Curves], Tensors]] = {
    "as trained": lambda curves: curves.weights,
    "expert 1 permuted": lambda curves: permute(curves).weights,
    "expert 1 aligned": lambda curves: align(curves).weights,
    "a permuted copy of expert 0": lambda curves: permuted_copies(curves.weights, 0, generator_for(curves.world.seed)),
}
PLACES = torch.linspace(0, 1, 41)


@dataclass(frozen=True)
class Segment:
    """A place on the way between two experts of the one-dimensional world.

    Attributes:
        curves: the world they are from.
        order: one of ORDERS.
        t: the place, 0 at the first expert and 1 at the second.
        ends, here: the two experts' curves `[2, G]` and the curve at the place `[G]`.
        losses, loss: mean squared error on the rows at PLACES, and at the place.
    """

    curves: Curves
    order: str
    t: float
    ends: Tensor
    here: Tensor
    losses: Tensor
    loss: float


@lru_cache(maxsize=64)
def _apart(near: float) -> Curves:
    return train_world(World(shared=None, together=False, near=near))


def between(world: World, weights: Mapping[str, Tensor], places: Tensor, x: Tensor) -> Tensor:
    """Answers `[K, ...]` to x at places `[K]` on the way from expert 0 to expert 1, whose *weights* are mixed."""

    def at(t: Tensor) -> Tensor:
        mixed = {name: torch.lerp(stacked[:1], stacked[1:2], t) for name, stacked in weights.items()}
        return outputs(world, mixed, x[None], None)[0]

    with torch.no_grad():
        return torch.stack([at(t) for t in places])


def segment(t: float, near: float, order: str) -> Segment:
    """The state of the widget: two adapters trained apart, `near` the distance of their starts."""
    curves = _apart(near)
    x, y = curves.rows
    places = torch.cat([PLACES, torch.tensor([t])])
    answers = between(curves.world, ORDERS[order](curves), places, torch.cat([curves.grid, x]))
    shown, given = answers[:, : len(curves.grid)], answers[:, len(curves.grid) :]
    losses = (given - y).square().mean(-1)
    return Segment(curves, order, t, shown[[0, -2]], shown[-1], losses[:-1], float(losses[-1]))


def draw_segment(state: Segment) -> View:
    """Left the two experts' curves and the one on the way; right the loss along it, the chord and the barrier."""
    figure, (left, right) = panels(2, 9.4, 3.9)
    x, (rows, y), mixed = state.curves.grid, state.curves.rows, style_of("merged")[0]
    left.plot(rows, y, "o", color="#BBBBBB", markersize=5, label="rows")
    for n, (curve, dashes) in enumerate(zip(state.ends, ("-", "--"), strict=True)):
        left.plot(x, curve, color=style_of("fixed")[0], linestyle=dashes, linewidth=1.8, label=f"expert {n}")
    left.plot(x, state.here, color=mixed, linewidth=3.5, label=f"weights mixed, t = {state.t:.2f}")
    left.set(ylim=(-3, 3), xlabel="x", ylabel="answer")
    height = barrier(PLACES, state.losses)
    right.plot(PLACES, state.losses, color=mixed, linewidth=3)
    right.plot([0, 1], state.losses[[0, -1]], ":", color="black", label="chord")
    top = int(above_chord(PLACES, state.losses).argmax())
    if height:
        right.plot([PLACES[top]] * 2, [state.losses[top] - height, state.losses[top]], color=style_of("apart")[0],
                   linewidth=5, alpha=0.5, label=f"barrier {height:.2f}")  # fmt: skip
    right.plot(state.t, state.loss, "o", color=mixed, markersize=12, markeredgecolor="white", clip_on=False)
    right.set(ylim=(0, max(1.0, 1.1 * float(state.losses.max()))), xlabel="t: from expert 0 to expert 1")
    right.set_ylabel("squared error on the rows")
    for ax in (left, right):
        despine(ax)
        ax.legend(frameon=False, fontsize=10, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    start, end = state.losses[[0, -1]].tolist()
    readout = (
        f"Units {state.order}: the experts' errors are {start:.2f} and {end:.2f}, and that of their mixture at t = "
        f"{state.t:.2f} is {state.loss:.2f}. The barrier above the chord is {height:.2f}."
    )
    alt = f"Curves of two experts and of their mixed weights over the rows, and the error along the way. {readout}"
    return View(readout, Picture(figure, alt))


def segment_explorer() -> Explorer:
    """The widget of lesson 05."""
    return Explorer(**described("segment"), compute=segment, draw=draw_segment)


# -- the student's own AdaMix, small enough to train in a second ----------------------------------------------


def small_adamix(layer: Callable[[int], Any], step: Callable[..., float], start: float) -> tuple[Any, ...]:
    """Trains the program's layer on two classes of points, 300 steps: what `line` takes, (model, layers, x, labels).

    layer, step: pieces of the program. start: how many times as large as the layer's own the experts' first weights
    are; they are drawn independently, so it is how far apart they begin.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = 4 * torch.rand(200, 1) - 2
        labels = (torch.sin(2.5 * x[:, 0]) > 0).long()
        below, own = nn.Linear(1, 16).requires_grad_(False), layer(16)
        own.A.data *= start
        model = nn.Sequential(below, nn.Tanh(), own, nn.Linear(16, 2))
        optimiser = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], lr=0.02)
        for _ in range(300):
            step(model, [own], x, labels, optimiser)
    return model, [own], x, labels


# -- on language ----------------------------------------------------------------------------------------------

SETS: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {  # name: (twin, what is done to its experts)
    "adamix": ("adamix", dict),  # nothing
    "apart": ("apart", dict),
    "aligned (apart)": ("apart", aligned),
    "one start (apart)": ("apart-same-start", dict),
    "permuted copies": ("apart", lambda tensors: permuted_copies(tensors, 0, generator_for(0))),
}
SEED = 20


def scan(name: str, steps: int = 21, rows: int = 64) -> Landscape:
    """Losses on the way from expert 0 to expert 1 of one of the SETS, each of them trained on noisy sentences.

    rows: of the 1,000 fresh ones, spread evenly. Raises ValueError for another set.
    """
    one_of("set of experts", name, SETS)
    twin, change = SETS[name]
    mixture, tokenizer = changed_twin(change, twin, SEED, "noisy")
    return evaluate_points(mixture, line(experts_of(mixture, 2), steps), fresh_batches(tokenizer, rows))


def fresh_batches(tokenizer: Any, rows: int) -> list[Batch]:
    """So many of the 1,000 fresh sentences, spread evenly: they stand in the order of their classes."""
    return task_batches(spread(load_task("subjectivity", part="fresh"), rows), tokenizer)


def gaps(twins: Mapping[str, str], rows: int = 16) -> DataFrame:
    """The merge's loss minus the ensemble's, what the second-order expansion says of it, and the residual, in nats.

    twins: of those that learned noisy sentences, by the name of a line.
    """
    import pandas as pd

    found = {}
    for name, twin in twins.items():
        mixture, tokenizer = load_twin(twin, SEED, data="noisy")
        gap = barycentre(mixture, fresh_batches(tokenizer, rows))
        found[name] = gap.row() | {"residual": gap.measured - gap.estimate}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("experts")


def stored(kind: str, twins: Sequence[str]) -> Picture:
    """Shipped landscapes of a kind on one colour scale.

    Raises FileNotFoundError for a missing one, with the command that makes it.
    """
    found = {}
    for twin in twins:
        path = data_root() / "results" / "landscape" / f"{kind}-{twin}.safetensors"
        command = f"adamix-lab landscape {twin} --kind {kind} --evaluation-rows 256 --out data/results/landscape"
        found[twin] = read_landscape(require_file(path, f"a measured landscape. `{command}` makes it."))
    return plot_landscapes(found)
