"""Intervals over seeds and rows, corrections for many comparisons, and verdicts: the one place that computes them.

Seeds and evaluation rows are crossed: each seed answers the same rows. A mean difference varies with both, so its
variance has three parts: `s2/S + r2/R + e2/(S*R)`, of seeds, of rows, and of their interaction. The spread between
seeds' means estimates the first and the last together; `rows_variance` gives the middle one, and `t_interval` adds it.
(Resampling both at once, the pigeonhole bootstrap, counts the interaction three times: Owen, Annals of Applied
Statistics 1, 2007.)

Over scipy.stats, but for the bootstrap over rows: scipy's resamples arrays of rows, and some metrics here are quicker
from sums over rows that count so often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from adamix_lab.core.errors import LabError, one_of
from adamix_lab.tasks.metrics import wilson as wilson  # one of the intervals, which tables of results need, too

LEVEL = 0.95
ROUNDING = 1e-12  # of the largest value, or of 1 where all are smaller: 5,000 roundings of float64


# The smallest effects that matter, by unit: written down before the runs that are judged by them.
SMALLEST = {"points": 1.0, "nats": 0.02}
SHOWN, ALIKE, NOT_SHOWN = "shown", "alike", "not shown"


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the two-sided p of "the mean is 0".

    One value has no interval (nan). Values that are all equal have one of width 0 and, unless they are 0, no p: a
    spread that was not seen cannot be judged by.

    Attributes:
        number: of values, seeds as a rule.
        error: the standard error; freedom: the t-distribution's degrees of freedom.
    """

    mean: float
    low: float
    high: float
    p: float
    number: int
    error: float = math.nan
    freedom: float = math.nan

    @property
    def half_width(self) -> float:
        """Half of the interval."""
        return self.high - self.mean

    def interval(self, comparisons: int = 1) -> tuple[float, float]:
        """The interval for one of so many comparisons: together they hold with 95 % (Bonferroni)."""
        from scipy.stats import t

        if math.isnan(self.error) or self.error == 0:
            return self.low, self.high
        half = self.error * float(t.isf((1 - LEVEL) / 2 / comparisons, self.freedom))
        return self.mean - half, self.mean + half


def t_interval(values: Any, rows: float = 0.0) -> Estimate:
    """The estimate of values `[number]`, one a seed or one a row. Raises ValueError of none.

    rows: what the choice of evaluation rows adds to the variance of the mean (see `rows_variance`); the degrees of
    freedom are Satterthwaite's, rows being many.
    """
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    if not len(values):
        raise LabError("No values: expected at least one, of a seed or of a row.")
    number, mean = len(values), float(values.mean())
    if number == 1:
        return Estimate(mean, math.nan, math.nan, math.nan, 1)
    seeds = float(values.var(ddof=1)) / number
    error = math.sqrt(seeds + rows)
    rounding = ROUNDING * max(1.0, float(np.abs(values).max()))
    if error < rounding:
        return Estimate(mean, mean, mean, 1.0 if abs(mean) < rounding else math.nan, number, 0.0, number - 1)
    freedom = (number - 1) * ((seeds + rows) / seeds) ** 2 if seeds > rounding**2 else math.inf
    half = error * float(t.isf((1 - LEVEL) / 2, freedom))
    p = 2 * float(t.sf(abs(mean) / error, freedom))
    return Estimate(mean, mean - half, mean + half, p, number, error, freedom)


def rows_variance(differences: Any) -> float:
    """What the choice of rows adds to the variance of the mean of differences `[seeds, rows]`; 0 of one row.

    `(MS_rows - MS_interaction) / (S * R)` of the two-way analysis of variance, at least 0. Of one seed rows and
    interaction cannot be told apart: all of it counts.
    """
    found = np.asarray(differences, dtype=float)
    seeds, rows = found.shape
    if rows == 1:
        return 0.0
    of_rows = float(found.mean(0).var(ddof=1)) / rows
    if seeds == 1:
        return of_rows
    rest = found - found.mean(0) - found.mean(1, keepdims=True) + found.mean()
    interaction = float((rest**2).sum()) / ((seeds - 1) * (rows - 1))
    return max(0.0, of_rows - interaction / (seeds * rows))


@dataclass(frozen=True)
class Judged:
    """An estimate judged as one of so many comparisons.

    Attributes:
        verdict: "alike": the corrected interval `low` to `high` lies within ± the smallest effect that matters, whether
            or not it holds 0. "shown": it does not, and leaves 0 out. "not shown": anything else.
        smallest: that effect.
    """

    estimate: Estimate
    verdict: str
    low: float
    high: float
    unit: str
    comparisons: int
    smallest: float

    @property
    def possible(self) -> str:
        """What the interval leaves possible, in words."""
        if math.isnan(self.estimate.mean):
            return "a value is not a number (NaN): a training broke down, or a measure is undefined there"
        if math.isnan(self.estimate.p):
            one = self.estimate.number == 1
            return "one seed decides nothing" if one else "every seed gives the same number: no spread to judge by"
        digits = 3 if self.unit == "nats" else 1
        return f"from {self.low:+.{digits}f} to {self.high:+.{digits}f} {self.unit} are possible"


