"""Intervals and corrections against scipy, by hand, and on differences that are known."""

import math
from statistics import NormalDist

import close
import numpy as np
import pytest
import torch

from adamix_lab.analysis.statistics import (
    Estimate,
    format_interval,
    resampled_rows,
    rows_variance,
    t_interval,
    verdict_of,
    weighted_metric,
    wilson,
)
from adamix_lab.tasks import metrics


def test_t_interval_and_p_are_scipys():
    from scipy.stats import ttest_1samp

    values = [0.3, 1.2, -0.4, 0.9, 0.8]
    found, known = t_interval(values), ttest_1samp(values, 0.0)
    interval = known.confidence_interval(0.95)
    close.assert_close((found.low, found.high, found.p), (interval.low, interval.high, known.pvalue), close.DOUBLE)
    one = t_interval([2.0])
    assert one.number == 1 and np.isnan(one.low) and np.isnan(one.p)
    broken = verdict_of(t_interval([1.0, math.nan, 2.0]), "points")
    assert broken.verdict == "not shown" and "NaN" in broken.possible
    assert t_interval([0.0, 0.0]).p == 1.0 and np.isnan(t_interval([1.0, 1.0]).p)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews", "pearson", "spearman"])
@pytest.mark.parametrize("classes", [2, 3])
def test_weighted_metrics_are_the_metrics_of_repeated_rows(name, classes):
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, classes, 40).astype(float), rng.integers(0, classes, 40).astype(float)
    if name in ("pearson", "spearman"):
        labels, answers = rng.random(40), rng.random(40)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=3).astype(float)
    if name == "spearman":  # exact for the sample itself only
        weights = np.ones((1, 40))
    found = weighted_metric(name, answers, labels, weights)
    for row, value in zip(weights, found, strict=True):
        repeated = [torch.tensor(np.repeat(x, row.astype(int))) for x in (answers, labels)]
        repeated = repeated if name in ("pearson", "spearman") else [x.long() for x in repeated]
        close.assert_close(value, metrics.METRICS[name](*repeated), close.DOUBLE, scale=1.0)


def test_the_bootstrap_covers_a_known_difference_and_is_paired():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 400).astype(float)
    wrong = rng.random(400) < 0.3
    first = np.where(wrong, 1 - labels, labels)
    better = np.where(wrong & (rng.random(400) < 0.5), labels, first)  # half of the mistakes mended
    drawn = resampled_rows("accuracy", [(better, first)], labels)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert 0 < low < float((better == labels).mean() - (first == labels).mean()) < high < 0.25
    assert not resampled_rows("accuracy", [(first, first)], labels).any()
    assert np.array_equal(resampled_rows("accuracy", [(better, first)], labels), drawn)  # seeded


def test_intervals_over_rows():
    low, high = wilson(0.9, 1000)
    assert 0.879 < low < 0.9 < high < 0.918
    close.assert_close(wilson(1.0, 20), (20 / (20 + NormalDist().inv_cdf(0.975) ** 2), 1.0), close.DOUBLE)


def test_a_mean_as_text():
    assert format_interval([91.24]) == "91.2"
    assert format_interval([0.0, 1.0, 2.0], 3) == "1.000 ± 2.484"  # 4.302653 / sqrt(3)


# -- seeds and rows crossed ---------------------------------------------------------------------------------------


def crossed(rng, seeds=6, rows=80, of_seeds=0.3, of_rows=1.0, rest=1.0):
    """Differences [seeds, rows] around 0: an effect of the seed, of the row, and of both."""
    return (
        of_seeds * rng.standard_normal((seeds, 1))
        + of_rows * rng.standard_normal((1, rows))
        + rest * rng.standard_normal((seeds, rows))
    )


@pytest.mark.parametrize(
    "parts", [(0.3, 1.0, 1.0), (0.0, 1.0, 1.0), (0.3, 0.0, 1.0), (0.05, 2.0, 0.0), (0.3, 1.0, 4.0)]
)
def test_crossed_intervals_cover_as_often_as_they_say(parts):
    rng = np.random.default_rng(5)
    tables = [crossed(rng, 6, 80, *parts) for _ in range(600)]
    found = [t_interval(table.mean(1), rows_variance(table)) for table in tables]
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.925 < covered < 0.99, covered  # 0.95, give or take 2.5 standard errors of 600; no seeds' effect: above


