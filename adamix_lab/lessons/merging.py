"""Lesson 03: when the average of the weights is the average of the answers; mixtures of three experts in a triangle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, nll_loss

from adamix_lab.analysis.landscape import Landscape, evaluate_points, task_batches
from adamix_lab.analysis.plots import STYLES, Picture, despine, new_figure
from adamix_lab.analysis.points import Tensors, aligned, experts_of, permuted_copies, simplex
from adamix_lab.analysis.posterior import FixedBatches, fix_batches, fixed_experts, marginal
from adamix_lab.analysis.statistics import wilson
from adamix_lab.core.errors import LabError
from adamix_lab.core.merging import merge_gap, weighted
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.lessons import shared
from adamix_lab.lessons.answers import answers_of, changed_twin, spread
from adamix_lab.lessons.controls import described
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.world import World, draw_world, train_world, world_explorer
from adamix_lab.lessons.your_own import load_loras
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.shipped import load_twin, sentences

__all__ = ["aligned", "generator_for", "permuted_copies"]
__getattr__ = shared  # what all notebooks use

# -- in one dimension: which side is shared, and whether the merge lies on the mean of the routes --------------------


def draw_question() -> Picture:
    """Four experts that share the up projection, and their ensemble; where the merge lies is not drawn."""
    return draw_world(train_world(World(near=0.5)), "Where will the merge lie?", drawn="ensemble").picture


def sides_explorer() -> Explorer:
    """The widget of one dimension: each movement trains anew."""
    return world_explorer(**described("sides"))


# -- on MiniLM: the same question of one layer at a time -------------------------------------------------------------


def layer_gaps(rows: int = 16) -> dict[str, list[float]]:
    """`merge_gap` of trained experts at each of their sites, by what is shared and how the sides are drawn.

    The four tied LoRAs are looked at twice: drawn as the pairs that they were trained as, and each side on its own.
    """
    task = load_task("aspects")
    names = {
        "bottleneck, up shared, 300 steps": load_twin("adamix", 20, data="noisy"),
        "bottleneck, up shared, 1,400 steps": load_twin("adamix", 0),
        "bottleneck, down shared": load_twin("down", 20, data="noisy"),
        "bottleneck, nothing shared, tied": load_twin("unshared-tied", 20, data="noisy"),
        "LoRA, B shared": load_loras("adamix"),
        "LoRA, nothing shared, tied": load_loras("tied"),
        "the same LoRAs, sides drawn independently": load_loras("tied", tied=False),
    }
    found = {}
    for name, (mixture, tokenizer) in names.items():
        batch = tokenizer([str(row["sentence"]) for row in task.evaluation[:rows]], padding=True, return_tensors="pt")
        with torch.no_grad():
            found[name] = list(merge_gap(mixture, batch).values())
    return found


def draw_gaps(gaps: Mapping[str, Sequence[float]]) -> Picture:
    """A line a case, a mark a site: the distance of the merged output from the mean over routes, in % of the update."""
    figure, ax = new_figure(9.0, 3.6)
    told = {
        name: "exact" if max(values) < 1e-4 else f"up to {100 * max(values):.0f} %" for name, values in gaps.items()
    }
    for n, (name, values) in enumerate(gaps.items()):
        colour = STYLES["merged" if told[name] == "exact" else "apart"][0]
        ax.plot([100 * value for value in values], [n] * len(values), "o", markersize=9, color=colour)
    ax.set_yticks(range(len(gaps)), [f"{name}: {said}" for name, said in told.items()])
    ax.set(xlabel="distance from the mean of the routes (% of the update)", ylim=(len(gaps) - 0.5, -0.5))
    despine(ax)
    listed = "; ".join(f"{name}: {said}" for name, said in told.items())
    return Picture(figure, f"How far a merged layer is from the mean of its routes. {listed}.")


# -- on sentences, as scores: one number a row ------------------------------------------------------------------------


def tell_merge(name: str, change: Callable[[Tensors], Tensors], rows: int = 128) -> str:
    """The mean of the experts alone, the merge and the average of all routes, of adapters that were trained apart.

    change: what is done to their weights before.
    """
    mixture, tokenizer = changed_twin(change, "apart")
    answers = answers_of(mixture, load_task("aspects"), tokenizer, rows)
    alone, merged = answers.right[:, answers.fixed].mean(), answers.merged_right.mean()
    together = (marginal(answers.routes).argmax(-1) == answers.labels).float().mean()
    return (
        f"{name}: an expert alone {100 * float(alone):.1f} %, merged {100 * float(merged):.1f} %, all routes averaged "
        f"{100 * float(together):.1f} %"
    )


# -- the mixing triangle --------------------------------------------------------------------------------------------


CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(3) / 2))


@dataclass(frozen=True)
class Ground:
    """What stays the same while a point moves: the rows with their frozen prefix, and the loss over the triangle.

    Attributes:
        name: of the experts.
        fixed: the rows.
        measured: the loss over the triangle, with marks "expert 0", "expert 1", "expert 2" and "mean", the merge.
        ensemble: the loss of the three experts' averaged probabilities.
    """

    name: str
    fixed: FixedBatches
    measured: Landscape
    ensemble: float

    @property
    def alone(self) -> list[float]:
        """The loss of each of the three experts, in nats."""
        return [self.measured.at(f"expert {n}") for n in range(3)]


def prepare(
    mixture: MixtureModel, task: Task, tokenizer: Any, name: str = "", rows: int = 64, steps: int = 6
) -> Ground:
    """Measures the triangle of experts 0, 1, 2 on evaluation rows spread evenly over the set.

    Raises ValueError below three experts.
    """
    judged = spread(task, rows)
    fixed = fix_batches(mixture, judged, tokenizer, batch_size=rows)
    batches = task_batches(judged, tokenizer, batch_size=rows)
    measured = evaluate_points(mixture, simplex(experts_of(mixture, 3), steps), batches)
    together = marginal(fixed_experts(fixed).logits[:, :3])
    return Ground(name, fixed, measured, float(nll_loss(together, fixed.labels)))


class Mixed(NamedTuple):
    """A point of the triangle: normalised weights, loss in nats, accuracy as a share."""

    weights: tuple[float, ...]
    loss: float
    accuracy: float


def mixed(ground: Ground, first: float, second: float, third: float) -> Mixed:
    """The mixture at three weights, normalised. Raises ValueError where all are 0, or one is below."""
    given = (first, second, third)
    if min(given) < 0 or sum(given) <= 0:
        raise LabError(
            f"The weights {', '.join(f'{w:g}' for w in given)} are no mixture: expected at least one above 0 and none "
            "below. Raise one of the sliders."
        )
    weights, space = tuple(w / sum(given) for w in given), ground.fixed.mixture.space
    point = weighted(space, [*weights, *[0.0] * (space.experts - 3)])

    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        with cut_last_block(model.model, batch):
            return model(selection=point, **batch).logits  # type: ignore[no-any-return]

    logits, labels = ground.fixed.gather(answer), ground.fixed.labels
    loss = float(cross_entropy(logits, labels))
    return Mixed(weights, loss, float((logits.argmax(-1) == labels).float().mean()))


def draw_mixed(ground: Ground, state: Mixed, highest: float | None = None) -> View:
    """The triangle with its loss, the point in it, the merge, and the ensemble's loss on the colour scale.

    highest: loss at the end of the colour scale, which begins at 0, so that several triangles share one; None takes
        this one's own.
    """
    measured = ground.measured
    corners, losses = torch.tensor(CORNERS), measured.values("loss").flatten().float()
    top = highest or max(float(losses.max()), 1e-3)
    x, y = (measured.coefficients[: len(losses)].float() @ corners).T.numpy()
    figure, ax = new_figure(6.2, 4.2)
    levels = torch.linspace(0, top, 15).tolist()
    drawn = ax.tricontourf(x, y, losses.clamp(max=top).numpy(), levels=levels, cmap="cividis", extend="max")
    bar = figure.colorbar(drawn, ax=ax, label="loss (nats); diamond: the ensemble", format="%.2f")
    bar.ax.plot(0.5, ground.ensemble, STYLES["ensemble"][1], color=STYLES["ensemble"][0], markersize=9, clip_on=False)
    points = (
        ((1 / 3,) * 3, STYLES["merged"], f"merge {measured.at('mean'):.3f}"),
        (state.weights, ("#D55E00", "X"), f"your mixture {state.loss:.3f}"),
    )
    for weights, (colour, marker), label in points:
        place = (torch.tensor(weights) @ corners).tolist()
        ax.plot(*place, marker, color=colour, markersize=12, markeredgecolor="white", label=label, clip_on=False)
    for n, loss in enumerate(ground.alone):
        shift, side = ((10, -4), "left") if n == 2 else ((0, -16), "center")  # the legend is left of the apex
        ax.annotate(f"expert {n}: {loss:.3f}", CORNERS[n], shift, textcoords="offset points", ha=side)
    ax.set_axis_off()
    ax.set(aspect="equal", ylim=(-0.12, 1.0))
    ax.legend(frameon=False, loc="upper left", fontsize=10, bbox_to_anchor=(-0.12, 1.05))
    figure.set_layout_engine("none")  # nothing here changes its size: laying out would be half of the drawing
    ax.set_position((0.12, 0.02, 0.7, 0.93), which="both")
    ax.set_anchor("W")
    bar.ax.set_position((0.86, 0.03, 0.032, 0.93))
    rows = len(ground.fixed)
    lowest, most = (100 * share for share in wilson(state.accuracy, rows))
    readout = (
        f"Weights {', '.join(f'{100 * w:.0f}' for w in state.weights)} %: loss {state.loss:.3f} nats, accuracy "
        f"{100 * state.accuracy:.0f} % on {rows} rows (95 % interval {lowest:.0f} to {most:.0f}). The losses of the "
        f"experts alone are {', '.join(f'{loss:.3f}' for loss in ground.alone)}, that of the merge is "
        f"{measured.at('mean'):.3f}, of the ensemble {ground.ensemble:.3f}."
    )
    alt = (
        f"Triangle of mixtures of three experts ({ground.name}), coloured by loss, {float(losses.min()):.3f} to "
        f"{float(losses.max()):.3f} nats; the merge at its centre, a cross at your mixture. {readout}"
    )
    return View(readout, Picture(figure, alt))


def ground_of(twin: str = "apart", seed: int = 0, data: str = "aspects") -> Ground:
    """The triangle of shipped experts, on the rows that they are judged on."""
    mixture, tokenizer = load_twin(twin, seed, data=data)
    task = load_task("aspects") if data == "aspects" else sentences(data, seed)
    words = {"apart": "trained apart", "down": "down-projection shared", "noisy": "noisy sentences"}
    return prepare(mixture, task, tokenizer, f"{words.get(twin, twin)}, {words.get(data, data)}, seed {seed}")


def mixing_triangle(ground: Ground, highest: float | None = None) -> Explorer:
    """The widget of lesson 03; `highest` as in `draw_mixed`."""
    words = described("triangle")
    words["title"] += f": {ground.name}"
    return Explorer(**words, compute=partial(mixed, ground), draw=partial(draw_mixed, ground, highest=highest))
