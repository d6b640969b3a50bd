"""Lesson 04: four ways to answer with what was trained: merged, as an ensemble, by one expert, by a random route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, despine, fix_margins, new_figure, panels
from adamix_lab.analysis.posterior import every_route, fix_batches, marginal, merged_sample
from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.answers import Answers, load_answers
from adamix_lab.lessons.checks.merging import check_agree as check_agree
from adamix_lab.lessons.checks.telling import attempt as attempt
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.effects import forest as forest
from adamix_lab.lessons.program import check_program as check_program
from adamix_lab.lessons.program import mine as mine
from adamix_lab.lessons.widgets import Explorer, Steps, View, Words
from adamix_lab.lessons.widgets import Prediction as Prediction
from adamix_lab.lessons.widgets import brier as brier
from adamix_lab.lessons.world import HIDES as HIDES
from adamix_lab.lessons.world import World, draw_world, train_world
from adamix_lab.lessons.world import world_explorer as world_explorer
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.shipped import SENTENCE_SEEDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# What each way runs, and the passes that it takes through the model for one answer; None: one for each route.
WAYS: dict[str, tuple[str, int | None]] = {
    "merged": ("one pass with the mean of the experts' weights", 1),
    "fixed": ("one pass through expert 1 in every block", 1),
    "random": ("one pass through a route drawn at random", 1),
    "four": ("four random routes, logits averaged (the paper's ensemble)", 4),
    "ensemble": ("every route, probabilities averaged", None),
}
DRAWS = 64  # of four routes, which the paper's ensemble is averaged over


def scored(answers: Answers, way: str, unit: str = "points") -> Tensor:
    """Whether a way of answering is right ("points") or its loss ("nats"), `[rows]`; random ways on average.

    Raises ValueError for an unknown way or unit.
    """
    one_of("Way of answering", way, WAYS)
    one_of("unit", unit, ("points", "nats"))
    if way == "random":
        return (answers.right if unit == "points" else answers.loss).mean(1)
    if way == "merged":
        given = answers.merged[:, None]
    elif way == "fixed":
        given = answers.routes[:, answers.fixed[:1]]
    elif way == "ensemble":
        given = marginal(answers.routes)[:, None]
    else:
        draws = torch.randint(answers.routes.shape[1], (DRAWS, 4), generator=generator_for(4))
        given = answers.routes[:, draws].mean(2).log_softmax(-1)  # log-probabilities average as logits do
    labels = answers.labels[:, None].expand(-1, given.shape[1])
    if unit == "points":
        return (given.argmax(-1) == labels).float().mean(1)
    return -given.gather(-1, labels[..., None]).squeeze(-1).mean(1)


def agreement(routes: Tensor, merged: Tensor) -> Tensor:
    """The share of routes `[rows, routes, C]` whose answer is that of the merge `[rows, C]`: `[rows]`."""
    return (routes.argmax(-1) == merged.argmax(-1, keepdim=True)).float().mean(1)


def all_right_but_the_merge(answers: Answers) -> Tensor:
    """Rows that every route answers rightly and the merge does not, `[rows]`, as 0 and 1."""
    return answers.right.amin(1) * (1 - answers.merged_right)


def seeds_of(name: str = "adamix", data: str = "noisy") -> list[Answers]:
    """The answers of every seed that is shipped. Raises FileNotFoundError where none is."""
    found: list[Answers] = []
    for seed in SENTENCE_SEEDS:
        try:
            found.append(load_answers(name, seed, data=data))
        except FileNotFoundError:
            if seed == SENTENCE_SEEDS[-1] and not found:
                raise
    return found


def four_ways(runs: Sequence[Answers]) -> DataFrame:
    """By way of answering and what it runs: its passes, accuracy (%) and loss (nats), means over seeds."""
    import pandas as pd

    routes = runs[0].routes.shape[1]
    lines = {
        f"{way}: {what}": {
            "passes": passes or routes,
            "accuracy (%)": round(sum(100 * float(scored(run, way).mean()) for run in runs) / len(runs), 1),
            "loss (nats)": round(sum(float(scored(run, way, "nats").mean()) for run in runs) / len(runs), 3),
        }
        for way, (what, passes) in WAYS.items()
    }
    return pd.DataFrame.from_dict(lines, orient="index")


def draw_fan(**settings: Any) -> Picture:
    """Curves of the one-dimensional world, their mean and the merge."""
    return draw_world(train_world(World(**settings))).picture


def draw_violins(runs: Sequence[Answers]) -> Picture:
    """A violin of all routes for each seed, accuracy and loss, with the merge, expert 1 and the ensemble marked."""
    figure, axes = panels(2, 11.0, 4.4)
    told = [
        _violins(ax, runs, unit, label)
        for ax, unit, label in zip(axes, ("points", "nats"), ("accuracy (%)", "loss (nats)"), strict=True)
    ]
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, frameon=False, fontsize=11)
    number = runs[0].routes.shape[1]
    return Picture(figure, f"Violins of {number} routes, one for each of {len(runs)} seeds. {' '.join(told)}")


def _violins(ax: Axes, runs: Sequence[Answers], unit: str, label: str) -> str:
    factor = 100 if unit == "points" else 1
    routes = [factor * (run.right if unit == "points" else run.loss).mean(0) for run in runs]
    places, means = list(range(1, len(runs) + 1)), {}
    shapes: Any = ax.violinplot([values.numpy() for values in routes], places, widths=0.8, showextrema=False)["bodies"]
    for body in shapes:
        body.set(facecolor=STYLES["random"][0], alpha=0.3)
    for n, values in zip(places, routes, strict=True):
        dots = ax.plot([n] * len(values), values, ".", color=STYLES["random"][0], alpha=0.6)
    dots[0].set_label("each of 16 routes" if len(values) == 16 else "each route")
    for way, aside in (("merged", -0.2), ("fixed", 0.0), ("ensemble", 0.2)):  # side by side where they are equal
        found = [factor * float(scored(run, way, unit).mean()) for run in runs]
        means[way] = sum(found) / len(found)
        colour, marker = STYLES[way]
        ax.plot(
            [n + aside for n in places],
            found,
            marker,
            color=colour,
            markersize=9,
            markeredgecolor="white",
            linestyle="none",
            label=way,
        )
    ax.set_xticks(places)
    ax.set(xlabel="seed", ylabel=label)
    despine(ax)
    digits = 1 if unit == "points" else 3
    low, high = min(float(v.min()) for v in routes), max(float(v.max()) for v in routes)
    listed = ", ".join(f"{way} {mean:.{digits}f}" for way, mean in means.items())
    return f"{label.capitalize()}: routes from {low:.{digits}f} to {high:.{digits}f}; on average {listed}."


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

    labels = answers.labels
    merged = answers.merged.gather(-1, labels[:, None])[:, 0].exp()
    least = (-answers.loss).amin(1).exp()
    rows = all_right_but_the_merge(answers).nonzero()[:, 0]
    rows = rows[merged[rows].argsort()][:most]
    return pd.DataFrame(
        {
            "label": [task.classes[int(labels[n])] for n in rows.tolist()],
            "least sure route (%)": (100 * least[rows]).round().int().tolist(),
            "the merge (%)": (100 * merged[rows]).round().int().tolist(),
        },
        index=[str(task.evaluation[n][task.text[0]]) for n in rows.tolist()],
    )


def verdict_of(effect: str, first: str, second: str, lesson: str = "04") -> str:
    """What a prediction is compared with: the side that an effect is shown to be higher on, "alike" or "not shown"."""
    (row,) = [row for row in effects_table(lesson, effect).rows if row["effect"] == effect]
    if row["verdict"] != "shown":
        return row["verdict"]
    return first if float(row["mean"]) > 0 else second


# -- the widget: a sentence of the learner's own -----------------------------------------------------------

SENTENCE = "the film is set in paris, and i loved every minute of it."


@dataclass(frozen=True)
class Asked:
    """What is answered to a sentence: probabilities of the last class, under every route and merged."""

    sentence: str
    classes: tuple[str, ...]
    routes: Tensor
    merged: float

    @property
    def mean(self) -> float:
        """Under the ensemble of all routes."""
        return float(self.routes.mean())

    @property
    def agree(self) -> int:
        """How many routes give the merge's answer."""
        return int(((self.routes > 0.5) == (self.merged > 0.5)).sum())


