"""Lesson 02: how far routes agree, what they answer, and the consistency dial over trained weights of the loss."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, fix_margins, new_figure, panels
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.lessons.answers import GRID, Answers, load_answers, place_of
from adamix_lab.lessons.widgets import Explorer, Prediction, Steps, View, mark_prediction
from adamix_lab.training.shipped import SEEDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pairwise_kl(answers: Answers) -> Tensor:
    """Mean KL divergence in nats from one route's answer to another's, over all ordered pairs, `[rows]`."""
    log_p = answers.routes.double()
    number = log_p.shape[1]
    cross = torch.einsum("nrc,nsc->nrs", log_p.exp(), log_p)  # sum_c p_r log p_s
    own = cross.diagonal(dim1=1, dim2=2)
    return ((own.sum(1) * number - cross.sum((1, 2))) / (number * (number - 1))).float()


def agreed_and_wrong(answers: Answers) -> Tensor:
    """Whether all routes give the same answer and it is wrong, `[rows]`, as 0 and 1."""
    return (answers.right.amax(1) == 0).float()


@dataclass(frozen=True)
class Dialled:
    """What the runs of one seed say, by weight of the consistency loss (lists run along `weights`)."""

    weights: tuple[float, ...]
    chosen: int
    seed: int
    kl: list[float]
    random: list[float]  # accuracy in %
    merged: list[float]
    loss: list[float]
    wrong: list[float]  # all routes agree and are wrong, in %


def dialled(weight: float, seed: int, runs: Sequence[Answers] | None = None) -> Dialled:
    """The state of the consistency dial; `runs` (one a weight) stand in for the stored ones."""
    weights = tuple(GRID)
    answers = list(runs) if runs is not None else [load_answers(name, seed) for name in GRID.values()]

    def each(value: Tensor) -> float:
        return float(value.mean())

    return Dialled(
        weights,
        weights.index(weight),
        seed,
        [each(pairwise_kl(a)) for a in answers],
        [100 * each(a.right) for a in answers],
        [100 * each(a.merged_right) for a in answers],
        [each(a.loss) for a in answers],
        [100 * each(agreed_and_wrong(a)) for a in answers],
    )


def draw_dial(state: Dialled, predicted: float | None = None) -> View:
    """Agreement of routes, and accuracy of a random route and of the merge, against the weight.

    predicted: the accuracy in % that the learner expects of a random route at the largest weight.
    """
    figure, (left, right) = panels(2, 8.6, 3.6)
    places, at = range(len(state.weights)), state.chosen
    ticks = [f"{w:g}" for w in state.weights]
    left.plot(places, state.kl, color="#444444", marker="o")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    left.set_ylabel("pairwise KL of routes (nats)")
    for name, values, label in (("random", state.random, "a random route"), ("merged", state.merged, "the merge")):
        colour, marker = STYLES[name]
        right.plot(places, values, color=colour, marker=marker, label=label)
    right.set(ylabel="accuracy (%)", ylim=(45, 101))
    for ax in (left, right):
        ax.axvspan(at - 0.25, at + 0.25, color="#0072B2", alpha=0.15)
        ax.set_xticks(list(places), ticks)
        ax.set_xlabel("weight of the consistency loss")
        ax.grid(alpha=0.3)
    readout = (
        f"Weight {state.weights[at]:g}, seed {state.seed}: pairwise KL {state.kl[at]:.4f}; a random route answers "
        f"{state.random[at]:.1f} % rightly (loss {state.loss[at]:.3f}), the merge {state.merged[at]:.1f} %. All routes "
        f"agree on a wrong answer in {state.wrong[at]:.1f} % of the rows."
    )
    told = "; ".join(
        f"weight {w:g}: KL {k:.4f}, random route {r:.1f} %, merge {m:.1f} %"
        for w, k, r, m in zip(state.weights, state.kl, state.random, state.merged, strict=True)
    )
    chosen = f"seed {state.seed}; {state.weights[at]:g} is chosen"
    alt = f"Agreement and accuracy against the weight of consistency, {chosen}. {told}."
    alt = mark_prediction(right, alt, predicted, axis="y")
    right.legend(edgecolor="none", loc="lower left")  # inside, with the prediction
    fix_margins(figure, left=0.105, right=0.985, bottom=0.14, top=0.97, wspace=0.26)
    return View(readout, Picture(figure, alt))


def dial_seeds() -> tuple[int, ...]:
    """The seeds for which every weight's run is there. Raises FileNotFoundError where there is none."""
    seeds = tuple(seed for seed in SEEDS if all(place_of(name, seed).is_file() for name in GRID.values()))
    if not seeds:
        load_answers(GRID[100], SEEDS[0])  # says what is missing and what makes it
    return seeds


