"""Calibration against hand-made cases and torchmetrics."""

import math

import close
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamix_lab.analysis.calibration import (
    adaptive_ece,
    brier,
    ece,
    fit_temperature,
    nll,
    reliability,
    scores,
    tempered,
)
from adamix_lab.core.routing import generator_for


def binary(confidences):
    """Log-probabilities of class 0 with these confidences."""
    p = torch.tensor(confidences, dtype=torch.double)
    return torch.stack([p, 1 - p], -1).log()


def random_case(rows=500, classes=3, sharp=2.0, seed=0):
    generator = generator_for(seed)
    log_p = (sharp * torch.randn(rows, classes, generator=generator, dtype=torch.double)).log_softmax(-1)
    labels = torch.multinomial((log_p * 0.6).softmax(-1), 1, generator=generator)[:, 0]
    return log_p, labels


def test_by_hand():
    log_p, labels = binary([0.9, 0.9, 0.6, 0.6]), torch.tensor([0, 1, 0, 0])
    # bins of a tenth: (0.8, 0.9] holds confidence 0.9, accuracy 0.5; (0.5, 0.6] confidence 0.6, accuracy 1
    assert ece(log_p, labels, 10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4, rel=1e-12)  # in double precision
    assert adaptive_ece(log_p, labels, 2) == pytest.approx(0.4)
    assert brier(log_p, labels) == pytest.approx((2 * 0.01 + 2 * 0.81 + 2 * 2 * 0.16) / 4)
    assert nll(log_p, labels) == pytest.approx(-(math.log(0.9) + math.log(0.1) + 2 * math.log(0.6)) / 4)


def test_bins_are_closed_on_the_right_and_hold_one():
    assert ece(binary([1.0, 1.0]), torch.tensor([0, 1]), 10) == pytest.approx(0.5)
    assert ece(binary([0.9, 0.95]), torch.tensor([0, 1]), 10) == pytest.approx(0.5 * 0.1 + 0.5 * 0.95)  # two bins
    table = reliability(binary([1.0, 0.95, 0.75, 0.5]), torch.tensor([0, 0, 1, 0]), bins=4)
    assert table[["low", "high", "count"]].values.tolist() == [[0.25, 0.5, 1], [0.5, 0.75, 1], [0.75, 1.0, 2]]
    assert table["accuracy"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("bins", [5, 15, 20])
def test_it_agrees_with_torchmetrics_away_from_the_edges(classes, bins):
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    log_p, labels = random_case(classes=classes, seed=bins)
    p = log_p.exp()
    assert float(p.max()) < 1
    theirs = float(metrics.multiclass_calibration_error(p, labels, num_classes=classes, n_bins=bins, norm="l1"))
    close.assert_close(ece(log_p, labels, bins), theirs, close.REORDERED)


def test_torchmetrics_differs_at_one():
    """Why the bins are our own: there, probabilities of exactly 1.0 get a bin of their own."""
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    p, labels = torch.tensor([[1.0, 0.0], [0.95, 0.05]], dtype=torch.double), torch.tensor([1, 0])
    theirs = float(metrics.multiclass_calibration_error(p, labels, num_classes=2, n_bins=10, norm="l1"))
    assert ece(p.log(), labels, 10) == pytest.approx((1.95 - 1) / 2)  # one bin, confidence 0.975, accuracy 0.5
    assert theirs == pytest.approx((1.0 + 0.05) / 2)


def test_adaptive_bins_hold_equally_many_rows():
    log_p, labels = random_case(rows=103)
    assert 0 < adaptive_ece(log_p, labels, 10) < 1
    assert adaptive_ece(log_p, labels, 1) == pytest.approx(
        abs(scores(log_p, labels)["accuracy"] - float(log_p.exp().amax(-1).mean()))
    )
    assert adaptive_ece(log_p[:3], labels[:3], 15) == pytest.approx(
        float(((log_p[:3].argmax(-1) == labels[:3]).double() - log_p[:3].exp().amax(-1)).abs().mean())
    )


@given(st.floats(0.3, 5))
def test_the_temperature_that_was_put_in_is_found(wanted):
    generator = generator_for(3)
    true = torch.randn(4000, 3, generator=generator, dtype=torch.double).log_softmax(-1)
    labels = torch.multinomial(true.exp(), 1, generator=generator)[:, 0]
    seen = (true * wanted).log_softmax(-1)
    found = fit_temperature(seen, labels)
    # the same optimum, whatever the scale it is seen at
    assert found / wanted == pytest.approx(fit_temperature(true, labels), rel=1e-3)
    assert found / wanted == pytest.approx(1, abs=0.1)
    assert nll(tempered(seen, found), labels) <= nll(seen, labels) + 1e-9


def test_a_temperature_changes_confidence_and_no_answer():
    log_p, labels = random_case()
    hot = tempered(log_p, 3.0)
    assert torch.equal(hot.argmax(-1), log_p.argmax(-1)) and float(hot.exp().amax(-1).mean()) < 0.6
    close.assert_close(hot.exp().sum(-1), torch.ones(len(labels), dtype=torch.double), close.DOUBLE)
    close.assert_close(tempered(log_p, 1.0), log_p, close.DOUBLE)


def test_bad_input_is_named():
    log_p, labels = random_case(rows=2)
    with pytest.raises(ValueError, match=r"No rows to calibrate on"):
        ece(log_p[:0], labels[:0])
    with pytest.raises(ValueError, match=r"No rows to fit a temperature on.*held-out slice"):
        fit_temperature(log_p[:0], labels[:0])
    with pytest.raises(ValueError, match=r"temperature = 0: expected a number above 0"):
        tempered(log_p, 0)
    for measure in (ece, adaptive_ece):
        with pytest.raises(ValueError, match=r"bins = 0: expected a whole number"):
            measure(log_p, labels, 0)


@pytest.mark.parametrize("measure", [ece, adaptive_ece, brier, nll])
def test_the_order_of_the_rows_plays_no_part(measure):
    log_p, labels = random_case()
    order = torch.randperm(len(labels), generator=generator_for(1))
    close.assert_close(measure(log_p[order], labels[order]), measure(log_p, labels), close.DOUBLE)


def test_adaptive_bins_go_from_the_least_to_the_most_sure_and_ties_by_row():
    log_p, labels = random_case(rows=100)
    sure, answer = log_p.exp().max(-1)
    excess = sure - (answer == labels).double()
    order = sorted(range(100), key=lambda n: float(sure[n]))
    by_hand = sum(abs(float(excess[order[n : n + 10]].sum())) for n in range(0, 100, 10)) / 100
    close.assert_close(adaptive_ece(log_p, labels, 10), by_hand, close.DOUBLE)
    tied = binary([0.8] * 4)  # two right answers, then two wrong ones
    close.assert_close(adaptive_ece(tied, torch.tensor([0, 0, 1, 1]), 2), (0.2 + 0.8) / 2, close.DOUBLE)
