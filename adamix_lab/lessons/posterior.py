"""Lesson 06: routes as random variables. Their average (Eq. 7), doubt, calibration, and text of another kind.

The shipped mixtures have 16 routes, so the exact average is a mean over what all of them answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adamix_lab.analysis.calibration import Method, compare_uncertainty, fit_temperature, reliability, tempered
from adamix_lab.analysis.plots import Picture, panels, plot_convergence, plot_reliability, style_of
from adamix_lab.analysis.posterior import Samples, convergence, dropout_samples, fix_batches, marginal
from adamix_lab.lessons import shared
from adamix_lab.lessons.answers import Answers, answers_to, load_answers
from adamix_lab.lessons.controls import described
from adamix_lab.lessons.drawing import draw_probabilities
from adamix_lab.lessons.my_adamix import doubt
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.world import Curves, World, train_world
from adamix_lab.tasks.tasks import Task

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["marginal"]
__getattr__ = shared  # what all notebooks use


def samples_of(answers: Answers) -> tuple[Samples, Samples]:
    """(every route, the merge) as `analysis.posterior` takes them."""
    routes = Samples(answers.routes, answers.labels, exact=True, routes=answers.index)
    return routes, Samples(answers.merged.unsqueeze(1), answers.labels)


def draw_convergence(answers: Answers, name: str, draws: int = 200) -> Picture:
    """How near averages of T drawn routes come to the average over all of them, beside the merge."""
    return plot_convergence(convergence(*samples_of(answers), draws=draws), name)


def bayes_weights(answers: Answers, rows: Tensor | slice) -> Tensor:
    """What Bayes' rule makes of a uniform prior over routes after some rows, `[routes]`: prior times likelihood."""
    return (-answers.loss[rows].double().sum(0)).softmax(0)


