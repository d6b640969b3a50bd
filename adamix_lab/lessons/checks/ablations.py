"""Lesson 07: a difference paired by seed with its interval, and how small a difference so many rows can show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from adamix_lab.analysis.statistics import t_interval
from adamix_lab.lessons.checks.telling import call, close, compare, number, passed, several, wrong

Interval = Callable[[Sequence[float], Sequence[float]], Any]
CASES = (
    ((55.2, 61.0, 52.7, 58.4, 63.1), (54.1, 59.6, 52.9, 56.8, 61.9)),
    ((70.0, 74.0, 69.0), (71.5, 73.0, 71.0)),
)


def check_paired_interval(interval: Interval) -> None:
    """Checks `interval(first, second) -> (mean, low, high)`: the mean of first minus second and its 95 % t-interval.

    first, second: scores of the same seeds, in the same order.
    """
    for first, second in CASES:
        answer = several(call(interval, list(first), list(second)), 3, "three numbers, (mean, low, high)")
        mean, low, high = (number(value, "A number of the interval") for value in answer)
        gaps = [a - b for a, b in zip(first, second, strict=True)]
        expected, case = t_interval(gaps), f"{len(gaps)} seeds"
        compare(f"The mean ({case})", expected.mean, mean, {"That is second minus first.": -expected.mean})
        if not close(high - mean, mean - low):
            wrong(f"The interval ({case})", "as far below the mean as above it", f"{low:.4g} to {high:.4g}")
        compare(f"Half of the interval ({case})", expected.high - expected.mean, high - mean, _mistakes(first, second))
    passed("check_paired_interval")


def _mistakes(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Halves of intervals that are often built instead, by what is wrong with them."""
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    n, spread = len(gaps), statistics.stdev(gaps)
    t = _quantile(n - 1)
    apart = math.sqrt((statistics.variance(first) + statistics.variance(second)) / n)
    unpaired = "Runs of one seed belong together: take the spread of the differences, not of two groups."
    normal = f"1.96 is the normal quantile: {n} seeds take Student's t with {n - 1} degrees of freedom."
    return {
        unpaired: _quantile(2 * n - 2) * apart,
        f"{unpaired} ": t * apart,
        f"{unpaired} And {normal}": 1.96 * apart,
        normal: 1.96 * spread / math.sqrt(n),
        "The spread of a sample divides by n - 1 (ddof = 1).": t * statistics.pstdev(gaps) / math.sqrt(n),
        f"{normal} And the spread divides by n - 1.": 1.96 * statistics.pstdev(gaps) / math.sqrt(n),
        "That is where single seeds lie: the mean's spread is smaller by the square root of n.": t * spread,
        f"There are n - 1 = {n - 1} degrees of freedom, not n.": _quantile(n) * spread / math.sqrt(n),
        "One tail only: 95 % leave 2.5 % on either side (quantile 0.975).": (
            _quantile(n - 1, 0.95) * spread / math.sqrt(n)
        ),
    }


def check_detectable(smallest: Callable[[int, float], Any]) -> None:
    """Checks `smallest(rows, disagree)`: the half width in points of a 95 % interval of a paired difference near 0.

    disagree: share of rows that exactly one of the two models answers rightly; each such row counts +1 or -1.
    """
    for rows, disagree in ((277, 0.2), (872, 0.1)):
        came = number(call(smallest, rows, disagree), "The difference")
        expected = 196 * math.sqrt(disagree / rows)
        compare(
            f"On {rows} rows, {100 * disagree:g} % of which have one right answer",
            expected,
            came,
            {
                "In points, please: times 100.": expected / 100,
                "A row counts +1, 0 or -1: its variance is near the share itself, not share times one minus share.": (
                    196 * math.sqrt(disagree * (1 - disagree) / rows)
                ),
                "That is the spread of one model's accuracy twice: the rows are the same for both, so pair them.": (
                    196 * math.sqrt(2 * 0.25 / rows)
                ),
                "The root is missing: a spread shrinks with the square root of the rows.": 196 * disagree / rows,
                "That is one standard error: 95 % take 1.96 of them.": 100 * math.sqrt(disagree / rows),
            },
            tolerance=2e-3,  # 1.96 or 1.959964
        )
    passed("check_detectable")


def _quantile(freedom: int, level: float = 0.975) -> float:
    from scipy.stats import t

    return float(t.ppf(level, freedom))
