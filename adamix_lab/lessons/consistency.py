"""Lesson 02: two routes that are asked to agree, in one dimension while they train and on sentences afterwards."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, despine, fix_margins, new_figure, panels
from adamix_lab.core.objective import reference_kl as reference_kl
from adamix_lab.lessons.answers import GRID, Answers, load_answers, place_of
from adamix_lab.lessons.checks.routing import check_consistency as check_consistency
from adamix_lab.lessons.checks.telling import attempt as attempt
from adamix_lab.lessons.effects import effects_table as effects_table
from adamix_lab.lessons.effects import forest as forest
from adamix_lab.lessons.effects import outcome as outcome
from adamix_lab.lessons.program import check_program as check_program
from adamix_lab.lessons.program import equal_to_library as equal_to_library
from adamix_lab.lessons.program import mine as mine
from adamix_lab.lessons.program import progress as progress
from adamix_lab.lessons.widgets import Explorer, Number, Steps, View
from adamix_lab.lessons.widgets import Prediction as Prediction
from adamix_lab.lessons.widgets import brier as brier
from adamix_lab.lessons.world import Curves, World, draw_world, train_world
from adamix_lab.training.shipped import SENTENCE_SEEDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def kl_of_pairs(log_p: Tensor) -> Tensor:
    """Mean KL in nats from one route's answer to another's, over ordered pairs: `[rows, R, C]` to `[rows]`."""
    log_p, number = log_p.double(), log_p.shape[1]
    cross = torch.einsum("nrc,nsc->nrs", log_p.exp(), log_p)  # sum_c p_r log p_s
    own = cross.diagonal(dim1=1, dim2=2)
    return ((own.sum(1) * number - cross.sum((1, 2))) / (number * (number - 1))).float()


def pairwise_kl(answers: Answers) -> Tensor:
    """`kl_of_pairs` of all routes, `[rows]`."""
    return kl_of_pairs(answers.routes)


def answer_differently(answers: Answers) -> Tensor:
    """The share of pairs of routes that give a row different answers, `[rows]`."""
    number = answers.right.shape[1]
    ones = answers.routes.argmax(-1).float().sum(1)
    return 2 * ones * (number - ones) / (number * (number - 1))


def agreed_and_wrong(answers: Answers) -> Tensor:
    """Whether all routes give the same answer and it is wrong, `[rows]`, as 0 and 1."""
    return (answers.right.amax(1) == 0).float()


# -- in one dimension: a probability along a line, learned from labels of which a quarter are wrong ------------------


FAN = World(classes=True, seed=1)
WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


def kl_of_curves(curves: Curves) -> float:
    """`kl_of_pairs` of the experts' probabilities, mean over the grid. Two classes only."""
    p = curves.experts.T.double().clamp(1e-9, 1 - 1e-9)  # [G, R]
    return float(kl_of_pairs(torch.stack([1 - p, p], -1).log()).mean())


@dataclass(frozen=True)
class Fan:
    """Four experts as curves, how far apart they are, and how far they are where nothing asks them to agree (nats)."""

    curves: Curves
    kl: float
    without: float


@cache
def kl_without(world: World) -> float:
    """`kl_of_curves` of a world that is trained at weight 0."""
    return kl_of_curves(train_world(replace(world, consistency=0.0)))


def fan(consistency: float, near: float = 0.0, steps: int = 300) -> Fan:
    """Trains the four experts of the fan."""
    world = replace(FAN, near=near, steps=steps)
    curves = train_world(replace(world, consistency=consistency))
    return Fan(curves, kl_of_curves(curves), kl_without(world))


def draw_fan(state: Fan) -> View:
    """The curves, with how far apart they are in words."""
    world = state.curves.world
    view = draw_world(state.curves, f"weight of consistency {world.consistency:g}")
    said = state.curves.ensemble
    readout = (
        f"Weight {world.consistency:g}: two routes are {state.kl:.4f} nats apart, "
        f"{100 * state.kl / state.without:.0f} % of what they are at weight 0. Together they say "
        f"{float(said.min()):.2f} to {float(said.max()):.2f}; an expert's loss is "
        f"{state.curves.errors['experts']:.3f} nats, and always saying one half costs 0.693."
    )
    return View(readout, view.picture)


