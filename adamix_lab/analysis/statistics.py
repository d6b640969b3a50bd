"""Intervals over seeds and over rows, and a correction for many comparisons: the one place that computes them.

Over scipy.stats, but for Holm's correction, which it lacks, and for the paired bootstrap: scipy's resamples arrays of
rows, and some metrics here are quicker from sums over rows that count so often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adamix_lab.core.errors import LabError

LEVEL = 0.95
ROUNDING = 1e-12  # of the largest value, or of 1 where all are smaller: 5,000 roundings of float64


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % t-interval and the two-sided p of "the mean is 0".

    One value has no interval (nan). Values that are all equal have one of width 0 and, unless they are 0, no p: a
    spread that was not seen cannot be judged by.
    """

    mean: float
    low: float
    high: float
    p: float
    number: int

    @property
    def half_width(self) -> float:
        """Half of the interval."""
        return self.high - self.mean


def t_interval(values: Any) -> Estimate:
    """The estimate of values `[number]`, one a seed or one a row. Raises ValueError of none."""
    from scipy.stats import ttest_1samp

    values = np.asarray(values, dtype=float)
    if not len(values):
        raise LabError("No values: expected at least one, of a seed or of a row.")
    number, mean = len(values), float(values.mean())
    if number == 1:
        return Estimate(mean, math.nan, math.nan, math.nan, 1)
    rounding = ROUNDING * max(1.0, float(np.abs(values).max()))
    if values.std(ddof=1) / math.sqrt(number) < rounding:
        return Estimate(mean, mean, mean, 1.0 if abs(mean) < rounding else math.nan, number)
    test = ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return Estimate(mean, float(low), float(high), float(test.pvalue), number)


def paired_interval(first: Any, second: Any) -> Estimate:
    """The estimate of first minus second, `[number]` each, of the same seeds or rows."""
    return t_interval(np.asarray(first, dtype=float) - np.asarray(second, dtype=float))


def format_interval(values: Any, digits: int = 1) -> str:
    """`91.2 ± 0.4`: the mean and half of its 95 % t-interval; the mean alone of one value."""
    found = t_interval(values)
    return f"{found.mean:.{digits}f}" + (f" ± {found.half_width:.{digits}f}" if found.number > 1 else "")


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share of so many rows, such as an accuracy; it is taken as the nearest count."""
    from scipy.stats import binomtest

    low, high = binomtest(round(share * rows), rows).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; nan stays nan and counts as no comparison."""
    order = sorted((n for n, p in enumerate(ps) if not math.isnan(p)), key=lambda n: ps[n])
    adjusted, largest = [math.nan] * len(ps), 0.0
    for rank, n in enumerate(order):
        largest = max(largest, min(1.0, ps[n] * (len(order) - rank)))
        adjusted[n] = largest
    return adjusted


def weighted_metric(name: str, predictions: Any, labels: Any, weights: Any) -> Any:
    """A metric of rows that count so often: `[draws]` of predictions and labels `[rows]`, weights `[draws, rows]`.

    The metrics of `adamix_lab.tasks.metrics`, from sums; undefined ones are 0, as there. Raises KeyError for another.
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
            return each.mean(0)
        return each[list(classes).index(1)] if 1 in classes else np.zeros(len(weights))
    raise KeyError(name)


def _quotient(above: Any, below: Any) -> Any:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def paired_bootstrap(
    metric: str, pairs: Sequence[tuple[Any, Any]], labels: Any, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval over examples of a mean difference of a metric (percentile bootstrap).

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
    low, high = np.quantile(np.concatenate(found), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)
