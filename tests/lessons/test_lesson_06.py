"""Lesson 06: distances, methods side by side, temperatures, the band, what models say of a text, the check."""

import math

import close
import pytest
import tiny
import tiny_answers
import tiny_task
import torch
from makers import load_maker
from tiny_task import one_thread  # noqa: F401

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from adamix_lab.analysis.calibration import auroc, fit_temperature, nll
from adamix_lab.lessons import posterior
from adamix_lab.lessons.checks.exercises import check_marginal
from adamix_lab.lessons.posterior import (
    ask,
    band,
    band_explorer,
    bayes_weights,
    draw_convergence,
    draw_reliability,
    rescaled,
    side_by_side,
    split_doubt,
    spread_explorer,
)

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()
measured = load_maker("results/effects")


def mixture(seed=0):
    return tiny.shake(tiny_task.mixture(0.1, experts=4, blocks=(-2, -1)), seed=seed + 1).eval()


# -- averages -----------------------------------------------------------------------------------------------


def test_distances_are_differences_of_probability_for_two_classes():
    answers = tiny_answers.answers(30)
    p = answers.routes[..., 1].exp()
    close.assert_close(measured.route_distance(answers), (p - p.mean(1, keepdim=True)).abs().mean(1))
    close.assert_close(measured.merge_distance(answers), (answers.merged[:, 1].exp() - p.mean(1)).abs())
    assert "T = 1 " in draw_convergence(answers, "made up", draws=20).alt


def test_bayes_weighs_by_likelihood():
    answers = tiny_answers.answers(50)
    likelihood = (-answers.loss.double()).exp().prod(0)
    close.assert_close(bayes_weights(answers, slice(None)), likelihood / likelihood.sum(), close.DOUBLE)
    close.assert_close(bayes_weights(answers, slice(0)), torch.full((16,), 1 / 16, dtype=torch.double), close.DOUBLE)


def test_each_half_is_rescaled_by_the_other_one_s_temperature():
    answers = tiny_answers.answers(200, noise=3.0)
    log_p = 4 * answers.routes[:, 0].double()  # far too sure
    log_p = log_p.log_softmax(-1)
    found = rescaled(log_p, answers.labels)
    t = fit_temperature(log_p[1::2], answers.labels[1::2])
    close.assert_close(found[::2], (log_p[::2] / t).log_softmax(-1), close.DOUBLE)
    assert t > 2 and nll(found, answers.labels) < nll(log_p, answers.labels)


def test_methods_stand_side_by_side(monkeypatch):
    monkeypatch.setattr(posterior, "load_answers", lambda name, seed, data: tiny_answers.answers(60, seed=seed))
    table = side_by_side([0, 1])
    assert list(table["passes"]) == [1, 16, 4, 1] and table.loc["single adapter", "mutual information"] == 0
    assert table.loc["routes of AdaMix, all 16", "mutual information"] > 0
    assert "single adapter" in draw_reliability(0).alt


# -- measures -----------------------------------------------------------------------------------------------


def test_losses_and_noticing_against_plain_recomputation():
    answers = tiny_answers.answers(200, noise=3.0)
    p = answers.routes.double().exp()
    picked = answers.labels[:, None]
    exact = -p.mean(1).gather(1, picked).log().squeeze(1)
    scale = float(exact.max())
    close.assert_close(measured.answered(answers, "all", "nats"), exact, scale=scale)
    logits = -p.log().mean(1).log_softmax(-1).gather(1, picked).squeeze(1)
    close.assert_close(measured.answered(answers, "logits", "nats"), logits, scale=scale)
    close.assert_close(measured.above_ensemble(answers), answers.merged_loss - logits, scale=scale)
    four = -p[:, answers.fixed].mean(1).gather(1, picked).log().squeeze(1)
    close.assert_close(measured.answered(answers, "experts", "nats"), four, scale=scale)
    close.assert_close(measured.answered(answers, "route", "nats"), answers.loss.mean(1))
    wrong = p.mean(1).argmax(-1) != answers.labels
    entropy = -(p.mean(1) * p.mean(1).log()).sum(-1)
    noticed = measured.noticing(answers, "routes", "entropy")
    assert float(noticed.mean()) == pytest.approx(auroc(entropy[~wrong], entropy[wrong]))
    assert measured.bayes_minus_uniform(answers).shape == (200,)
    with pytest.raises(ValueError, match="whose 'alll' is not known"):
        measured.answered(answers, "alll", "nats")


