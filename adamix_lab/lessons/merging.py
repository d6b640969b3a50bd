"""Lesson 03: mixtures of three experts in a triangle, and one function with many weights (`world`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from adamix_lab.analysis.landscape import evaluate_points, task_batches
from adamix_lab.analysis.plots import STYLES, Picture, new_figure
from adamix_lab.analysis.points import experts_of, inputs_of, simplex, try_cached_prefix
from adamix_lab.analysis.posterior import marginal
from adamix_lab.analysis.statistics import wilson
from adamix_lab.core.errors import LabError
from adamix_lab.core.merging import weighted
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.lessons.widgets import Explorer, Number, View
from adamix_lab.lessons.world import aligned as aligned
from adamix_lab.lessons.world import bottleneck_sites as bottleneck_sites
from adamix_lab.lessons.world import permuted_copies as permuted_copies
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.shipped import load_twin

# -- lesson 03: the mixing triangle -----------------------------------------------------------------------


CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(3) / 2))


@dataclass(frozen=True)
class Ground:
    """What stays the same while a point moves: the model above its cached prefix, and the loss over the triangle.

    Attributes:
        name: of the experts.
        top: the mixture from its first site on.
        batch: cached states with labels.
        places: `[N, 2]` of the points whose loss was measured beforehand.
        losses: `[N]`, nats.
        alone: the loss of each of the three experts.
        merged: the loss at the centre.
        ensemble: the loss of their averaged probabilities.
    """

    name: str
    top: MixtureModel
    batch: Batch
    places: Tensor
    losses: Tensor
    alone: tuple[float, ...]
    merged: float
    ensemble: float


def prepare(
    mixture: MixtureModel, task: Task, tokenizer: object, name: str = "", rows: int = 64, steps: int = 6
) -> Ground:
    """Measures the triangle of experts 0, 1, 2 on evaluation rows spread evenly over the set.

    Raises ValueError below three experts.
    """
    spread = task.evaluation[:: max(1, len(task.evaluation) // rows)][:rows]
    (batch,) = task_batches(replace(task, evaluation=spread), tokenizer, batch_size=rows)
    measured = evaluate_points(mixture, simplex(experts_of(mixture, 3), steps), [batch])
    shares = measured.coefficients[: -len(measured.marks)].float()
    with torch.no_grad(), evaluating(mixture):
        top, cache = try_cached_prefix(mixture)
        cached = cache(batch)
        passes = [answer(top, cached, vertex) for vertex in torch.eye(3).tolist()]
        logits = torch.stack(passes, 1)  # [rows, 3, C]
    ensemble = float(torch.nn.functional.nll_loss(marginal(logits), batch["labels"]))
    alone = tuple(float(torch.nn.functional.cross_entropy(logits[:, n], batch["labels"])) for n in range(3))
    losses = measured.values("loss").flatten().float()
    return Ground(name, top, cached, shares @ torch.tensor(CORNERS), losses, alone, measured.at("mean"), ensemble)


def answer(top: MixtureModel, cached: Batch, weights: list[float]) -> Tensor:
    """Logits `[rows, C]` of experts 0, 1, 2 mixed with three weights that sum to 1."""
    point = weighted(top.space, [*weights, *[0.0] * (top.space.experts - 3)])
    inputs = inputs_of(top, cached)
    with torch.no_grad(), cut_last_block(top.model, inputs):
        return top(selection=point, **inputs).logits  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Mixed:
    """A point of the triangle: normalised weights, loss in nats, accuracy as a share."""

    ground: Ground
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
    weights = tuple(w / sum(given) for w in given)
    logits, labels = answer(ground.top, ground.batch, list(weights)), ground.batch["labels"]
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    return Mixed(ground, weights, loss, float((logits.argmax(-1) == labels).float().mean()))


def draw_mixed(state: Mixed, highest: float | None = None) -> View:
    """The triangle with its loss, the point in it, the merge, and the ensemble's loss on the colour scale.

    highest: loss at the end of the colour scale, which begins at 0, so that several triangles share one; None takes
        this one's own.
    """
    ground = state.ground
    figure, ax = new_figure(6.2, 4.2)
    top = highest or float(ground.losses.max())
    levels = torch.linspace(0, max(top, 1e-3), 15).tolist()
    x, y = ground.places.T.numpy()
    drawn = ax.tricontourf(x, y, ground.losses.clamp(max=top).numpy(), levels=levels, cmap="cividis", extend="max")
    bar = figure.colorbar(drawn, ax=ax, label="loss (nats)", format="%.2f")
    bar.ax.plot([0.5], [ground.ensemble], marker=STYLES["ensemble"][1], color=STYLES["ensemble"][0], markersize=9)
    centre = (torch.full((3,), 1 / 3) @ torch.tensor(CORNERS)).tolist()
    here = (torch.tensor(state.weights) @ torch.tensor(CORNERS)).tolist()
    ax.plot(*centre, marker=STYLES["merged"][1], color=STYLES["merged"][0], markersize=11, markeredgecolor="white",
            linestyle="none", label=f"merge {ground.merged:.3f}")  # fmt: skip
    ax.plot([], [], marker=STYLES["ensemble"][1], color=STYLES["ensemble"][0], linestyle="none",
            label=f"ensemble {ground.ensemble:.3f} (on the scale)")  # fmt: skip
    ax.plot(*here, marker="X", color="#D55E00", markersize=13, markeredgecolor="white", linestyle="none",
            label=f"your mixture {state.loss:.3f}")  # fmt: skip
    for n, ((cx, cy), loss) in enumerate(zip(CORNERS, ground.alone, strict=True)):
        apex = n == 2  # its label stands to the right, for the legend is on the left
        ax.annotate(f"expert {n}: {loss:.3f}", (cx, cy), xytext=(10, -4) if apex else (0, -16),
                    textcoords="offset points", ha="left" if apex else "center")  # fmt: skip
    ax.set_axis_off()
    ax.set(aspect="equal", ylim=(-0.12, 1.0))
    ax.legend(frameon=False, loc="upper left", fontsize=8, bbox_to_anchor=(-0.12, 1.05))
    figure.set_layout_engine("none")  # nothing here changes its size: laying out would be half of the drawing
    ax.set_position((0.12, 0.02, 0.7, 0.93), which="both")
    ax.set_anchor("W")
    bar.ax.set_position((0.86, 0.03, 0.032, 0.93))
    rows = len(ground.batch["labels"])
    lowest, most = (100 * share for share in wilson(state.accuracy, rows))
    weights = ", ".join(f"{100 * w:.0f}" for w in state.weights)
    readout = (
        f"Weights {weights} %: loss {state.loss:.3f} nats, accuracy {100 * state.accuracy:.0f} % on {rows} rows (95 % "
        f"interval {lowest:.0f} to {most:.0f}). Alone the experts lose {', '.join(f'{a:.3f}' for a in ground.alone)}; "
        f"merged {ground.merged:.3f}; as an ensemble {ground.ensemble:.3f}."
    )
    alt = (
        f"Triangle of mixtures of three experts ({ground.name}), coloured by loss, {float(ground.losses.min()):.3f} to "
        f"{float(ground.losses.max()):.3f} nats. At the corners {', '.join(f'{a:.3f}' for a in ground.alone)}, at the "
        f"centre (the merge) {ground.merged:.3f}; ensemble {ground.ensemble:.3f}. The cross marks weights {weights} %: "
        f"{state.loss:.3f}."
    )
    return View(readout, Picture(figure, alt))


def ground_of(twin: str = "apart") -> Ground:
    """The triangle of a shipped twin."""
    mixture, tokenizer = load_twin(twin)
    return prepare(mixture, load_task("aspects"), tokenizer, f"{twin}, seed 0")


def mixing_triangle(ground: Ground, highest: float | None = None) -> Explorer:
    """The widget of lesson 03; `highest` as in `draw_mixed`."""
    centre = {"first": 1.0, "second": 1.0, "third": 1.0}
    corners = {f"expert {n}": {name: float(name == chosen) for name in centre} for n, chosen in enumerate(centre)}
    return Explorer(
        f"Mixing triangle: {ground.name}",
        "Find a mixture whose loss is above that of each expert alone. How far above can you get?",
        [
            Number(name, f"weight of expert {n}", 0.0, 1.0, 0.05, corners["expert 0"][name])
            for n, name in enumerate(centre)
        ],
        partial(mixed, ground),
        partial(draw_mixed, highest=highest),
        shown=centre,
        buttons={**corners, "centre": centre},
    )
