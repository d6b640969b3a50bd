"""Metrics against values worked out by hand."""

import math
import sys

import pytest
import torch
from scipy.stats import ConstantInputWarning

from adamix_lab.tasks.metrics import METRICS, score

GOLD = torch.tensor([1, 1, 1, 0, 0, 0])
GUESS = torch.tensor([1, 1, 0, 1, 0, 0])  # tp 2, fp 1, fn 1, tn 2


def test_classification_metrics_by_hand():
    values = score(["accuracy", "f1", "matthews"], GUESS, GOLD)
    assert math.isclose(values["accuracy"], 4 / 6)
    assert math.isclose(values["f1"], 2 * 2 / (2 * 2 + 1 + 1))
    assert math.isclose(values["matthews"], (2 * 2 - 1 * 1) / math.sqrt(3 * 3 * 3 * 3))


def test_f1_of_three_classes_is_the_mean_over_classes():
    gold, guess = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 1])
    assert math.isclose(score(["f1"], guess, gold)["f1"], (1 + 2 / 3 + 2 / 3) / 3)


def test_correlations_by_hand():
    gold, guess = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 10.0])
    values = score(["pearson", "spearman"], guess, gold)
    assert math.isclose(values["spearman"], 1 - 6 * 2 / (4 * 15))  # rank differences 0, 1, 1, 0
    a, b = gold - 2.5, guess - 4.0
    assert math.isclose(
        values["pearson"], float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()), rel_tol=1e-6
    )


def test_undefined_cases():
    same = torch.zeros(6, dtype=torch.long)
    assert score(["matthews"], same, GOLD) == {"matthews": 0.0}
    assert score(["f1"], same, GOLD) == {"f1": 0.0}
    numbers = torch.arange(6.0)
    for predictions, labels in ((torch.ones(6), numbers), (numbers, torch.ones(6))):
        with pytest.warns(ConstantInputWarning):
            assert math.isnan(score(["pearson"], predictions, labels)["pearson"])
    assert math.isnan(score(["pearson"], numbers[:1], numbers[:1])["pearson"])  # of one row
    for odd in (math.nan, math.inf, -math.inf):  # a training that diverged has no score
        diverged = torch.cat([torch.tensor([odd]), numbers[1:]])
        assert all(map(math.isnan, score(["pearson", "spearman"], diverged, numbers).values()))
        assert all(map(math.isnan, score(["pearson", "spearman"], numbers, diverged).values()))


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match=r"Metric 'f2' is not known.*Did you mean 'f1'"):
        score(["f2"], GUESS, GOLD)
    for predictions in (GUESS[:3], torch.zeros(6, 2)):
        with pytest.raises(ValueError, match="expected one of each a row"):
            score(["accuracy"], predictions, GOLD)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=r"adamix-lab\[analysis\]"):
        score(["f1"], GUESS, GOLD)
    assert METRICS["accuracy"](GUESS, GOLD) == 4 / 6  # needs neither library


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews"])
def test_metrics_of_classes_refuse_numbers(name):
    with pytest.raises(ValueError, match=f"Metric '{name}' of numbers: expected pearson"):
        score([name], torch.tensor([0.5, 1.5]), torch.tensor([0.5, 1.0]))
