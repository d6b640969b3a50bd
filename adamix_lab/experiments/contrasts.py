"""Contrasts: weighted differences between variants, paired by seed, task by task.

A contrast such as "AdaMix minus single" or "(M = 4 minus M = 2) minus (M = 8 minus M = 4)" is data. Its value on a task
is a number a seed: runs of one seed share head start, batch order and few-shot rows, so they are compared in pairs.
Scores count in points (metrics times 100), training losses in nats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from adamix_lab.analysis.statistics import Estimate, paired_bootstrap, t_interval
from adamix_lab.experiments.results import Results, variant_called

Budget = Literal["steps", "compute"]
DRAWS_FOR_BEST = 10  # random draws a run needs before the best of them means something
REFERENCE = "AdaMix"  # its operations are what "equal compute" means, so its own rows serve both budgets


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a variant, and how its experts answer.

    best: the best of a run's random draws instead of their mean.
    """

    variant: str
    strategy: str = "merged"
    best: bool = False

    def __str__(self) -> str:
        shown = self.variant if self.strategy == "merged" else f"{self.variant}, {self.strategy}"
        return f"{shown}, best draw" if self.best else shown


Terms = tuple[tuple[float, Side], ...]


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of sides.

    Attributes:
        terms: weights and sides.
        measure: "score", the task's metric, or "loss", minus the mean training loss of the task over the run.
        few_shot: of runs on few examples, instead of runs on all.
        metric: another metric than the task's primary one.
    """

    terms: Terms
    measure: Literal["score", "loss"] = "score"
    few_shot: bool = False
    metric: str | None = None

    def __str__(self) -> str:
        parts = []
        for weight, side in self.terms:
            sign = "−" if weight < 0 else "+"
            size = "" if abs(weight) == 1 else f"{abs(weight):g} × "
            parts.append(f"{sign} {size}{side}")
        return " ".join(parts).removeprefix("+ ")


def minus(first: str | Side, second: str | Side, **more: Any) -> Contrast:
    """The contrast of two sides."""
    a, b = (Side(side) if isinstance(side, str) else side for side in (first, second))
    return Contrast(((1.0, a), (-1.0, b)), **more)


@dataclass(frozen=True)
class OnTask:
    """A contrast on one task.

    Attributes:
        by_seed: its value for each seed that all sides have.
        rows: the bootstrap's 95 % interval over examples; None without predictions, or with more than two sides.
    """

    task: str
    by_seed: dict[int, float]
    rows: tuple[float, float] | None = None

    @property
    def estimate(self) -> Estimate:
        """Over seeds."""
        return t_interval(list(self.by_seed.values()))


class Scores:
    """The results, looked up by what a contrast names."""

    def __init__(self, results: Results) -> None:
        self.results = results
        table = results.table
        primary = table[table["primary"]]
        self.primary: dict[str, str] = dict(zip(primary["task"], primary["metric"], strict=True))
        self._named: dict[str, str | None] = {}
        self._cells: dict[tuple[Any, ...], dict[int, list[tuple[str, float]]]] = defaultdict(lambda: defaultdict(list))
        names = ("task", "variant", "strategy", "compute", "examples", "metric", "seed", "run", "value")
        for task, variant, strategy, compute, examples, metric, seed, run, value in zip(
            *(table[name] for name in names), strict=True
        ):
            key = (task, variant, strategy, compute, examples > 0, metric)
            self._cells[key][int(seed)].append((run, float(value)))
        self._runs: dict[tuple[Any, ...], list[tuple[str, int]]] = defaultdict(list)
        runs = table.drop_duplicates("run")
        for run, task, variant, compute, examples, seed in zip(
            *(runs[name] for name in ("run", "task", "variant", "compute", "examples", "seed")), strict=True
        ):
            self._runs[task, variant, compute, examples > 0].append((run, int(seed)))

    def tasks(self, few_shot: bool = False) -> list[str]:
        """The tasks that were run on all rows, or on few."""
        return list(dict.fromkeys(key[0] for key in self._cells if key[4] == few_shot))

    def variant(self, name: str) -> str | None:
        """The variant that a name means."""
        if name not in self._named:
            self._named[name] = variant_called(self.results, name)
        return self._named[name]

    # -- one side -----------------------------------------------------------------------------------------

    def cell(
        self,
        task: str,
        side: Side,
        budget: Budget = "steps",
        few_shot: bool = False,
        metric: str | None = None,
    ) -> dict[int, list[tuple[str, float]]]:
        """(run, value) pairs by seed; several for random draws. Empty where there are none."""
        variant = self.variant(side.variant)
        named = metric or self.primary.get(task)
        found = self._cells.get((task, variant, side.strategy, budget, few_shot, named), {})
        if not found and budget == "compute" and variant == REFERENCE:
            return self.cell(task, side, "steps", few_shot, metric)
        return found

    def by_seed(self, task: str, side: Side, contrast: Contrast, budget: Budget) -> dict[int, float]:
        """One number a seed, in points or nats."""
        if contrast.measure == "loss":
            return self._losses(task, side, budget, contrast.few_shot)
        cells = self.cell(task, side, budget, contrast.few_shot, contrast.metric)
        if side.best:
            cells = {seed: pairs for seed, pairs in cells.items() if len(pairs) >= DRAWS_FOR_BEST}
        take = max if side.best else np.mean
        return {seed: 100 * float(take([value for _, value in pairs])) for seed, pairs in cells.items()}

    def _losses(self, task: str, side: Side, budget: Budget, few_shot: bool) -> dict[int, float]:
        variant = self.variant(side.variant)
        runs = self._runs.get((task, variant, budget, few_shot), [])
        return {seed: -self._mean_loss[run] for run, seed in runs if run in self._mean_loss}

    @cached_property
    def _mean_loss(self) -> dict[str, float]:
        curves = self.results.curves
        if curves is None:
            return {}
        own = "task_loss" if "task_loss" in curves.columns and curves["task_loss"].notna().any() else "loss"
        found = curves.groupby("run")[own].mean()
        return dict(zip(found.index, found, strict=True))

    # -- a contrast -----------------------------------------------------------------------------------------

    def on_task(self, contrast: Contrast, task: str, budget: Budget = "steps", bootstrap: bool = False) -> OnTask:
        """The contrast's value for each seed that every side has; with `bootstrap`, its interval over examples."""
        sides = [(weight, self.by_seed(task, side, contrast, budget)) for weight, side in contrast.terms]
        seeds = sorted(set.intersection(*(set(values) for _, values in sides)))
        values = {seed: sum(weight * own[seed] for weight, own in sides) for seed in seeds}
        found = OnTask(task, values)
        return replace(found, rows=self._over_rows(contrast, task, budget, seeds)) if bootstrap and seeds else found

    def absent(self, contrast: Contrast, task: str, budget: Budget = "steps") -> list[str]:
        """The sides that have no value on a task."""
        return [str(side) for _, side in contrast.terms if not self.by_seed(task, side, contrast, budget)]

    def chance(self, task: str) -> float | None:
        """What answering without looking scores, in points: the commonest label's share; 0 for correlations.

        None where that is not known: labels are in the predictions.
        """
        if self.primary.get(task) in ("matthews", "pearson", "spearman"):
            return 0.0
        runs = {run for key, pairs in self._runs.items() if key[0] == task for run, _ in pairs}
        labels = next((answer[0] for (run, _), answer in self._answers.items() if run in runs), None)
        if labels is None or self.primary.get(task) != "accuracy":
            return None
        return 100 * float(np.unique(labels, return_counts=True)[1].max() / len(labels))

    def learned(self, contrast: Contrast, task: str, budget: Budget, margin: float) -> bool:
        """Whether every side's mean score is above chance by more than a margin; False where chance is not known."""
        means = [np.mean(list(self.by_seed(task, side, contrast, budget).values())) for _, side in contrast.terms]
        chance = self.chance(task)
        return chance is not None and all(float(mean) > chance + margin for mean in means)

    def _over_rows(
        self, contrast: Contrast, task: str, budget: Budget, seeds: Sequence[int]
    ) -> tuple[float, float] | None:
        if [weight for weight, _ in contrast.terms] != [1.0, -1.0] or contrast.measure != "score":
            return None
        metric = contrast.metric or self.primary[task]
        pairs, labels = [], None
        for seed in seeds:
            answers = []
            for _, side in contrast.terms:
                runs = self.cell(task, side, budget, contrast.few_shot, contrast.metric)[seed]
                own = self._answers.get((runs[0][0], side.strategy)) if len(runs) == 1 else None
                if own is None or (labels is not None and not np.array_equal(labels, own[0])):
                    return None
                labels = own[0]
                answers.append(own[1])
            pairs.append((answers[0], answers[1]))
        try:
            low, high = paired_bootstrap(metric, pairs, labels)
        except KeyError:  # a metric that is not made of rows
            return None
        return 100 * low, 100 * high

    @cached_property
    def _answers(self) -> dict[tuple[str, str], tuple[Any, Any]]:
        """(labels, predictions) by run and strategy, in the order of rows; those with a row twice are left out."""
        table = self.results.predictions
        if table is None:
            return {}
        found = {}
        for key, part in table.sort_values("row").groupby(["run", "strategy"]):
            if not part["row"].duplicated().any():
                found[key] = (part["label"].to_numpy(float), part["prediction"].to_numpy(float))
        return found
