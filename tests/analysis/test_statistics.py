"""Intervals and corrections against scipy, by hand, and on differences that are known."""

import math
from statistics import NormalDist

import close
import numpy as np
import pytest
import torch

from adamix_lab.analysis.statistics import (
    format_interval,
    holm,
    paired_bootstrap,
    paired_interval,
    t_interval,
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
    assert t_interval([0.0, 0.0]).p == 1.0 and np.isnan(t_interval([1.0, 1.0]).p)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


def test_holm_by_hand():
    close.assert_close(holm([0.01, 0.04, 0.03, math.nan]), [0.03, 0.06, 0.06, math.nan], close.DOUBLE)
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


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
    low, high = paired_bootstrap("accuracy", [(better, first)], labels)
    assert 0 < low < float((better == labels).mean() - (first == labels).mean()) < high < 0.25
    assert paired_bootstrap("accuracy", [(first, first)], labels) == (0.0, 0.0)
    assert paired_bootstrap("accuracy", [(better, first)], labels) == (low, high)  # seeded


def test_intervals_over_rows():
    low, high = wilson(0.9, 1000)
    assert 0.879 < low < 0.9 < high < 0.918
    close.assert_close(wilson(1.0, 20), (20 / (20 + NormalDist().inv_cdf(0.975) ** 2), 1.0), close.DOUBLE)
    first = torch.tensor([True] * 90 + [False] * 10)
    assert paired_interval(first, first).half_width == 0.0
    found = paired_interval(first, ~first)
    assert math.isclose(found.mean, 0.8) and 0.1 < found.half_width < 0.13


def test_a_mean_as_text():
    assert format_interval([91.24]) == "91.2"
    assert format_interval([0.0, 1.0, 2.0], 3) == "1.000 ± 2.484"  # 4.302653 / sqrt(3)