def test_seeds_alone_would_cover_too_rarely():
    rng = np.random.default_rng(6)
    seeds_alone = [t_interval(crossed(rng).mean(1)) for _ in range(300)]
    assert np.mean([each.low <= 0 <= each.high for each in seeds_alone]) < 0.9


def test_what_rows_add_is_what_resampling_them_adds():
    rng = np.random.default_rng(7)
    found = crossed(rng, 10, 200, 0.3, 1.0, 0.2)
    means = found.mean(0)
    resampled = [means[rng.integers(0, 200, 200)].mean() for _ in range(4000)]
    assert rows_variance(found) == pytest.approx(np.var(resampled), rel=0.1)  # the interaction is small here
    assert (
        rows_variance(np.ones((3, 1))) == 0.0
        and rows_variance(rng.standard_normal((4, 50)) * [[0], [1], [0], [1]]) >= 0
    )
    one = t_interval(found[:1].mean(1), rows_variance(found[:1]))
    assert one.number == 1 and math.isnan(one.low)


def test_an_interval_for_many_comparisons_is_bonferronis():
    from scipy.stats import ttest_1samp

    values = [0.3, 1.2, -0.4, 0.9, 0.8]
    known = ttest_1samp(values, 0.0).confidence_interval(1 - 0.05 / 7)
    close.assert_close(t_interval(values).interval(7), (known.low, known.high), close.DOUBLE)


@pytest.mark.parametrize(
    ("values", "unit", "verdict"),
    [
        ([0.1, 0.2, 0.3, 0.1, 0.2], "points", "alike"),  # leaves 0 out, and does not matter
        ([-0.1, 0.2, 0.1, -0.2, 0.1], "points", "alike"),
        ([1.5, 1.7, 1.6, 1.4, 1.8], "points", "shown"),
        ([0.8, 1.0, 1.2, 0.9, 1.1], "points", "shown"),  # leaves 0 out and reaches beyond 1
        ([3.0, -2.0, 4.0, 1.0, -3.0], "points", "not shown"),
        ([-0.03, -0.04, -0.05, -0.04], "nats", "shown"),
        ([0.001, -0.002, 0.003, 0.0], "nats", "alike"),
        ([2.0], "points", "not shown"),
        ([2.0, 2.0, 2.0], "points", "not shown"),
    ],
)
def test_verdicts(values, unit, verdict):
    judged = verdict_of(t_interval(values), unit)
    assert judged.verdict == verdict and judged.comparisons == 1


def test_a_verdict_says_what_it_leaves_possible():
    judged = verdict_of(t_interval([3.0, -2.0, 4.0, 1.0, -3.0]), "points", comparisons=10)
    assert judged.possible == f"from {judged.low:+.1f} to {judged.high:+.1f} points are possible"
    assert judged.high - judged.low > 2 * t_interval([3.0, -2.0, 4.0, 1.0, -3.0]).half_width
    assert "one seed" in verdict_of(t_interval([2.0]), "points").possible
    assert "no spread" in verdict_of(t_interval([2.0, 2.0]), "points").possible
    with pytest.raises(ValueError, match=r"'percent'.*points"):
        verdict_of(t_interval([1.0, 2.0]), "percent")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 1.0, "alike"),  # the smallest effect that matters is still one that does not show
        (-1.0, -0.5, "alike"),
        (0.5, 1.01, "shown"),
        (-1.01, -0.5, "shown"),
        (0.0, 2.0, "not shown"),  # 0 itself is possible
        (-2.0, 0.0, "not shown"),
    ],
)
def test_an_interval_that_ends_on_a_bound_holds_it(low, high, verdict):
    assert verdict_of(Estimate((low + high) / 2, low, high, 0.04, 5), "points").verdict == verdict


def test_a_class_that_no_draw_holds_does_not_count_in_its_f1():
    labels, answers = np.array([0.0, 0, 1, 1, 2, 2]), np.array([0.0, 1, 1, 1, 2, 0])
    weights = np.array([[2.0, 1, 2, 1, 0, 0], [1, 1, 1, 1, 1, 1]])  # the first holds two classes of three
    found = weighted_metric("f1", answers, labels, weights)
    for row, value in zip(weights, found, strict=True):
        repeated = [torch.tensor(np.repeat(x, row.astype(int))).long() for x in (answers, labels)]
        close.assert_close(value, metrics.f1(*repeated, classes=3), close.DOUBLE)
