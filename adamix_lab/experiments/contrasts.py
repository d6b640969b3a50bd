"""Contrasts: weighted differences between variants, paired by seed, task by task.

A contrast such as "AdaMix minus single" or "(M = 4 minus M = 2) minus (M = 8 minus M = 4)" is data. Its value on a task
is a number a seed: runs of one seed share head start, batch order and few-shot rows, so they are compared in pairs, and
row by row where predictions are there. Scores count in points (metrics times 100), losses in nats; the sign of a loss
is turned round, so that more is better everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from adamix_lab.analysis.statistics import Estimate, resampled_rows, rows_variance, t_interval
from adamix_lab.experiments.results import Results, variant_called
from adamix_lab.experiments.settings import Budget

if TYPE_CHECKING:
    from pandas import DataFrame

Measure = Literal["score", "nll", "loss"]
TRAINING_LOSS = "training loss"
DRAWS_FOR_BEST = 10  # random draws a run needs before the best of them means something
REFERENCE = "AdaMix"  # its operations are what "equal compute" means, so its rows of equal steps serve there, too
AGAINST: dict[str, tuple[Measure, str]] = {  # what AdaMix is compared with others in: a measure, and how both answer
    "points": ("score", "merged"),
    "nats": ("nll", "merged"),
    "nats at fitted temperatures": ("nll", "scaled"),
}


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a variant, and how its experts answer.

    best: the best of a run's random draws instead of their mean.
    """

    variant: str
    strategy: str = "merged"
    best: bool = False

    @classmethod
    def named(cls, name: str) -> Side:
        """The side that `str` writes like that: "AdaMix", "AdaMix, random", "AdaMix, random, best draw"."""
        parts = name.split(", ")
        return cls(parts[0], parts[1] if len(parts) > 1 else "merged", "best draw" in parts)

    def __str__(self) -> str:
        shown = self.variant if self.strategy == "merged" else f"{self.variant}, {self.strategy}"
        return f"{shown}, best draw" if self.best else shown


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of sides.

    Attributes:
        terms: weights and sides.
        measure: "score", the task's metric; "nll", minus the loss on the evaluation rows; "loss", minus the mean
            training loss of the task over the run.
        few_shot: of runs on few examples, instead of runs on all.
        metric: another metric than the task's primary one.
    """

    terms: tuple[tuple[float, Side], ...]
    measure: Measure = "score"
    few_shot: bool = False
    metric: str | None = None

    @property
    def unit(self) -> str:
        """What it counts in."""
        return "points" if self.measure == "score" else "nats"


def minus(first: str | Side, second: str | Side, **more: Any) -> Contrast:
    """The contrast of two sides."""
    a, b = (Side(side) if isinstance(side, str) else side for side in (first, second))
    return Contrast(((1.0, a), (-1.0, b)), **more)


@dataclass(frozen=True)
class OnTask:
    """A contrast on one task.

    Attributes:
        by_seed: its value for each seed that all sides have.
        rows_variance: what the choice of evaluation rows adds to the variance of the mean over seeds; None where that
            is not known (no predictions, or of other rows a seed).
    """

    task: str
    by_seed: dict[int, float]
    rows_variance: float | None = None

    @property
    def estimate(self) -> Estimate:
        """Over seeds, and rows where they are known."""
        return t_interval(list(self.by_seed.values()), self.rows_variance or 0.0)


class Answers(NamedTuple):
    """What a run answered, `[rows]` each, in the order of the rows."""

    labels: Any
    predictions: Any
    probabilities: Any  # of the label; nan in a regression


def mean_by_seed(on: Sequence[OnTask]) -> dict[int, float]:
    """The mean over tasks for each seed that all of them have."""
    seeds = sorted(set.intersection(*(set(each.by_seed) for each in on))) if on else []
    return {seed: float(np.mean([each.by_seed[seed] for each in on])) for seed in seeds}


def mean_estimate(plus: Sequence[OnTask], less: Sequence[OnTask] = ()) -> Estimate:
    """The mean over tasks (minus that over others), over seeds and rows. Raises ValueError without a seed in common."""
    a, b = mean_by_seed(plus), mean_by_seed(less)
    rows = [sum(each.rows_variance or 0.0 for each in on) / len(on) ** 2 for on in (plus, less) if on]
    return t_interval([a[seed] - b.get(seed, 0.0) for seed in a if not less or seed in b], sum(rows))


class Scores:
    """The results, looked up by what a contrast names."""

    def __init__(self, results: Results) -> None:
        import pandas as pd

        self.results = results
        table = pd.concat([results.table, training_losses(results)], ignore_index=True)
        table = table.assign(few=table["examples"] > 0)
        primary = table[table["primary"]]
        self.primary: dict[str, str] = dict(zip(primary["task"], primary["metric"], strict=True))
        of_cell = ["task", "variant", "strategy", "compute", "few", "metric"]
        self._cells: dict[Any, DataFrame] = dict(iter(table.groupby(of_cell, sort=False)))
        self._none = table.iloc[:0]
        self._named: dict[str, str | None] = {}

    def tasks(self, few_shot: bool = False) -> list[str]:
        """The tasks that were run on all rows, or on few."""
        return list(dict.fromkeys(task for task, *_, few, _ in self._cells if few == few_shot))

    def variant(self, name: str) -> str | None:
        """The variant that a name means."""
        if name not in self._named:
            self._named[name] = variant_called(self.results, name)
        return self._named[name]

    # -- one side -----------------------------------------------------------------------------------------

    def cell(
        self, task: str, side: Side, budget: Budget = "steps", few_shot: bool = False, metric: str | None = None
    ) -> DataFrame:
        """The results' rows of one side, several a seed for random draws; empty where there are none."""
        variant = self.variant(side.variant)
        key = (task, variant, side.strategy, budget, few_shot, metric or self.primary.get(task))
        if key not in self._cells and budget == "compute" and variant == REFERENCE:
            return self.cell(task, side, "steps", few_shot, metric)
        return self._cells.get(key, self._none)

    def by_seed(self, task: str, side: Side, contrast: Contrast, budget: Budget) -> dict[int, float]:
        """One number a seed, in points or nats."""
        metric = {"score": contrast.metric, "nll": "loss", "loss": TRAINING_LOSS}[contrast.measure]
        draws = self.cell(task, side, budget, contrast.few_shot, metric).groupby("seed")["value"]
        found = draws.max()[draws.size() >= DRAWS_FOR_BEST] if side.best else draws.mean()
        scale = 100 if contrast.measure == "score" else -1
        return {int(seed): scale * float(value) for seed, value in found.items()}

    # -- a contrast -----------------------------------------------------------------------------------------

    def on_task(self, contrast: Contrast, task: str, budget: Budget = "steps") -> OnTask:
        """The contrast's value for each seed that every side has."""
        sides = [(weight, self.by_seed(task, side, contrast, budget)) for weight, side in contrast.terms]
        seeds = sorted(set.intersection(*(set(values) for _, values in sides)))
        by_seed = {seed: sum(weight * own[seed] for weight, own in sides) for seed in seeds}
        answers = self._paired_answers(contrast, task, budget, seeds)
        return OnTask(task, by_seed, self._rows_variance(contrast, task, answers) if answers else None)

    def against_each(
        self, measures: Sequence[str] = tuple(AGAINST), few_shot: bool = False
    ) -> Iterator[tuple[str, Budget, str, str, OnTask]]:
        """Task, view, measure, other, and AdaMix minus each other variant, where they have a seed in common.

        measures: of AGAINST. AdaMix's equal steps serve as its equal compute, too.
        """
        own, table = self.variant(REFERENCE), self.results.table
        for (task, view), part in table[(table["examples"] > 0) == few_shot].groupby(["task", "compute"], sort=False):
            for name, other in itertools.product(measures, part.loc[part["variant"] != own, "variant"].unique()):
                measure, strategy = AGAINST[name]
                sides = Side(REFERENCE, strategy), Side(other, strategy)
                on = self.on_task(minus(*sides, measure=measure, few_shot=few_shot), task, view)
                if on.by_seed:
                    yield task, view, name, other, on

    def absent(self, contrast: Contrast, task: str, budget: Budget = "steps") -> list[str]:
        """The sides that have no value on a task."""
        return [str(side) for _, side in contrast.terms if not self.by_seed(task, side, contrast, budget)]

    def chance(self, task: str) -> float | None:
        """What answering without looking scores, in points: the commonest label's share; 0 for correlations.

        None where that is not known: labels are in the predictions.
        """
        if self.primary.get(task) in ("matthews", "pearson", "spearman"):
            return 0.0
        table = self.results.table
        runs = set(table.loc[table["task"] == task, "run"])
        labels = next((answer.labels for (run, _), answer in self._answers.items() if run in runs), None)
        if labels is None or self.primary.get(task) != "accuracy":
            return None
        return 100 * float(np.unique(labels, return_counts=True)[1].max() / len(labels))

    def learned(self, contrast: Contrast, task: str, budget: Budget, margin: float) -> bool:
        """Whether every side's mean score is above chance by more than a margin; False where chance is not known."""
        means = [np.mean(list(self.by_seed(task, side, contrast, budget).values())) for _, side in contrast.terms]
        chance = self.chance(task)
        return chance is not None and all(float(mean) > chance + margin for mean in means)

    def _paired_answers(
        self, contrast: Contrast, task: str, budget: Budget, seeds: Sequence[int]
    ) -> list[list[Answers]]:
        # by side and seed; none where a run lacks its predictions, or has several, or was asked other rows
        found: list[list[Answers]] = []
        if contrast.measure == "loss":
            return found
        for _, side in contrast.terms:
            rows = self.cell(task, side, budget, contrast.few_shot, contrast.metric)
            runs = [list(rows.loc[rows["seed"] == seed, "run"]) for seed in seeds]
            own = [self._answers.get((run[0], side.strategy)) if len(run) == 1 else None for run in runs]
            whole = [each for each in own if each is not None]
            if len(whole) < len(own):
                return []
            found.append(whole)
        every = [each for own in found for each in own]
        alike = all(np.array_equal(each.labels, every[0].labels) for each in every)
        return found if alike and every else []

    def _rows_variance(self, contrast: Contrast, task: str, answers: list[list[Answers]]) -> float | None:
        metric = contrast.metric or self.primary.get(task, "")
        weights = [weight for weight, _ in contrast.terms]
        if contrast.measure == "nll":
            values = [[np.log(np.maximum(each.probabilities, 1e-38)) for each in own] for own in answers]
        elif metric == "accuracy":
            values = [[100.0 * (each.predictions == each.labels) for each in own] for own in answers]
        else:
            return self._resampled_variance(metric, weights, answers)
        return rows_variance(sum(weight * np.stack(own) for weight, own in zip(weights, values, strict=True)))

    def _resampled_variance(self, metric: str, weights: list[float], answers: list[list[Answers]]) -> float | None:
        # of a metric that is no mean over rows; None of other sums than a difference, and of metrics not made of rows
        if weights != [1.0, -1.0]:
            return None
        pairs = [(a.predictions, b.predictions) for a, b in zip(*answers, strict=True)]
        try:
            return float(np.var(100 * resampled_rows(metric, pairs, answers[0][0].labels), ddof=1))
        except KeyError:
            return None

    @cached_property
    def _answers(self) -> dict[tuple[str, str], Answers]:
        """What each run answered by each strategy; those with a row twice are left out."""
        if (table := self.results.predictions) is None:
            return {}
        columns = ["label", "prediction", "probability_of_label"]
        return {
            key: Answers(*(part[name].to_numpy(float) for name in columns))
            for key, part in table.sort_values("row").groupby(["run", "strategy"])
            if not part["row"].duplicated().any()
        }


def training_losses(results: Results) -> DataFrame:
    """Rows as results have them, of the metric TRAINING_LOSS of the merge: the mean over each run's curve."""
    rows = results.table.drop_duplicates("run")
    if (curves := results.curves) is None:
        return rows.iloc[:0]
    means = rows["run"].map(curves.groupby("run")["task_loss"].mean())
    rows = rows.assign(strategy="merged", metric=TRAINING_LOSS, primary=False, value=means)
    return rows[means.notna()]
