"""Risk against coverage, and text from elsewhere."""

import itertools

import pytest
import torch

from adamix_lab.analysis.calibration import aurc, auroc, risk_coverage
from adamix_lab.core.routing import generator_for


def test_risk_by_hand():
    table = risk_coverage(torch.tensor([0.3, 0.1, 0.2, 0.4]), torch.tensor([False, True, True, False]))
    assert table["coverage"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert table["risk"].tolist() == pytest.approx([0, 0, 1 / 3, 0.5])
    assert aurc(torch.tensor([0.3, 0.1, 0.2, 0.4]), torch.tensor([False, True, True, False])) == pytest.approx(
        (0 + 0 + 1 / 3 + 0.5) / 4
    )


def test_rows_that_no_threshold_tells_apart_are_answered_together():
    uncertainty, right = torch.tensor([0.1, 0.5, 0.5, 0.5]), torch.tensor([True, True, False, True])
    table = risk_coverage(uncertainty, right)
    assert table["coverage"].tolist() == [0.25, 1.0] and table["risk"].tolist() == [0, 0.25]
    orders = [aurc(torch.tensor([0.1, *o]), right) for o in itertools.permutations((0.51, 0.52, 0.53))]
    assert aurc(uncertainty, right) == pytest.approx(sum(orders) / len(orders))


def test_a_constant_tells_nothing():
    right = torch.rand(50, generator=generator_for(0)) > 0.3
    assert aurc(torch.zeros(50), right) == pytest.approx(1 - float(right.double().mean()))
    assert auroc(torch.zeros(5), torch.zeros(7)) == 0.5


def test_auroc_is_the_chance_that_outside_is_less_sure():
    inside, outside = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.2, 0.9])
    pairs = [(o > i) + 0.5 * (o == i) for i in inside.tolist() for o in outside.tolist()]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"0 rows inside and 2 outside"):
        auroc(torch.empty(0), torch.zeros(2))
    for shapes in ((3, 4), (0, 0)):
        with pytest.raises(ValueError, match=r"expected one number a row"):
            aurc(torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=torch.bool))