def fan_explorer() -> Explorer:
    """The widget of one dimension: each movement trains anew."""
    return Explorer(
        "The fan: four experts, trained under a weight that you choose",
        "Find the smallest weight at which the KL of two routes is at most half of what it is at weight 0. Then find a "
        "weight at which the experts agree and say nothing.",
        [
            Steps("consistency", "weight of the consistency loss", WEIGHTS, WEIGHTS[-1]),
            Number("near", "distance of the experts' starts", 0.0, 1.0, 0.1, 0.0),
            Number("steps", "steps of training", 50, 300, 50, 300),
        ],
        fan,
        draw_fan,
        shown={"consistency": 1.0},
    )


def draw_views() -> Picture:
    """Two routes of one step as two curves, with what lies between them; the other two experts faint."""
    curves = fan(0.0).curves
    apart = [float((one - two).abs().mean()) for one, two in zip(curves.experts[:-1], curves.experts[1:], strict=True)]
    first = apart.index(max(apart))
    figure, ax = new_figure(7.6, 4.0)
    x, y = curves.rows
    ax.plot(x, y, "o", color="0.6", markersize=5, label="rows, a quarter of them with a wrong label")
    for n, curve in enumerate(curves.experts):
        if n not in (first, first + 1):
            ax.plot(curves.grid, curve, color="0.75", linewidth=1)
    one, two = curves.experts[first], curves.experts[first + 1]
    ax.fill_between(curves.grid, one, two, color="#E69F00", alpha=0.35, label="where the two views disagree")
    for curve, name, label in ((one, "merged", "first view, route A"), (two, "random", "second view, route B")):
        ax.plot(curves.grid, curve, color=STYLES[name][0], linewidth=3, label=label)
    ax.set(xlabel="the input, one number", ylabel="probability of class 1", ylim=(-0.08, 1.08))
    despine(ax)
    ax.legend(frameon=False, fontsize=9, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    alt = (
        f"Four experts as curves of a probability over one input. Two are drawn for a step; the area between them is "
        f"shaded, on average {max(apart):.2f} high. The other two are faint."
    )
    return Picture(figure, alt)


# -- on sentences: runs of AdaMix under other weights, with R-Drop's single adapter beside them ----------------------


@dataclass(frozen=True)
class Dial:
    """What the runs say, by weight of the consistency loss and seed: lists `[weights][seeds]`, accuracies in %.

    Attributes:
        chosen: the place of a weight; seed: its number, or None for the mean of all.
        kl: of two routes, in nats. random, loss: a random route's accuracy, and its loss in nats. merged: accuracy.
        wrong: share of the rows on which all routes agree and are wrong.
        rdrop: accuracy of one adapter trained with R-Drop, by seed.
    """

    weights: tuple[float, ...]
    seeds: tuple[int, ...]
    kl: list[list[float]]
    random: list[list[float]]
    loss: list[list[float]]
    merged: list[list[float]]
    wrong: list[list[float]]
    rdrop: list[float]
    chosen: int = 0
    seed: int | None = None

    def at(self, values: Sequence[Sequence[float]], place: int) -> float:
        """A measure at one weight, of the seed or as the mean over all."""
        if self.seed is None:
            return statistics.fmean(values[place])
        return values[place][self.seeds.index(self.seed)]


def measure_dial(seeds: Sequence[int]) -> Dial:
    """Measures the stored runs on noisy sentences. Raises FileNotFoundError where one is missing."""
    runs = {name: [load_answers(name, seed, data="noisy") for seed in seeds] for name in (*GRID.values(), "r-drop")}

    def over_runs(measure: Callable[[Answers], Tensor], factor: float = 1.0) -> list[list[float]]:
        return [[factor * float(measure(answers).mean()) for answers in runs[name]] for name in GRID.values()]

    return Dial(
        tuple(GRID),
        tuple(seeds),
        over_runs(pairwise_kl),
        over_runs(lambda answers: answers.right, 100),
        over_runs(lambda answers: answers.loss),
        over_runs(lambda answers: answers.merged_right, 100),
        over_runs(agreed_and_wrong, 100),
        [100 * float(answers.merged_right.mean()) for answers in runs["r-drop"]],
    )


def dial_seeds() -> tuple[int, ...]:
    """The seeds whose runs of every weight, and of R-Drop, are stored."""
    names = (*GRID.values(), "r-drop")
    return tuple(s for s in SENTENCE_SEEDS if all(place_of(name, s, data="noisy").is_file() for name in names))


def draw_dial(state: Dial) -> View:
    """Against the weight: the KL of two routes, how often they, the merge and R-Drop are right, and their loss."""
    figure, (left, right, last) = panels(3, 11.0, 4.0)
    places, at = range(len(state.weights)), state.chosen
    _draw_lines(left, state, state.kl, "#444444", "o", "two routes")
    left.set(yscale="log", ylabel="KL of two routes (nats)")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    for values, name, label in ((state.random, "random", "a random route"), (state.merged, "merged", "the merge")):
        _draw_lines(right, state, values, *STYLES[name], label)
    rdrop = statistics.fmean(state.rdrop) if state.seed is None else state.rdrop[state.seeds.index(state.seed)]
    right.axhline(rdrop, color=STYLES["dropout"][0], linestyle=":", linewidth=2, label="one adapter with R-Drop")
    right.set(ylabel="accuracy (%)")
    right.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _draw_lines(last, state, state.loss, *STYLES["random"], "a random route")
    last.axhline(math.log(2), color="0.4", linestyle="--", label="always one half")
    last.set(ylabel="loss (nats)")
    last.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for ax in (left, right, last):
        ax.axvspan(at - 0.25, at + 0.25, color="#0072B2", alpha=0.15)
        ax.set_xticks(list(places), [f"{weight:g}" for weight in state.weights])
        ax.set_xlabel("weight of the consistency loss")
        despine(ax)
    fix_margins(figure, left=0.08, right=0.99, bottom=0.15, top=0.78, wspace=0.28)
    who = f"the mean of {len(state.seeds)} seeds" if state.seed is None else f"seed {state.seed}"
    kl, first = state.at(state.kl, at), state.at(state.kl, 0)
    readout = (
        f"Weight {state.weights[at]:g}, {who}: two routes are {kl:.4f} nats apart, {100 * kl / first:.0f} % of what "
        f"they are at weight 0. A random route answers {state.at(state.random, at):.1f} % rightly with a loss of "
        f"{state.at(state.loss, at):.3f} nats, the merge {state.at(state.merged, at):.1f} %, one adapter with R-Drop "
        f"{rdrop:.1f} %. On {state.at(state.wrong, at):.1f} % of the rows all routes agree and are wrong."
    )
    told = "; ".join(
        f"weight {weight:g}: KL {state.at(state.kl, n):.4f}, random route {state.at(state.random, n):.1f} %, merge "
        f"{state.at(state.merged, n):.1f} %, loss {state.at(state.loss, n):.3f}"
        for n, weight in enumerate(state.weights)
    )
    alt = (
        f"Three panels against the weight of the consistency loss, {who}, weight {state.weights[at]:g} marked. {told}."
    )
    return View(readout, Picture(figure, alt))


def _draw_lines(ax: Axes, state: Dial, values: Sequence[Sequence[float]], colour: str, marker: str, label: str) -> None:
    """A thin line a seed and a thick one for what is chosen."""
    places = range(len(state.weights))
    ax.plot(places, values, color=colour, linewidth=0.7, alpha=0.35)
    chosen = [state.at(values, place) for place in places]
    ax.plot(places, chosen, color=colour, marker=marker, linewidth=2.5, label=label)


def consistency_dial(seeds: Sequence[int] | None = None) -> Explorer:
    """The widget of sentences, over all stored seeds by default."""
    measured = measure_dial(seeds or dial_seeds() or SENTENCE_SEEDS[:1])  # of none, the error names the first
    everyone = "all"

    def dialled(weight: float, seed: int | str) -> Dial:
        return replace(measured, chosen=measured.weights.index(weight), seed=None if seed == everyone else int(seed))

    return Explorer(
        "The consistency dial: AdaMix on 400 sentences, a quarter of the labels wrong",
        "Find the smallest weight at which two routes are at most half as far apart as at weight 0. What has a random "
        "route gained by then, and what does it have left at weight 100?",
        [
            Steps("weight", "weight of consistency", measured.weights, measured.weights[-1]),
            Steps("seed", "seed", (everyone, *measured.seeds), everyone),
        ],
        dialled,
        draw_dial,
        shown={"weight": 1},
    )
