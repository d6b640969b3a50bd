"""Lesson 03: when the average of the weights is the average of the answers; mixtures of three experts in a triangle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from adamix_lab.analysis.landscape import evaluate_points, task_batches
from adamix_lab.analysis.plots import STYLES, Picture, despine, new_figure
from adamix_lab.analysis.points import experts_of, inputs_of, simplex, try_cached_prefix
from adamix_lab.analysis.posterior import marginal
from adamix_lab.analysis.statistics import wilson
from adamix_lab.analysis.units import aligned as aligned
from adamix_lab.analysis.units import permuted_copies as permuted_copies
from adamix_lab.core.errors import LabError
from adamix_lab.core.merging import merge_gap, weighted
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.routing import generator_for as generator_for
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.lessons.answers import Answers, answers_of
from adamix_lab.lessons.checks.merging import check_align as check_align
from adamix_lab.lessons.checks.telling import attempt as attempt
from adamix_lab.lessons.effects import effects_table as effects_table
from adamix_lab.lessons.effects import forest as forest
from adamix_lab.lessons.effects import outcome as outcome
from adamix_lab.lessons.program import check_program as check_program
from adamix_lab.lessons.program import equal_to_library as equal_to_library
from adamix_lab.lessons.program import mine as mine
from adamix_lab.lessons.program import progress as progress
from adamix_lab.lessons.widgets import Explorer, Number, View
from adamix_lab.lessons.widgets import Prediction as Prediction
from adamix_lab.lessons.widgets import brier as brier
from adamix_lab.lessons.world import World, draw_world, train_world, world_explorer
from adamix_lab.lessons.your_own import ADAPTATION, read_loras
from adamix_lab.models.model import MixtureModel, attach, load_trained
from adamix_lab.models.model import trained_tensors as trained_tensors
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.shipped import BLOCKS, load_twin, sentences

# -- in one dimension: which side is shared, and whether the merge lies on the mean of the routes --------------------


def draw_question() -> Picture:
    """Four experts that share the up projection, and their ensemble; where the merge lies is not drawn."""
    return draw_world(train_world(World(near=0.5)), "Where will the merge lie?", drawn="ensemble").picture


def sides_explorer() -> Explorer:
    """The widget of one dimension: each movement trains anew."""
    sides = {"share up": "up", "share down": "down", "share nothing": "none"}
    return world_explorer(
        "Which side makes the average exact?",
        "With the up-projection shared, bring the merge more than 2 away from the ensemble. Then share the "
        "down-projection and try again: how far do you get with one layer, and with two?",
        ("shared", "near", "layers"),
        {label: {"shared": side, "near": 0.5} for label, side in sides.items()},
        near=0.5,
        shared="down",
    )


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
        "LoRA, B shared": loras("adamix", "B", tied=False),
        "LoRA, nothing shared, tied": loras("tied", None, tied=True),
        "the same LoRAs, sides drawn independently": loras("tied", None, tied=False),
    }
    found = {}
    for name, (mixture, tokenizer) in names.items():
        batch = tokenizer([str(row["sentence"]) for row in task.evaluation[:rows]], padding=True, return_tensors="pt")
        with torch.no_grad():
            found[name] = list(merge_gap(mixture, batch).values())
    return found


def loras(kind: str, share: str | None, tied: bool) -> tuple[MixtureModel, object]:
    """(mixture, tokenizer) of the shipped LoRA experts of seed 0, their sides tied or not."""
    model, tokenizer = load_backbone("minilm", num_labels=2)
    mixture = attach(model, ADAPTATION, 4, share, blocks=BLOCKS, tied=tied)
    load_trained(mixture, read_loras(kind, 0))
    return mixture.eval(), tokenizer


def draw_gaps(gaps: Mapping[str, Sequence[float]]) -> Picture:
    """A line a case, a mark a site: the distance of the merged output from the mean over routes, in % of the update."""
    figure, ax = new_figure(9.0, 3.6)
    told = []
    for n, (name, values) in enumerate(gaps.items()):
        percent = [100 * value for value in values]
        exact = max(percent) < 0.01
        colour = STYLES["merged" if exact else "apart"][0]
        ax.plot(percent, [n] * len(percent), linestyle="none", marker="o", markersize=9, color=colour)
        said = "exact" if exact else f"up to {max(percent):.0f} %"
        ax.annotate(said, (max(percent), n), xytext=(10, 0), textcoords="offset points", va="center", color=colour)
        told.append(f"{name}: {said}")
    ax.set_yticks(range(len(gaps)), list(gaps))
    ax.set(
        xlabel="distance from the mean of the routes (% of the update)",
        ylim=(len(gaps) - 0.5, -0.5),
    )
    ax.set_xlim(-2, 1.25 * max(100 * max(values) for values in gaps.values()) + 2)
    despine(ax)
    return Picture(figure, f"How far a merged layer is from the mean of its routes. {'; '.join(told)}.")


# -- on sentences, as scores: one number a row ------------------------------------------------------------------------


def merge_differs(answers: Answers) -> Tensor:
    """Whether the merge answers otherwise than the average over all routes' probabilities, `[rows]`, as 0 and 1."""
    return (answers.merged.argmax(-1) != marginal(answers.routes).argmax(-1)).float()


def load_apart() -> tuple[MixtureModel, object, Task]:
    """(mixture, tokenizer, task) of the adapters that were trained apart on "aspects"."""
    return *load_twin("apart"), load_task("aspects")


def answers_with(
    mixture: MixtureModel, task: Task, tokenizer: object, tensors: dict[str, Tensor], rows: int
) -> Answers:
    """What a mixture answers with other weights; its own are put back."""
    before = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}
    load_trained(mixture, tensors)
    try:
        return answers_of(mixture, task, tokenizer, rows)
    finally:
        load_trained(mixture, before)


def tell_merge(answers: Answers, name: str) -> str:
    """The mean of the experts alone, the merge and the average of all routes, in a line."""
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


def ground_of(twin: str = "apart", seed: int = 0, data: str = "aspects") -> Ground:
    """The triangle of shipped experts, on the rows that they are judged on."""
    mixture, tokenizer = load_twin(twin, seed, data=data)
    task = load_task("aspects") if data == "aspects" else sentences(data, seed)
    return prepare(mixture, task, tokenizer, f"{twin} on {data}, seed {seed}")


def mixing_triangle(ground: Ground, highest: float | None = None) -> Explorer:
    """The widget of lesson 03; `highest` as in `draw_mixed`."""
    centre = {"first": 1.0, "second": 1.0, "third": 1.0}
    corners = {f"expert {n}": {name: float(name == chosen) for name in centre} for n, chosen in enumerate(centre)}
    return Explorer(
        f"Mixing triangle: {ground.name}",
        "Find a mixture whose loss is above that of each expert alone. How far above can you get?",
        [
            Number(name, f"weight of expert {n}", 0.0, 1.0, 0.05, corners["expert 0"][name], live=True)
            for n, name in enumerate(centre)
        ],
        partial(mixed, ground),
        partial(draw_mixed, highest=highest),
        shown=centre,
        buttons={**corners, "centre": centre},
    )
