"""Lesson 04: four ways to answer with what was trained: merged, as an ensemble, by one expert, by a random route."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, despine, new_figure, panels
from adamix_lab.analysis.posterior import marginal
from adamix_lab.core.errors import one_of
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons import shared
from adamix_lab.lessons.answers import Answers, answers_to, load_answers
from adamix_lab.lessons.controls import choices, described
from adamix_lab.lessons.drawing import draw_probabilities
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.world import World, draw_world, train_world
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.shipped import SENTENCE_SEEDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

__getattr__ = shared  # what all notebooks use

DRAWS = 64  # of four routes, which the paper's ensemble is averaged over


def paper_ensembles(answers: Answers) -> Tensor:
    """Log-probabilities of the paper's ensemble of four routes, drawn so often: `[rows, DRAWS, C]`."""
    drawn = torch.randint(answers.routes.shape[1], (DRAWS, 4), generator=generator_for(4))
    return answers.routes[:, drawn].mean(2).log_softmax(-1)  # log-probabilities average as logits do


class Way(NamedTuple):
    """A way of answering: what it runs, its passes (None: one for each route), log-probabilities `[rows, S, C]`."""

    runs: str
    passes: int | None
    says: Callable[[Answers], Tensor]  # S: of random ways, so many draws


WAYS = {
    "merged": Way("one pass with the mean of the experts' weights", 1, lambda a: a.merged[:, None]),
    "fixed": Way("one pass through expert 0 in every block", 1, lambda a: a.routes[:, a.fixed[:1]]),
    "random": Way("one pass through a route drawn at random", 1, lambda a: a.routes),
    "four": Way("four random routes, logits averaged (the paper's ensemble)", 4, paper_ensembles),
    "ensemble": Way("every route, probabilities averaged", None, lambda a: marginal(a.routes)[:, None]),
}


def scored(answers: Answers, way: str, unit: str = "points") -> Tensor:
    """Whether a way of answering is right ("points") or its loss ("nats"), `[rows]`; random ways on average.

    Raises ValueError for an unknown way or unit.
    """
    one_of("Way of answering", way, WAYS)
    one_of("unit", unit, ("points", "nats"))
    given = WAYS[way].says(answers)
    labels = answers.labels[:, None].expand(-1, given.shape[1])
    if unit == "points":
        return (given.argmax(-1) == labels).float().mean(1)
    return -given.gather(-1, labels[..., None]).squeeze(-1).mean(1)


def all_right_but_the_merge(answers: Answers) -> Tensor:
    """Rows that every route answers rightly and the merge does not, `[rows]`, as 0 and 1."""
    return answers.right.amin(1) * (1 - answers.merged_right)


def seeds_of(name: str = "adamix", data: str = "noisy") -> list[Answers]:
    """The answers of every seed. Raises as `load_answers`."""
    return [load_answers(name, seed, data=data) for seed in SENTENCE_SEEDS]


def mean_of(runs: Sequence[Answers], way: str, unit: str) -> float:
    """A way's accuracy in % ("points") or loss ("nats"), the mean over runs."""
    found = torch.stack([scored(run, way, unit).mean() for run in runs])
    return (100 if unit == "points" else 1) * float(found.mean())


def four_ways(runs: Sequence[Answers]) -> DataFrame:
    """By way of answering and what it runs: its passes, accuracy (%) and loss (nats), means over seeds."""
    import pandas as pd

    lines = {
        f"{name}: {way.runs}": {
            "passes": way.passes or runs[0].routes.shape[1],
            "accuracy (%)": round(mean_of(runs, name, "points"), 1),
            "loss (nats)": round(mean_of(runs, name, "nats"), 3),
        }
        for name, way in WAYS.items()
    }
    return pd.DataFrame.from_dict(lines, orient="index")


def draw_fan(**settings: Any) -> Picture:
    """Curves of the one-dimensional world, their mean and the merge."""
    return draw_world(train_world(World(**settings))).picture


def draw_violins(runs: Sequence[Answers]) -> Picture:
    """A violin of all routes for each seed, accuracy and loss, with the merge, expert 0 and the ensemble marked."""
    figure, axes = panels(2, 11.0, 4.4)
    told = [_violins(ax, runs, unit) for ax, unit in zip(axes, ("points", "nats"), strict=True)]
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=11)
    number = runs[0].routes.shape[1]
    return Picture(figure, f"Violins of {number} routes, one for each of {len(runs)} seeds. {' '.join(told)}")


