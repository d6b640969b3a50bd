"""Lesson 04's widget: a sampler of routes on a sentence of the learner's, beside the exact average and the merge.

A sentence's routes are computed once, by the tree, and kept; what moves under the slider is arithmetic on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture
from adamix_lab.analysis.posterior import entropy, marginal
from adamix_lab.analysis.samples import every_route, fix_batches, merged_sample
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.marginals import plain_ticks
from adamix_lab.lessons.widgets import Explorer, Number, Steps, View, Words
from adamix_lab.tasks.tasks import Task

SENTENCE = "film : a slow start, but I loved every minute of it."
MOST = 64
PICKS = 1000
SURE = 0.95
Ask = Callable[[str, str], tuple[Tensor, Tensor]]


def asker(models: Mapping[str, tuple[MixtureModel, Any]], task: Task) -> Ask:
    """(experts, sentence) to log-probabilities of every route `[S, C]` and of the merge `[C]`, each computed once."""

    @lru_cache(maxsize=256)
    def ask(experts: str, sentence: str) -> tuple[Tensor, Tensor]:
        mixture, tokenizer = models[experts]
        fixed = fix_batches(mixture, task, tokenizer, [{task.text[0]: sentence}], batch_size=1)
        return every_route(fixed).log_probabilities[0], merged_sample(fixed).log_probabilities[0, 0]

    return ask


@lru_cache(maxsize=4)
def picks(routes: int) -> Tensor:
    """Many draws of MOST routes each, `[PICKS, MOST]`: the first T of a draw are its draw of T routes."""
    return torch.randint(routes, (PICKS, MOST), generator=generator_for(0))


@dataclass(frozen=True)
class Sampled:
    """What T drawn routes say of a sentence.

    Attributes:
        experts: whose routes.
        name: of the last class, whose probability is looked at.
        size: T.
        routes: that probability under every route, `[S]`.
        exact: under all routes together.
        merged: of the merge.
        averages: of draws of 1, 2, ..., MOST routes, `[PICKS, MOST]`.
        doubt: (entropy of the average, mean entropy of a route), in nats.
    """

    experts: str
    name: str
    size: int
    routes: Tensor
    exact: float
    merged: float
    averages: Tensor
    doubt: tuple[float, float]

    @property
    def errors(self) -> Tensor:
        """Distances of the draws' averages to the exact one, `[PICKS, MOST]`."""
        return (self.averages - self.exact).abs()

    @property
    def nearer(self) -> Tensor:
        """The share of draws that are nearer to the exact average than the merge is, for each T, `[MOST]`."""
        return (self.errors < abs(self.merged - self.exact)).float().mean(0)


def sampled(ask: Ask, classes: tuple[str, ...], sentence: str, size: int, experts: str) -> Sampled:
    """The state of the sampler."""
    log_p, merged = ask(experts, sentence)
    routes = log_p[:, -1].exp()
    averages = routes[picks(len(routes))].cumsum(1) / torch.arange(1, MOST + 1)
    exact = marginal(log_p.unsqueeze(0))[0]
    doubt = float(entropy(exact)), float(entropy(log_p).mean())
    return Sampled(experts, classes[-1], size, routes, float(exact[-1].exp()), float(merged[-1].exp()), averages, doubt)


def smallest(state: Sampled) -> int | None:
    """The smallest T at which 19 of 20 draws are nearer to the exact average than the merge; None up to MOST."""
    enough = (state.nearer >= SURE).nonzero()
    return int(enough[0]) + 1 if len(enough) else None