def ask(mixture: MixtureModel, tokenizer: Any, task: Task, sentence: str) -> Asked:
    """Sends a sentence down every route, and through the merge."""
    fixed = fix_batches(mixture, task, tokenizer, [{task.text[0]: sentence}], batch_size=1)
    routes, merged = every_route(fixed).log_probabilities[0], merged_sample(fixed).log_probabilities[0, 0]
    return Asked(sentence, task.classes, routes[:, -1].exp(), float(merged[-1].exp()))


def draw_asked(asked: Asked) -> View:
    """The routes' probabilities on a line, with the merge, expert 1 and the ensemble."""
    figure, ax = new_figure(8.5, 2.6)
    name, number = asked.classes[-1], len(asked.routes)
    heights = 0.15 * torch.arange(number).remainder(4)
    ax.plot(asked.routes, heights, "o", color=STYLES["random"][0], markersize=11, alpha=0.5, label="a route")
    ways = (("merged", asked.merged, 1.0), ("fixed", float(asked.routes[0]), 0.85), ("ensemble", asked.mean, 0.7))
    for way, p, height in ways:
        colour, marker = STYLES[way]
        ax.plot(p, height, marker, color=colour, markersize=13, markeredgecolor="white", label=way)
    ax.axvline(0.5, color="black", linestyle=":")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.15, 1.15), yticks=[], xlabel=f"probability of “{name}”")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(frameon=False, fontsize=11, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    fix_margins(figure, left=0.03, right=0.97, bottom=0.22, top=0.85)
    says = asked.classes[-1] if asked.merged > 0.5 else asked.classes[0]
    low, high = float(asked.routes.min()), float(asked.routes.max())
    readout = (
        f"The merge says {says} ({100 * asked.merged:.0f} % {name}); {asked.agree} of {number} routes say the same. "
        f"They give {100 * low:.0f} to {100 * high:.0f} %, on average {100 * asked.mean:.0f} %."
    )
    return View(readout, Picture(figure, f"Probability of {name} for “{asked.sentence}” under every route. {readout}"))


def agreement_explorer(models: Mapping[str, tuple[MixtureModel, Any]], task: Task) -> Explorer:
    """The widget of lesson 04. models: (mixture, tokenizer) by the name that the learner sees."""
    if not models:
        raise LabError("No model was given: expected at least one, (mixture, tokenizer) by its name.")
    names = tuple(models)
    return Explorer(
        "How many routes agree with the merge?",
        "Write a sentence on which fewer than half of the routes say what the merge says.",
        [Words("sentence", "sentence", SENTENCE), Steps("experts", "experts", names, names[0])],
        lambda sentence, experts: ask(*models[experts], task, sentence),
        draw_asked,
        shown={"experts": names[-1]},
    )