def test_overconfidence_has_a_sign():
    sure = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
    close.assert_close(measured.overconfidence(sure, torch.tensor([0, 1])), [-0.1, 0.9], close.ROUNDED)


# -- doubt --------------------------------------------------------------------------------------------------


def test_doubt_splits_and_is_what_the_program_says():
    p = torch.tensor([[0.99, 0.5, 0.9], [0.01, 0.5, 0.6]])
    whole, own, between = split_doubt(p)
    close.assert_close(whole[0], math.log(2))
    close.assert_close(between, whole - own, scale=1.0)
    assert float(between[1]) == pytest.approx(0, abs=1e-6) and float(between[0]) > 0.6
    total, information = posterior.mine("doubt")(torch.stack([1 - p, p], -1))
    close.assert_close(total, whole)
    close.assert_close(information, between, scale=1.0)


def test_the_band_is_driven_to_its_goal():
    widget = band_explorer()
    assert widget.last_error is None and "between the routes" in widget.text
    before = widget.picture.alt
    widget.buttons["no wrong labels"].click()
    assert widget.last_error is None and widget.picture.alt != before
    curves = band("AdaMix", 1, 0.0)
    beyond = curves.experts[:, curves.grid.abs() > 2.3]
    sure = torch.maximum(beyond, 1 - beyond)
    assert float(sure.min()) > 0.95 and bool(((beyond > 0.5) == (beyond[:1] > 0.5)).all())
    widget.buttons["trained apart"].click()
    assert widget.last_error is None and widget.state["learner"].startswith("trained apart")


def test_a_text_is_answered_by_each_kind_and_once():
    models = {"adamix": (mixture(0), TOKENIZER), "apart": (mixture(1), TOKENIZER)}
    said = ask(models, TASK, "w1 w5 w9")
    assert [len(p) for p in said.values()] == [16, 4, posterior.DRAWS]
    model, batch = models["adamix"][0], TOKENIZER(["w1 w5 w9"], return_tensors="pt")
    routes = said["routes of AdaMix"]
    with torch.no_grad():
        for number, route in enumerate(model.space.enumerate()):
            close.assert_close(routes[number], model(selection=route, **batch).logits[0].softmax(-1)[-1])
    dropped = said["dropout left on (the merge)"]
    assert len(set(dropped.tolist())) > 1 and not model.training


def test_the_text_explorer_is_driven():
    models = {"adamix": (mixture(0), TOKENIZER), "apart": (mixture(1), TOKENIZER)}
    widget = spread_explorer(models, TASK)
    assert widget.last_error is None and "routes of AdaMix" in widget.text and "MI" in widget.text
    before = widget.picture.alt
    widget.buttons["nonsense"].click()
    assert widget.last_error is None and widget.picture.alt != before
    field = widget.box.children[1]
    for bad, told in (("", "text is empty"), ("w1 " * 100, "at most 200")):
        field.value = bad
        assert told in widget.text
    field.value = "unheard of: ☃"
    assert widget.last_error is None


# -- checks -------------------------------------------------------------------------------------------------


def average(logits):
    return logits.softmax(-1).mean(1)


def test_a_right_answer_passes(capsys):
    check_marginal(average)
    assert capsys.readouterr().out == "check_marginal: right.\n"


WRONG = {
    "logits": (lambda z: z.mean(1).softmax(-1), "logits were averaged"),
    "no softmax": (lambda z: z.mean(1), "take each route's softmax"),
    "logs": (lambda z: z.log_softmax(-1).mean(1), "averaged log-probabilities"),
    "log of the average": (lambda z: average(z).log(), "These are log-probabilities"),
    "a vote": (
        lambda z: torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float().mean(1),
        "a vote",
    ),
    "sum": (lambda z: z.softmax(-1).sum(1), "take the mean"),
    "over routes": (lambda z: z.softmax(1).mean(1), "softmax ran over the routes"),
    "one route": (lambda z: z.softmax(-1)[:, 0], "one route alone"),
    "over rows": (lambda z: z.softmax(-1).mean(0), "Which axis is averaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_told_their_cause(name):
    answer, cause = WRONG[name]
    with pytest.raises(AssertionError, match=cause):
        check_marginal(answer)