def rescaled(log_p: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities `[rows, C]`, each second row at the temperature that fits the others best, and vice versa."""
    found, half = torch.empty(log_p.shape, dtype=torch.double), torch.arange(len(labels)) % 2
    for mine_ in (0, 1):
        others = half != mine_
        found[half == mine_] = tempered(log_p[half == mine_], fit_temperature(log_p[others], labels[others]))
    return found


# -- methods side by side ---------------------------------------------------------------------------------


def methods(seed: int) -> dict[str, Samples]:
    """What each method says of the fresh rows; an answer takes a pass a sample.

    Four adapters trained apart have together as many steps as AdaMix has views: equal compute.
    """
    adamix, apart, single = (load_answers(name, seed, data="noisy") for name in ("adamix", "apart", "single"))
    found = {
        "merged AdaMix": adamix.merged[:, None],
        "routes of AdaMix, all 16": adamix.routes,
        "apart: a deep ensemble of 4": apart.routes[:, apart.fixed],
        "single adapter": single.merged[:, None],
    }
    return {name: Samples(log_p, adamix.labels) for name, log_p in found.items()}


COLUMNS = "passes accuracy loss ece temperature loss_scaled ece_scaled mutual_information".split()


def side_by_side(seeds: Sequence[int]) -> DataFrame:
    """Means over seeds of `compare_uncertainty`: half of the rows fit the temperature, the others are judged."""
    import pandas as pd

    def halved(samples: Samples) -> Method:
        log_p, labels = samples.logits, samples.labels
        parts = {"held_out": Samples(log_p[::2], labels[::2]), "inside": Samples(log_p[1::2], labels[1::2])}
        return Method(parts, len(samples))

    tables = [compare_uncertainty({name: halved(each) for name, each in methods(seed).items()}) for seed in seeds]
    means = pd.concat(tables).groupby("method", sort=False)[COLUMNS].mean()
    return means.astype({"passes": int}).rename(columns=lambda name: name.replace("_", " "))


def draw_reliability(seed: int) -> Picture:
    """Reliability of the single adapter and of the merge, before and after their temperatures were fitted."""
    import pandas as pd

    tables = []
    for name in ("single adapter", "merged AdaMix"):
        log_p, labels = methods(seed)[name].logits[:, 0], methods(seed)[name].labels
        for when, shown in (("as trained", log_p), ("rescaled", rescaled(log_p, labels))):
            tables.append(reliability(shown, labels, bins=10).assign(method=f"{name},\n{when}"))
    return plot_reliability(pd.concat(tables))


# -- in one dimension: a band, and how it splits ------------------------------------------------------------


def split_doubt(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(H of the mean, mean H, their difference), nats, of probabilities `[samples, ...]` of one of two classes."""
    whole, between = doubt(torch.stack([1 - p, p], -1))
    return whole, whole - between, between.clamp_min(0)  # rounding alone takes it below


def draw_band(curves: Curves) -> View:
    """The routes' probability curves with their band, and below what of their doubt is between them."""
    x, p, (rows, labels) = curves.grid, curves.experts, curves.rows
    whole, own, between = split_doubt(p)
    figure, (top, below) = panels(1, 7.6, 5.0, rows=2)
    colour = style_of("random")[0]
    top.fill_between(x, p.amin(0), p.amax(0), color=colour, alpha=0.25, linewidth=0, label="band: from least to most")
    top.plot(x, p.T, color=colour, linewidth=0.8, alpha=0.7)
    top.plot(x, p.mean(0), color=style_of("exact")[0], linewidth=2.5, label="average of the routes (Eq. 7)")
    top.plot(rows.flatten(), labels.flatten(), "o", color="#777777", markersize=4, label="rows")
    top.set(ylabel="probability of class 1", ylim=(-0.05, 1.05))
    below.stackplot(x, own, between, colors=["#BBBBBB", colour], labels=["E[H]: each route's own", "MI: between them"])
    below.set(ylabel="doubt (nats)", xlabel="x", ylim=(0, 0.75))
    for ax in (top, below):
        ax.legend(frameon=False, fontsize=11, loc="upper left", ncols=3, bbox_to_anchor=(0, 1.22))
    seen = (x >= rows.min()) & (x <= rows.max())
    told = "; ".join(
        f"{where} it is {float(whole[chosen].mean()):.3f} nats, {float(between[chosen].mean()):.3f} of it between the "
        "routes"
        for where, chosen in {"where there are rows": seen, "beyond them": ~seen}.items()
    )
    told = f"Doubt: {told}."
    alt = f"Probability of class 1 against x for {len(p)} routes with their band, and the doubt split below. {told}"
    return View(told, Picture(figure, alt))


LEARNERS: dict[str, dict[str, Any]] = {
    "AdaMix": {"together": True, "shared": "up", "near": 0.5},
    "trained apart (a deep ensemble)": {"together": False, "shared": None, "near": 1.0},
}


@lru_cache(maxsize=256)
def band(learner: str, consistency: float, noise: float) -> Curves:
    """A world of two classes after 300 steps; consistency changes nothing where experts are trained apart."""
    how = LEARNERS[learner]
    weight = consistency if how["together"] else 0.0
    return train_world(World(classes=True, rate=0.1, consistency=weight, noise=noise, **how))


def band_explorer() -> Explorer:
    """One dimension: what the routes of AdaMix, and adapters trained apart, say where there are rows and beyond."""
    return Explorer(**described("band"), compute=band, draw=draw_band)


# -- on language: how far answers to a text of the learner's own lie apart ----------------------------------


DRAWS = 16


def ask(models: Mapping[str, tuple[Any, Any]], task: Task, sentence: str) -> dict[str, Tensor]:
    """What each kind of samples says of a sentence: probabilities of the last class, `[S]` each.

    models: (mixture, tokenizer) of "adamix", and of "apart", whose experts were trained one by one.
    """
    (mixture, tokenizer), rows = models["adamix"], [{task.text[0]: sentence}] * DRAWS
    adamix, apart = (answers_to(*models[name], task, sentence) for name in ("adamix", "apart"))
    copies = fix_batches(mixture, task, tokenizer, rows, batch_size=DRAWS)
    samples = {
        "routes of AdaMix": adamix.routes[0],
        "apart: a deep ensemble": apart.routes[0, apart.fixed],
        "dropout left on (the merge)": dropout_samples(copies, 1).log_probabilities[:, 0],  # a mask for each copy
    }
    return {kind: log_p[:, -1].exp() for kind, log_p in samples.items()}


def draw_spread(samples: Mapping[str, Tensor], sentence: str, name: str) -> View:
    """A line a kind: its samples' probabilities of the class `name`, their average, and how their doubt splits."""
    notes = [
        f"H {float(whole):.2f} = {float(own):.2f} + MI {float(between):.3f}"
        for whole, own, between in (split_doubt(p) for p in samples.values())
    ]
    told = [
        f"{kind} {100 * float(p.min()):.0f} to {100 * float(p.max()):.0f} % ({note} nats)"
        for (kind, p), note in zip(samples.items(), notes, strict=True)
    ]
    readout = f"Probability of “{name}”: {'; '.join(told)}."
    alt = f"What several models say of “{sentence}”: {readout}"
    return View(readout, draw_probabilities(samples, name, notes, alt))


def spread_explorer(models: Mapping[str, tuple[Any, Any]], task: Task) -> Explorer:
    """The widget of lesson 06. models: as of `ask`."""
    samples = lru_cache(maxsize=256)(partial(ask, models, task))
    return Explorer(
        **described("text"),
        compute=lambda sentence: (samples(sentence), sentence, task.classes[-1]),
        draw=lambda said: draw_spread(*said),
    )