def draw_sampled(state: Sampled) -> View:
    """The routes' answers with the drawn ones marked and the averages of many draws; distances against T."""
    from adamix_lab.analysis.pictures_routes import panels

    figure, (left, right) = panels(2, 9.0, 3.5)
    _draw_answers(left, state)
    _draw_distances(right, state)
    handles = [ax.get_legend_handles_labels() for ax in (left, right)]
    figure.legend(*(a + b for a, b in zip(*handles, strict=True)), loc="outside upper center", ncols=5, frameon=False,
                  fontsize=8)  # fmt: skip
    drawn, nearer = float(state.averages[0, state.size - 1]), float(state.nearer[state.size - 1])
    whole, own = state.doubt
    name, number = state.name, len(state.routes)
    readout = (
        f"{state.experts}, T = {state.size}: this draw says {100 * drawn:.1f} % {name}, all {number} routes "
        f"{100 * state.exact:.1f} %, the merge {100 * state.merged:.1f} %. {100 * nearer:.0f} % of {PICKS:,} draws are "
        f"nearer to all {number} than the merge. Doubt in nats: H {whole:.3f} = E[H] {own:.3f} + MI "
        f"{max(whole - own, 0.0):.3f}."
    )
    low, high = 100 * float(state.routes.min()), 100 * float(state.routes.max())
    error = float(state.errors[:, state.size - 1].mean())
    alt = (
        f"Probability of {name} ({state.experts}): {number} routes from {low:.0f} to {high:.0f} %, all together "
        f"{100 * state.exact:.1f} %, merge {100 * state.merged:.1f} %, this draw of {state.size} {100 * drawn:.1f} %. "
        f"Beside it distances to all {number} against T: at T = {state.size} {100 * error:.1f} points on average over "
        f"draws, the merge {100 * abs(state.merged - state.exact):.1f}."
    )
    return View(readout, Picture(figure, alt))


def _draw_answers(ax: Any, state: Sampled) -> None:
    colour, marker = STYLES["random"]
    counts = torch.bincount(picks(len(state.routes))[0, : state.size], minlength=len(state.routes))
    ax.axvline(100 * state.exact, color=STYLES["exact"][0], linestyle=":", label=f"all {len(state.routes)} routes")
    ax.axvline(100 * state.merged, color=STYLES["merged"][0], label="the merge")
    spread = torch.linspace(-0.3, 0.3, len(state.routes))  # apart, so that equal answers are seen as many
    ax.scatter(100 * state.routes, 1 + spread, s=14, color="#888888", zorder=2)
    ax.scatter(100 * state.routes, 1 + spread, s=28.0 * counts, color=colour, alpha=0.6, zorder=3)
    cloud = state.averages[: PICKS // 5, state.size - 1]
    ax.scatter(100 * cloud, torch.linspace(-0.3, 0.3, len(cloud)), s=4, color=colour, alpha=0.35, zorder=2)
    ax.plot(100 * float(state.averages[0, state.size - 1]), 0, marker=marker, markersize=11, color=colour,
            markeredgecolor="white", linestyle="none", label=f"this draw of {state.size}", zorder=4)  # fmt: skip
    ax.set_yticks([0, 1], ["averages\nof T", "routes\n(drawn: large)"])
    ax.set(ylim=(-0.5, 1.5), xlim=(-3, 103), xlabel=f"probability of “{state.name}” (%)")
    ax.grid(axis="x", alpha=0.3)


def _draw_distances(ax: Any, state: Sampled) -> None:
    colour, marker = STYLES["random"]
    sizes = [2**n for n in range(int(math.log2(MOST)) + 1)]
    errors = 100 * state.errors[:, [size - 1 for size in sizes]].clamp_min(1e-5)
    ax.plot(sizes, errors.quantile(SURE, 0), color=colour, linestyle="--", label="19 of 20 draws are below")
    ax.plot(sizes, errors.mean(0), color=colour, marker=marker, markersize=5, label="draws of T, mean")
    ax.axhline(100 * max(abs(state.merged - state.exact), 1e-5), color=STYLES["merged"][0])
    ax.axvline(state.size, color="#444444", linestyle=":", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="routes T", ylabel=f"points from all {len(state.routes)}")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    plain_ticks(ax)


def route_sampler(models: Mapping[str, tuple[MixtureModel, Any]], task: Task, sentence: str = SENTENCE) -> Explorer:
    """The widget of lesson 04.

    models: (mixture, tokenizer) by the name that the learner sees; the first one is shown at the start.
    """
    ask, names = asker(models, task), tuple(models)
    for name in names:
        ask(name, sentence)  # so that the first move is as quick as the others
    best = smallest(sampled(ask, task.classes, sentence, 1, names[0]))
    return Explorer(
        "Sampler of routes",
        "Find the smallest T at which 19 of 20 draws are nearer to all routes than the merge is. Then type a sentence "
        "with a mutual information (MI) above 0.1 nats, and one below 0.001.",
        [
            Words("sentence", "sentence", sentence),
            Number("size", "routes T", 1, MOST, 1, 1),
            Steps("experts", "experts", names, names[0]),
        ],
        lambda sentence, size, experts: sampled(ask, task.classes, sentence, size, experts),
        draw_sampled,
        shown={"sentence": sentence, "size": best or MOST, "experts": names[0]},
    )
