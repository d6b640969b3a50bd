"""Uncertainty of several methods through the same functions."""

import pytest
import torch

from adamix_lab.analysis.calibration import Method, compare_uncertainty, fit_temperature, nll, scores, tempered
from adamix_lab.analysis.posterior import Samples, marginal
from adamix_lab.core.routing import generator_for


def made(rows, number, sharp, seed):
    generator = generator_for(seed)
    shared = sharp * torch.randn(rows, 1, 2, generator=generator)
    logits = shared + torch.randn(rows, number, 2, generator=generator)
    labels = torch.multinomial((shared[:, 0] * 0.7).softmax(-1), 1, generator=generator)[:, 0]
    return Samples(logits, labels)


@pytest.fixture
def methods():
    made_of = {"inside": (300, 8, 4.0, 0), "held_out": (200, 8, 4.0, 1), "outside": (100, 8, 0.3, 2)}
    samples = {name: made(*each) for name, each in made_of.items()}
    single = {name: each.subset(torch.tensor([0])) for name, each in samples.items()}
    return {"several": Method(samples, 8), "one": Method(single), "bare": Method({"inside": samples["inside"]})}


def test_every_method_gets_the_same_measures(methods):
    table = compare_uncertainty(methods).set_index("method")
    several, inside = table.loc["several"], methods["several"].samples["inside"]
    log_p = marginal(inside.logits)
    assert several["loss"] == pytest.approx(scores(log_p, inside.labels)["loss"])
    assert several["entropy"] == pytest.approx(several["expected_entropy"] + several["mutual_information"])
    held_out = methods["several"].samples["held_out"]
    temperature = fit_temperature(marginal(held_out.logits), held_out.labels)
    assert several["temperature"] == pytest.approx(temperature)
    assert several["loss_scaled"] == pytest.approx(nll(tempered(log_p, temperature), inside.labels))
    assert several["auroc_entropy"] > 0.8  # the outside was made less sure
    assert table.loc["bare", ["temperature", "auroc_entropy"]].isna().all()
    assert several["passes"] == 8


def test_one_sample_has_no_mutual_information_to_rank_by(methods):
    one = compare_uncertainty(methods).set_index("method").loc["one"]
    assert one["mutual_information"] == one["disagreement"] == 0
    assert one["auroc_mutual_information"] == 0.5
