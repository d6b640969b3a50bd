"""Metrics against values worked out by hand and against the paper's own averages."""

import math
import sys

import pytest
import torch

from adamix_lab.tasks.metrics import METRICS, Undefined, paper_average, score

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
    for predictions, labels in ((torch.ones(6), numbers), (numbers, torch.ones(6)), (numbers[:1], numbers[:1])):
        with pytest.warns(Undefined, match=r"Pearson's correlation of . rows is undefined"):
            assert math.isnan(score(["pearson"], predictions, labels)["pearson"])
    with pytest.warns(Undefined, match="Spearman"):
        assert math.isnan(score(["spearman"], numbers * math.nan, numbers)["spearman"])


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


def test_the_averages_of_the_papers_tables():
    # AdaMix rows of Tables 1 and 2 (the F1 values of Table 2 stand in Table 13)
    large = {"mnli": 90.9, "qnli": 95.4, "sst2": 97.1, "rte": 89.2}
    results = {task: {"accuracy": value} for task, value in large.items()}
    results |= {"qqp": {"accuracy": 92.3, "f1": 89.8}, "mrpc": {"accuracy": 91.9, "f1": 94.1}}
    results |= {"cola": {"matthews": 70.2}, "stsb": {"pearson": 92.4}}
    assert abs(paper_average(results) - 89.9) <= 0.051
    base = {"mnli": 84.7, "qnli": 91.5, "sst2": 92.4, "rte": 74.7}
    results = {task: {"accuracy": value} for task, value in base.items()}
    results |= {"qqp": {"accuracy": 90.7, "f1": 87.6}, "mrpc": {"accuracy": 89.5, "f1": 92.4}}
    results |= {"cola": {"matthews": 62.9}, "stsb": {"pearson": 89.9}}
    assert abs(paper_average(results, "table 2") - 84.5) <= 0.051
    with pytest.raises(ValueError, match="results lack accuracy of mnli"):
        paper_average({})
    with pytest.raises(ValueError, match="Table 'table 3'"):
        paper_average(results, "table 3")