def _violins(ax: Axes, runs: Sequence[Answers], unit: str) -> str:
    import seaborn

    factor, label, digits = (100, "accuracy (%)", 1) if unit == "points" else (1, "loss (nats)", 3)
    routes = factor * torch.stack([(run.right if unit == "points" else run.loss).mean(0) for run in runs])
    places, colour = torch.arange(len(runs)), STYLES["random"][0]
    seaborn.violinplot([*routes.numpy()], color=colour, alpha=0.3, cut=0, inner=None, linewidth=0, ax=ax)
    ax.plot(places, routes, ".", color=colour, alpha=0.6)
    for way, aside in (("merged", -0.2), ("fixed", 0.0), ("ensemble", 0.2)):  # side by side where they are equal
        found, (colour, marker) = [factor * float(scored(run, way, unit).mean()) for run in runs], STYLES[way]
        ax.plot(places + aside, found, marker, color=colour, markersize=9, markeredgecolor="white", label=way)
    ax.set_xticks(places.tolist(), [str(n) for n in range(1, len(runs) + 1)])
    ax.set(xlabel="seed", ylabel=label)
    despine(ax)
    listed = ", ".join(f"{way} {mean_of(runs, way, unit):.{digits}f}" for way in ("merged", "fixed", "ensemble"))
    spread = f"routes from {float(routes.min()):.{digits}f} to {float(routes.max()):.{digits}f}"
    return f"{label.capitalize()}: {spread}; on average {listed}."


def draw_jensen(answers: Answers) -> Picture:
    """By how much the routes' mean loss lies above the ensemble's, and above the merge's, on each row, in order."""
    mean = scored(answers, "random", "nats")
    figure, ax = new_figure(8.5, 4.0)
    told = []
    for way, name, dashes in (("ensemble", "the ensemble", "--"), ("merged", "the merge", "-")):
        gaps = (mean - scored(answers, way, "nats")).sort().values
        ax.plot(gaps, dashes, color=STYLES[way][0], linewidth=3, label=f"minus the loss of {name}")
        below = int((gaps < -1e-6).sum())
        told.append(f"{name}: below 0 on {below} of {len(gaps)} rows, lowest {float(gaps[0]):.3f}, highest "
                    f"{float(gaps[-1]):.3f}, mean {float(gaps.mean()):.4f}")  # fmt: skip
    ax.axhline(0, color="black", linewidth=1)
    ax.set(xlabel="rows, each line in its own order", ylabel="mean loss of the routes minus … (nats)")
    ax.legend(frameon=False, fontsize=11)
    despine(ax)
    return Picture(figure, f"The routes' mean loss minus another, row by row. {'; '.join(told)}.")


def lost_rows(answers: Answers, task: Task, most: int = 5) -> DataFrame:
    """Sentences that every route answers rightly and the merge does not, the worst first.

    By sentence: its label, and the label's probability (%) under the least sure route and under the merge.
    """
    import pandas as pd

    least, merged = (-answers.loss).amin(1).exp(), (-answers.merged_loss).exp()
    columns = {
        "label": [task.classes[label] for label in answers.labels.tolist()],
        "least sure route (%)": (100 * least).round().int().tolist(),
        "the merge (%)": (100 * merged).round().int().tolist(),
    }
    texts = [str(row[task.text[0]]) for row in task.evaluation[: len(merged)]]
    lost = all_right_but_the_merge(answers).bool().tolist()
    return pd.DataFrame(columns, index=texts)[lost].sort_values("the merge (%)", kind="stable").head(most)


# -- the widget: a sentence of the learner's own -----------------------------------------------------------


def draw_asked(answers: Answers, sentence: str, classes: Sequence[str]) -> View:
    """The last class's probability under each route on a line, below it under expert 0, the ensemble and the merge."""
    routes, merged, name = answers.routes[0, :, -1].exp(), answers.merged[:, -1].exp(), classes[-1]
    ways = {"random: each route": routes, "fixed: expert 0": routes[:1]}
    ways |= {"ensemble of all": routes.mean(0, keepdim=True), "merged": merged}
    notes = [f"{100 * float(p.mean()):.0f} %" for p in ways.values()]
    agree = int(((routes > 0.5) == (merged > 0.5)).sum())
    readout = (
        f"The merge says {classes[int(merged > 0.5)]} ({notes[-1]} {name}); {agree} of {len(routes)} routes say the "
        f"same. They give {100 * float(routes.min()):.0f} to {100 * float(routes.max()):.0f} %, on average {notes[0]}."
    )
    alt = f"Probability of {name} for “{sentence}” under every route. {readout}"
    return View(readout, draw_probabilities(ways, name, notes, alt))


def agreement_explorer(models: Mapping[str, tuple[MixtureModel, Any]], task: Task) -> Explorer:
    """The widget of lesson 04. models: (mixture, tokenizer) by the name that the learner sees."""
    words = described("agreement", experts=choices(models))
    return Explorer(
        **words | {"shown": {**words["shown"], "experts": [*models][-1]}},
        compute=lambda sentence, experts: (answers_to(*models[experts], task, sentence), sentence, task.classes),
        draw=lambda asked: draw_asked(*asked),
    )
