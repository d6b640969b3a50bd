"""What was measured of a table's comparisons, at equal steps and at equal compute, beside what is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from adamix_lab.analysis.statistics import Estimate, holm, t_interval
from adamix_lab.experiments.contrasts import Budget, OnTask, Scores
from adamix_lab.experiments.tables import Line, Table

BUDGETS: tuple[Budget, ...] = ("steps", "compute")


@dataclass(frozen=True)
class Measured:
    """One comparison beside the paper's.

    Attributes:
        printed: the paper's differences by printed column, `average` included where there is one.
        ours: what was measured, by budget and column; columns that the paper lacks carry the task's name.
        mean: over the tasks, of the seeds that all have, by budget; None where they have none in common.
        adjusted: Holm's p over all tasks and lines of the table, by budget and column.
    """

    line: Line
    printed: dict[str, float]
    ours: dict[Budget, dict[str, OnTask]]
    mean: dict[Budget, Estimate | None]
    adjusted: dict[tuple[Budget, str], float] = field(default_factory=dict)


def measure(table: Table, scores: Scores, bootstrap: bool = True) -> list[Measured]:
    """Every comparison of a table, at both budgets."""
    columns = columns_of(table, scores)
    found = []
    for line in table.lines:
        ours: dict[Budget, dict[str, OnTask]] = {}
        for budget in BUDGETS:
            own: dict[str, OnTask] = {}
            if budget == "steps" or needs_compute(line):
                for column, (task, metric) in columns.items():
                    contrast = replace(line.contrast, metric=metric)
                    on = scores.on_task(contrast, task, budget, bootstrap)
                    if on.by_seed:
                        own[column] = on
            ours[budget] = own
        mean = {budget: mean_over(list(own.values())) for budget, own in ours.items()}
        found.append(Measured(line, line.printed(), ours, mean))
    return _corrected(found)


def needs_compute(line: Line) -> bool:
    """Whether the comparison is between trained runs, so that equal compute differs from equal steps."""
    return len({side.variant for _, side in line.contrast.terms}) > 1


def columns_of(table: Table, scores: Scores) -> dict[str, tuple[str, str | None]]:
    """The printed columns, then further tasks that were run here."""
    known = {task for task, _ in table.columns.values()}
    further = [task for task in scores.tasks(table.few_shot) if task not in known and "e2e" not in known]
    return {**table.columns, **{task: (task, None) for task in further}}


def mean_over(on: Sequence[OnTask]) -> Estimate | None:
    """Of the mean over tasks, from the seeds that all of them have; None where there is no such seed."""
    if not on:
        return None
    seeds = sorted(set.intersection(*(set(each.by_seed) for each in on)))
    return t_interval([float(np.mean([each.by_seed[seed] for each in on])) for seed in seeds]) if seeds else None


def _corrected(found: list[Measured]) -> list[Measured]:
    ps: dict[Budget, list[tuple[int, str, float]]] = {"steps": [], "compute": []}
    for n, each in enumerate(found):
        for budget, own in each.ours.items():
            ps[budget] += [(n, column, on.estimate.p) for column, on in own.items()]
    adjusted: list[dict[tuple[Budget, str], float]] = [{} for _ in found]
    for budget, tests in ps.items():
        for (n, column, _), p in zip(tests, holm([p for _, _, p in tests]), strict=True):
            adjusted[n][budget, column] = p
    return [replace(each, adjusted=own) for each, own in zip(found, adjusted, strict=True)]


def detail_rows(table: Table, found: Sequence[Measured]) -> list[dict[str, object]]:
    """Every comparison of a table as a tidy row, in points: estimate, intervals, p, and the paper's difference."""
    rows: list[dict[str, object]] = []
    for each in found:
        for budget, own in each.ours.items():
            for column, on in own.items():
                estimate, interval = on.estimate, on.rows or (math.nan, math.nan)
                rows.append(
                    {
                        "table": table.name,
                        "comparison": each.line.says,
                        "column": column,
                        "task": on.task,
                        "budget": budget,
                        "paper": each.printed.get(column, math.nan),
                        "difference": estimate.mean,
                        "seeds": estimate.number,
                        "low": estimate.low,
                        "high": estimate.high,
                        "low_over_examples": interval[0],
                        "high_over_examples": interval[1],
                        "p": estimate.p,
                        "p_holm": each.adjusted[budget, column],
                    }
                )
    return rows
