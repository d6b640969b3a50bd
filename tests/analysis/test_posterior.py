"""Routes as random variables: the marginal, its estimates, and what is uncertain."""

import math

import close
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamix_lab.analysis.posterior import (
    Samples,
    convergence,
    entropy,
    marginal,
    total_variation,
    uncertainty,
)
from adamix_lab.core.routing import generator_for


def samples(rows=40, number=27, classes=3, spread=1.0, seed=0, exact=True):
    generator = generator_for(seed)
    shared = 2 * torch.randn(rows, 1, classes, generator=generator)
    logits = shared + spread * torch.randn(rows, number, classes, generator=generator)
    return Samples(logits, torch.arange(rows) % classes, exact)


def one(logits, like):
    return Samples(logits.unsqueeze(1), like.labels)


def test_probabilities_and_logits_are_averaged_apart():
    logits = samples().logits
    close.assert_close(marginal(logits).exp(), logits.softmax(-1).mean(1))
    close.assert_close(marginal(logits, "logits"), logits.mean(1).log_softmax(-1))
    with pytest.raises(ValueError, match="average 'logit'"):
        marginal(logits, "logit")


@given(st.integers(0, 50), st.floats(0, 8))
def test_entropy_is_expected_entropy_plus_mutual_information(seed, spread):
    told = uncertainty(samples(rows=8, number=5, spread=spread, seed=seed))
    total = told["expected_entropy"] + told["mutual_information"]
    close.assert_close(told["entropy"], total, close.DOUBLE, scale=math.log(3))
    assert (told["mutual_information"] >= 0).all() and (told["entropy"] <= math.log(3) * (1 + close.DOUBLE.share)).all()


def test_extremes_by_hand():
    opposed = torch.tensor([[[100.0, -100.0], [-100.0, 100.0]]])
    told = uncertainty(Samples(opposed, torch.tensor([0])))
    values = {name: float(value) for name, value in told.items()}
    assert values["entropy"] == pytest.approx(math.log(2))
    close.assert_close(values["expected_entropy"], 0.0, close.DOUBLE, scale=math.log(2))
    assert values["mutual_information"] == pytest.approx(math.log(2))
    assert values["disagreement"] == pytest.approx(0.5) and values["doubt"] == pytest.approx(0.5)
    alike = uncertainty(Samples(opposed[:, :1].expand(1, 4, 2), torch.tensor([0])))
    assert float(alike["mutual_information"]) == float(alike["disagreement"]) == 0
    assert float(entropy(torch.tensor([0.0, -math.inf]))) == 0


def test_estimates_converge_as_one_over_sqrt_t_without_bias():
    every = samples(rows=60, spread=1.5)
    table = convergence(every, one(every.logits.mean(1), every), sizes=(1, 4, 16, 64), draws=400)
    routes = table[table["what"] == "routes"]
    assert routes["rms"].tolist() == pytest.approx(routes["predicted_rms"].tolist(), rel=0.1)
    halves = routes["error"].to_numpy()
    assert (halves[1:] / halves[:-1]) == pytest.approx([0.5, 0.5, 0.5], abs=0.06)
    assert (routes["bias"] < 3 * routes["error"] / math.sqrt(400)).all()  # nothing but what 400 draws leave
    assert (routes["loss_bias"] > 0).all()  # Jensen: -log of a noisy mean
    assert routes["loss_bias"].iloc[0] > 3 * routes["loss_bias"].iloc[1] > 0
    assert (routes["error_low"] < routes["error"]).all() and (routes["error"] < routes["error_high"]).all()
    again = convergence(every, one(every.logits.mean(1), every), sizes=(1, 4, 16, 64), draws=400)
    assert again.equals(table)


def test_the_exact_marginal_in_the_merges_place_is_at_no_distance():
    every = samples(rows=60, spread=1.5)
    exact = convergence(every, one(marginal(every.logits), every), sizes=(1,), draws=2)
    (error,) = exact.loc[exact["what"] == "merged", "error"]
    close.assert_close(float(error), 0.0, close.ROUNDED, scale=1.0)  # of probabilities


def test_distance_is_total_variation():
    log_p = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    close.assert_close(total_variation(log_p[:1], log_p[1:]), [0.4], close.ROUNDED)


def test_bad_input_is_named():
    every = samples(rows=4)
    merged = one(every.logits.mean(1), every)
    with pytest.raises(ValueError, match=r"T = 0: expected a whole number of at least 1"):
        convergence(every, merged, sizes=(0,))
    with pytest.raises(ValueError, match=r"draws = 0"):
        convergence(every, merged, draws=0)
    with pytest.raises(ValueError, match=r"27 drawn routes are no exact marginal.*every_route"):
        convergence(samples(exact=False), merged)
