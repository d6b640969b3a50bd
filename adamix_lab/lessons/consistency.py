"""Lesson 02: two routes that are asked to agree, in one dimension while they train and on sentences afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, despine, fix_margins, new_figure, panels
from adamix_lab.core.objective import reference_kl
from adamix_lab.lessons import shared
from adamix_lab.lessons.answers import GRID, Answers, load_answers
from adamix_lab.lessons.controls import choices, described
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.world import World, train_world, world_explorer
from adamix_lab.training.shipped import SENTENCE_SEEDS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["reference_kl"]
__getattr__ = shared  # what all notebooks use


def pairwise_kl(answers: Answers) -> Tensor:
    """Mean KL in nats from one route's answer to another's, over ordered pairs: `[rows]`."""
    log_p, number = answers.routes.double(), answers.routes.shape[1]
    cross = torch.einsum("nrc,nsc->nrs", log_p.exp(), log_p)  # sum_c p_r log p_s
    own = cross.diagonal(dim1=1, dim2=2)
    return ((own.sum(1) * number - cross.sum((1, 2))) / (number * (number - 1))).float()


def agreed_and_wrong(answers: Answers) -> Tensor:
    """Whether all routes give the same answer and it is wrong, `[rows]`, as 0 and 1."""
    return (answers.right.amax(1) == 0).float()


# -- in one dimension: a probability along a line, learned from labels of which a quarter are wrong ------------------


def fan_explorer() -> Explorer:
    """The widget of one dimension: each movement trains anew."""
    return world_explorer(**described("fan"))


def draw_views() -> Picture:
    """Two routes of one step as two curves, with what lies between them; the other two experts faint."""
    curves = train_world(World(classes=True, seed=1))
    first = int((curves.experts[1:] - curves.experts[:-1]).abs().mean(1).argmax())  # of two neighbours, far apart
    one, two = curves.experts[first : first + 2]
    figure, ax = new_figure(7.6, 4.0)
    ax.plot(*curves.rows, "o", color="0.6", markersize=5, label="rows, a quarter of them with a wrong label")
    ax.plot(curves.grid, curves.experts.T, color="0.75", linewidth=1)
    ax.fill_between(curves.grid, one, two, color="#E69F00", alpha=0.35, label="where the two views disagree")
    for curve, name, label in ((one, "merged", "first view, route A"), (two, "random", "second view, route B")):
        ax.plot(curves.grid, curve, color=STYLES[name][0], linewidth=3, label=label)
    ax.set(xlabel="the input, one number", ylabel="probability of class 1", ylim=(-0.08, 1.08))
    despine(ax)
    ax.legend(frameon=False, fontsize=9, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    alt = (
        f"Four experts as curves of a probability over one input. Two are drawn for a step; the area between them is "
        f"shaded, on average {float((one - two).abs().mean()):.2f} high. The other two are faint."
    )
    return Picture(figure, alt)


# -- on sentences: runs of AdaMix under other weights, with R-Drop's single adapter beside them ----------------------


def measure_dial(seeds: Sequence[int] = SENTENCE_SEEDS) -> DataFrame:
    """What the stored runs on noisy sentences say, a line a weight of the consistency loss and a seed.

    Columns: kl of two routes and loss of a random one in nats; how often a random one, merged, and R-Drop's single
    adapter are right, and how often all routes agree and are wrong, in %. Raises FileNotFoundError where a run is
    missing.
    """
    import pandas as pd

    def line(weight: int, seed: int) -> dict[str, float]:
        answers, rdrop = (load_answers(name, seed, data="noisy") for name in (GRID[weight], "r-drop"))
        nats = {"kl": pairwise_kl(answers), "loss": answers.loss}
        shares = {"random": answers.right, "merged": answers.merged_right, "wrong": agreed_and_wrong(answers)}
        shares["rdrop"] = rdrop.merged_right
        found = nats | {name: 100 * share for name, share in shares.items()}
        return {"weight": weight, "seed": seed, **{name: float(values.mean()) for name, values in found.items()}}

    return pd.DataFrame([line(weight, seed) for weight in GRID for seed in seeds]).set_index(["weight", "seed"])


EVERYONE = "all"


def draw_dial(table: DataFrame, weight: float, seed: int | str) -> View:
    """Against the weight: the KL of two routes, how often they, the merge and R-Drop are right, and their loss.

    table: of `measure_dial`. seed: of the runs; EVERYONE takes the mean over all.
    """
    shown = table.groupby("weight").mean() if seed == EVERYONE else table.xs(seed, level="seed")
    here, places = shown.loc[weight], list(range(len(shown)))
    figure, axes = panels(3, 11.0, 4.0)
    lines = (
        (axes[0], "kl", ("#444444", "o"), "two routes"),
        (axes[1], "random", STYLES["random"], "a random route"),
        (axes[1], "merged", STYLES["merged"], "the merge"),
        (axes[2], "loss", STYLES["random"], "a random route"),
    )
    for ax, name, (colour, marker), label in lines:  # a thin line a seed, a thick one for what is chosen
        ax.plot(places, table[name].unstack(), color=colour, linewidth=0.7, alpha=0.35)
        ax.plot(places, shown[name], color=colour, marker=marker, linewidth=2.5, label=label)
    axes[1].axhline(here["rdrop"], color=STYLES["dropout"][0], linestyle=":", linewidth=2, label="one adapter, R-Drop")
    axes[2].axhline(math.log(2), color="0.4", linestyle="--", label="always one half")
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].minorticks_off()
    at = list(shown.index).index(weight)
    for ax, label in zip(axes, ("KL of two routes (nats)", "accuracy (%)", "loss (nats)"), strict=True):
        ax.axvspan(at - 0.25, at + 0.25, color="#0072B2", alpha=0.15)
        ax.set_xticks(places, [f"{each:g}" for each in shown.index])
        ax.set(xlabel="weight of the consistency loss", ylabel=label)
        ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        despine(ax)
    fix_margins(figure, left=0.08, right=0.99, bottom=0.15, top=0.78, wspace=0.28)
    who = f"the mean of {len(table) // len(shown)} seeds" if seed == EVERYONE else f"seed {seed}"
    readout = (
        f"Weight {weight:g}, {who}: two routes are {here['kl']:.4f} nats apart, "
        f"{100 * here['kl'] / shown['kl'].iloc[0]:.0f} % of what they are at weight 0. A random route answers "
        f"{here['random']:.1f} % rightly with a loss of {here['loss']:.3f} nats, the merge {here['merged']:.1f} %, one "
        f"adapter with R-Drop {here['rdrop']:.1f} %. On {here['wrong']:.1f} % of the rows all routes agree and are "
        "wrong."
    )
    alt = f"Three panels against the weight of the consistency loss, {who}, weight {weight:g} marked. {readout}"
    return View(readout, Picture(figure, alt))


def consistency_dial(seeds: Sequence[int] = SENTENCE_SEEDS) -> Explorer:
    """The widget of sentences."""
    measured = measure_dial(seeds)
    return Explorer(
        **described("consistency", weight={"values": tuple(GRID)}, seed=choices([EVERYONE, *seeds])),
        compute=lambda weight, seed: (weight, seed),
        draw=lambda chosen: draw_dial(measured, *chosen),
    )
