"""Text from elsewhere is noticed by uncertainty."""

import pytest
import torch

from adamix_lab.analysis.calibration import auroc


def test_a_constant_tells_nothing():
    assert auroc(torch.zeros(5), torch.zeros(7)) == 0.5


def test_auroc_is_the_chance_that_outside_is_less_sure():
    inside, outside = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.2, 0.9])
    pairs = [(o > i) + 0.5 * (o == i) for i in inside.tolist() for o in outside.tolist()]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"0 rows inside and 2 outside"):
        auroc(torch.empty(0), torch.zeros(2))