def consistency_dial(prediction: Prediction | None = None) -> Explorer:
    """The widget of lesson 02, over runs that were trained beforehand; it draws the learner's prediction, too."""
    weights, seeds = tuple(GRID), dial_seeds()
    measured = cache(lambda seed: dialled(weights[0], seed))  # turning the dial measures nothing anew
    return Explorer(
        "Consistency dial",
        "Find a weight with a pairwise KL below 0.03 at which a random route loses at most a point to the best "
        "weight. Does it hold for every seed?",
        [Steps("weight", "weight of consistency", weights, weights[0]), Steps("seed", "seed", seeds, seeds[0])],
        lambda weight, seed: replace(measured(seed), chosen=weights.index(weight)),
        lambda state: draw_dial(state, prediction.value if prediction else None),
        shown={"weight": weights[-1], "seed": seeds[0]},
    )


# -- lessons 02 and 03: sets of experts side by side, each expert alone, merged, and as an ensemble, over seeds ------


KINDS = {"fixed": "an expert alone (mean of 4)", "merged": "merged", "ensemble": "all routes averaged"}


@dataclass(frozen=True)
class Scores:
    """Accuracies in % of one set of experts, one a seed."""

    fixed: tuple[float, ...]
    merged: tuple[float, ...]
    ensemble: tuple[float, ...]

    @property
    def gap(self) -> tuple[float, ...]:
        """Merged minus an expert alone, in points, one a seed."""
        return tuple(m - f for m, f in zip(self.merged, self.fixed, strict=True))


def scores(runs: Sequence[Answers]) -> Scores:
    """The scores of the same experts over seeds."""

    def percent(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(100 * value for value in values)

    return Scores(
        percent([float(a.right[:, a.fixed].mean()) for a in runs]),
        percent([float(a.merged_right.mean()) for a in runs]),
        percent([float((a.routes.exp().mean(1).argmax(-1) == a.labels).float().mean()) for a in runs]),
    )


def plot_seeds(ax: Axes, x: float, values: Sequence[float], style: str, label: str | None = None) -> None:
    """A small marker a seed, and a large one at their mean."""
    colour, marker = STYLES[style]
    ax.plot([x] * len(values), values, linestyle="none", marker=marker, markersize=4, color=colour, alpha=0.5)
    ax.plot(x, sum(values) / len(values), linestyle="none", marker=marker, markersize=11, color=colour, label=label)


def draw_scores(sets: Mapping[str, Scores]) -> tuple[Figure, Axes, str]:
    """A group a set: mean over seeds as a large marker, each seed as a small one. Returns the alt text, too."""
    figure, ax = new_figure(8.4, 3.9)
    told = []
    for place, (name, found) in enumerate(sets.items()):
        for n, (kind, label) in enumerate(KINDS.items()):
            plot_seeds(ax, place + 0.24 * (n - 1), getattr(found, kind), kind, label if place == 0 else None)
        fixed, merged, ensemble = map(statistics.fmean, (found.fixed, found.merged, found.ensemble))
        told.append(
            f"{name}: alone {fixed:.1f} %, merged {merged:.1f} %, all routes {ensemble:.1f} %, merged minus alone "
            f"{format_interval(found.gap)}"
        )
    ax.set_xticks(range(len(sets)), list(sets))
    ax.set_ylabel("accuracy (%)")
    ax.grid(axis="y", alpha=0.3)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9)  # no marker below it
    seeds = len(next(iter(sets.values())).fixed)
    alt = f"Accuracy of sets of experts, mean of {seeds} seeds, each seed a small marker. {'; '.join(told)}."
    return figure, ax, alt