def verdict_of(estimate: Estimate, unit: str, comparisons: int = 1) -> Judged:
    """Judges an estimate in "points" or "nats". Raises ValueError for another unit."""
    one_of("unit", unit, SMALLEST)
    smallest = SMALLEST[unit]
    low, high = estimate.interval(comparisons)
    verdict = NOT_SHOWN
    if math.isnan(estimate.p):  # one seed, or no spread to judge by
        pass
    elif -smallest <= low and high <= smallest:
        verdict = ALIKE
    elif low > 0 or high < 0:
        verdict = SHOWN
    return Judged(estimate, verdict, low, high, unit, comparisons, smallest)


def format_interval(values: Any, digits: int = 1) -> str:
    """`91.2 ± 0.4`: the mean and half of its 95 % t-interval; the mean alone of one value."""
    found = t_interval(values)
    return f"{found.mean:.{digits}f}" + (f" ± {found.half_width:.{digits}f}" if found.number > 1 else "")


def weighted_metric(name: str, predictions: Any, labels: Any, weights: Any) -> Any:
    """A metric of rows that count so often: `[draws]` of predictions and labels `[rows]`, weights `[draws, rows]`.

    The metrics of `adamix_lab.tasks.metrics`, from sums; undefined ones are 0. Raises KeyError for another.
    """
    total = weights.sum(1)
    if name == "accuracy":
        return weights @ (predictions == labels).astype(float) / total
    if name in ("pearson", "spearman"):  # spearman: ranks of the whole sample stand for those of each draw
        if name == "spearman":
            from scipy.stats import rankdata

            predictions, labels = rankdata(predictions), rankdata(labels)
        a, b = predictions - predictions.mean(), labels - labels.mean()
        mean_a, mean_b, product = (weights @ each / total for each in (a, b, a * b))
        spread = np.sqrt((weights @ a**2 / total - mean_a**2) * (weights @ b**2 / total - mean_b**2))
        return _quotient(product - mean_a * mean_b, spread)
    classes = np.union1d(predictions, labels)
    found = np.stack([weights @ (predictions == c).astype(float) for c in classes])
    there = np.stack([weights @ (labels == c).astype(float) for c in classes])
    right = np.stack([weights @ ((labels == c) & (predictions == c)).astype(float) for c in classes])
    if name == "matthews":
        spread = np.sqrt((total**2 - (found**2).sum(0)) * (total**2 - (there**2).sum(0)))
        return _quotient(right.sum(0) * total - (found * there).sum(0), spread)
    if name == "f1":
        each = _quotient(2 * right, found + there)
        if classes.max() >= 2:
            return each.sum(0) / ((found + there) > 0).sum(0)  # the mean over those that were drawn
        return each[list(classes).index(1)] if 1 in classes else np.zeros(len(weights))
    raise KeyError(name)


def _quotient(above: Any, below: Any) -> Any:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def resampled_rows(metric: str, pairs: Sequence[tuple[Any, Any]], labels: Any, draws: int = 1000, seed: int = 0) -> Any:
    """A mean difference of a metric on `[draws]` resamples of the rows.

    Their variance serves `t_interval` as what rows add, for metrics that are no mean over rows; the interaction
    with seeds is counted once more than it should be.

    pairs: predictions `[rows]` of the two sides, a pair a seed; a draw takes the same rows for all. labels: `[rows]`.
    """
    rng, rows = np.random.default_rng(seed), len(labels)
    found = []
    for start in range(0, draws, 250):  # weights of 250 draws at once
        chosen = rng.integers(0, rows, (min(250, draws - start), rows))
        weights = np.stack([np.bincount(each, minlength=rows) for each in chosen]).astype(float)
        each = [
            weighted_metric(metric, a, labels, weights) - weighted_metric(metric, b, labels, weights) for a, b in pairs
        ]
        found.append(np.mean(each, axis=0))
    return np.concatenate(found)


def line_of(
    effect: str, unit: str, values: Sequence[float], rows_error: float, comparisons: int, digits: int = 5
) -> dict[str, str]:
    """A line of an effect table as text, judged as one of so many comparisons, with so many decimals.

    effect: in words. values: one a seed. rows_error: the root of `rows_variance`. An interval is empty where it cannot
    be known. Raises ValueError for an unknown unit.
    """
    judged = verdict_of(t_interval(values, rows_error**2), unit, comparisons)

    def listed(*numbers: float) -> str:
        return " ".join("" if math.isnan(number) else f"{number:.{digits}f}" for number in numbers)

    return {
        "effect": effect,
        "unit": unit,
        "mean": listed(fmean(values)),
        "low": listed(judged.low),
        "high": listed(judged.high),
        "verdict": judged.verdict,
        "possible": judged.possible,
        "comparisons": str(comparisons),
        "by_seed": listed(*values),
        "rows_error": listed(rows_error),
        "seeds": str(len(values)),
    }
