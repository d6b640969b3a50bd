"""Lesson 06: drawn routes against the exact marginal, the sampler, doubt, checks."""

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

from adamix_lab.analysis.calibration import auroc
from adamix_lab.analysis.posterior import every_route, fix_batches, merged_sample
from adamix_lab.lessons import posterior
from adamix_lab.lessons.checks.merging import check_marginal, check_split
from adamix_lab.lessons.posterior import (
    MOST,
    PICKS,
    asker,
    bayes_weights,
    calibrations,
    converging,
    draw_convergence,
    draw_pulling,
    estimates,
    merge_distance,
    picks,
    pulled,
    pulling,
    risks,
    route_distance,
    route_sampler,
    sampled,
    smallest,
    worth_elsewhere,
)
from adamix_lab.models.model import load_trained, trained_tensors
from adamix_lab.training.shipped import load_twin as shipped

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()
measured = load_maker("results/effects")


def mixture(seed=0):
    return tiny.shake(tiny_task.mixture(experts=4, blocks=(-2, -1)), seed=seed + 1).eval()


# -- distances ----------------------------------------------------------------------------------------------


def test_distances_are_differences_of_probability_for_two_classes():
    answers = tiny_answers.answers(30)
    p = answers.routes[..., 1].exp()
    expected = (p - p.mean(1, keepdim=True)).abs().mean(1)
    close.assert_close(route_distance(answers), expected)
    expected_of_merge = (answers.merged[:, 1].exp() - p.mean(1)).abs()
    close.assert_close(merge_distance(answers), expected_of_merge)
    table = converging(answers, draws=400)
    assert abs(table["error"].iloc[0] - float(expected.mean())) < 0.01  # one route, drawn 400 times
    assert estimates(answers, 4, draws=3).shape == (3, 30, 2)


def test_pulled_experts_keep_their_merge_and_end_in_it():
    model = mixture()
    trained = {name: tensor.clone() for name, tensor in trained_tensors(model).items()}
    fixed = fix_batches(model, TASK, TOKENIZER, batch_size=8)
    merged, spread = merged_sample(fixed).logits, []
    for share in (1.0, 0.5, 0.0):
        load_trained(model, pulled(trained, share))
        close.assert_close(merged_sample(fixed).logits, merged)
        routes = every_route(fixed).logits
        spread.append(float((routes - routes.mean(1, keepdim=True)).abs().max()))
    assert spread[0] > spread[1] > 1e-3
    close.assert_close(spread[2], 0.0, scale=float(merged.abs().max()))


def test_pulling_is_a_row_a_share(monkeypatch):
    monkeypatch.setattr(posterior, "load_twin", lambda twin, seed: (mixture(seed), TOKENIZER))
    monkeypatch.setattr(posterior, "load_task", lambda name: TASK)
    table = pulling("adamix", 0, (1.0, 0.25), rows=10)
    assert list(table["share"]) == [1.0, 0.25] and (table["route"].diff().iloc[1:] < 0).all()
    picture = draw_pulling(table, "tiny")
    assert "share 0.25" in picture.alt and f"worth {table['worth'].iloc[0]:.1f}" in picture.alt


def test_the_picture_of_convergence_tells_seeds_and_prediction():
    runs = {"a": [converging(tiny_answers.answers(40, seed=s), 20) for s in range(3)]}
    runs["b"] = runs["a"]
    picture = draw_convergence(runs, 0.0)
    assert "3 seeds" in picture.alt and "You predicted 0 routes" in picture.alt
    assert "No prediction" in draw_convergence(runs).alt
    assert len(picture.figure.axes) == 2


def test_bayes_weighs_by_likelihood():
    answers = tiny_answers.answers(50)
    likelihood = (-answers.loss.double()).exp().prod(0)
    close.assert_close(bayes_weights(answers, slice(None)), likelihood / likelihood.sum(), close.DOUBLE)
    close.assert_close(bayes_weights(answers, slice(0)), torch.full((16,), 1 / 16, dtype=torch.double), close.DOUBLE)


def test_runs_elsewhere_are_read_from_the_committed_tables(monkeypatch, tmp_path):
    table = worth_elsewhere()
    assert len(table) == 3 and (table["worth"] > 1).all() and (table["mutual information"] < 0.01).all()
    monkeypatch.setattr(posterior, "data_root", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="adamix-lab posterior"):
        worth_elsewhere()


# -- measures -----------------------------------------------------------------------------------------------


def test_losses_and_noticing_against_plain_recomputation():
    answers = tiny_answers.answers(200, noise=3.0)
    p = answers.routes.double().exp()
    picked = answers.labels[:, None]
    exact = -p.mean(1).gather(1, picked).log().squeeze(1)
    drawn, all_routes = measured.exact_minus_drawn(answers, 1).mean(), (exact - answers.loss.mean(1)).mean()
    assert float(drawn) == pytest.approx(float(all_routes), abs=0.05)  # one draw for each of 200 rows
    logits = p.log().mean(1).log_softmax(-1).gather(1, picked).squeeze(1)
    difference = measured.logits_minus_probabilities(answers)
    close.assert_close(difference, -logits - exact, scale=float(exact.max()))
    wrong = p.mean(1).argmax(-1) != answers.labels
    doubt = measured.doubt(answers, "entropy")
    assert float(measured.noticing(answers, "entropy").mean()) == pytest.approx(auroc(doubt[~wrong], doubt[wrong]))
    assert measured.bayes_minus_uniform(answers).shape == (200,)


def test_overconfidence_has_a_sign():
    sure = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
    close.assert_close(measured.overconfidence(sure, torch.tensor([0, 1])), [-0.1, 0.9], close.ROUNDED)


def test_every_measure_of_the_lesson_is_in_the_committed_table():
    from adamix_lab.lessons.effects import effects_table

    told = {row["effect"] for row in effects_table("06").rows}
    assert told == set(measured.measures_of("06"))


# -- the sampler --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    return {"one": (mixture(0), TOKENIZER), "other": (mixture(1), TOKENIZER)}


def test_a_sentence_is_answered_by_every_route_and_once(models):
    ask = asker(models, TASK)
    routes, merged = ask("one", "w1 w5 w9")
    assert routes.shape == (16, 3) and merged.shape == (3,)
    assert ask("one", "w1 w5 w9")[0] is routes
    model, batch = models["one"][0], TOKENIZER(["w1 w5 w9"], return_tensors="pt")
    with torch.no_grad():
        for number, route in enumerate(model.space.enumerate()):
            logits = model(selection=route, **batch).logits[0]
            close.assert_close(routes[number], logits.log_softmax(-1))
        close.assert_close(merged, model(**batch).logits[0].log_softmax(-1))


def of(p, merged, size):
    log_p = torch.stack([1 - p, p], -1).log()
    known = log_p, torch.tensor([1 - merged, merged]).log()
    return sampled(lambda experts, sentence: known, ("no", "yes"), "x", size, "made up")


def test_averages_nest_and_the_smallest_size_is_found():
    p = torch.linspace(0.1, 0.9, 16)
    state = of(p, 0.6, 3)
    assert state.exact == pytest.approx(0.5) and state.averages.shape == (PICKS, MOST)
    close.assert_close(state.averages[7, 2], p[picks(16)[7, :3]].mean(), close.ROUNDED)
    size = smallest(state)
    assert state.nearer[size - 1] >= 0.95 and (state.nearer[: size - 1] < 0.95).all()
    assert smallest(of(p, 0.5, 3)) is None  # nothing is nearer than the exact value itself
    assert smallest(of(torch.full((16,), 0.5), 0.9, 1)) == 1
    whole, own = of(torch.tensor([0.01, 0.99] * 8), 0.5, 1).doubt
    close.assert_close(whole, math.log(2))
    assert whole - own > 0.6


def test_the_sampler_is_driven(models):
    widget = route_sampler(models, TASK, sentence="w1 w2 w3")
    assert widget.last_error is None and "one, T = 1" in widget.text and "all 16 routes" in widget.text
    widget.press("Show me")
    assert widget.state["size"] >= 1 and "E[H]" in widget.text and "MI" in widget.text
    before, image = widget.picture.alt, widget.image.value
    widget.set(size=64, experts="other")
    assert widget.last_error is None and "other, T = 64" in widget.text and widget.picture.alt != before
    assert widget.image.value != image
    field = widget.box.children[1]
    for bad, told in (("", "sentence is empty"), ("   ", "sentence is empty"), ("w1 " * 100, "at most 200")):
        field.value = bad
        assert told in widget.text
    field.value = "unheard of: ☃"
    assert widget.last_error is None
    widget.set(size=1)
    assert widget.seconds["compute"] < 0.5  # 2 ms on a free core: the routes are known


def test_the_shipped_sentence_has_a_number_to_reach():
    from adamix_lab.lessons.posterior import SENTENCE
    from adamix_lab.tasks.loading import load_task

    task = load_task("aspects")
    state = sampled(asker({"AdaMix": shipped("adamix")}, task), task.classes, SENTENCE, 1, "AdaMix")
    assert 2 <= smallest(state) <= 20 and state.doubt[0] - state.doubt[1] > 0.1


# -- calibration and risk -----------------------------------------------------------------------------------


def test_calibration_and_risk_are_told():
    runs = [tiny_answers.answers(100, seed=s) for s in range(2)]
    table = calibrations(runs)
    assert table.shape == (2, 6) and ((table >= 0) & (table <= 100)).all(axis=None)
    assert "merged, by entropy" in risks(runs[0]).alt


# -- checks -------------------------------------------------------------------------------------------------


def average(logits):
    return logits.softmax(-1).mean(1)


def split(p):
    mean = p.mean(1)
    whole, own = -(mean * mean.log()).sum(-1), -(p * p.log()).sum(-1).mean(1)
    return whole, own, whole - own


def test_right_answers_pass(capsys):
    check_marginal(average)
    check_split(split)
    assert capsys.readouterr().out.count("right") == 2


def bits(p):
    return tuple(part / math.log(2) for part in split(p))


WRONG = {
    "logits": (check_marginal, lambda z: z.mean(1).softmax(-1), "logits were averaged"),
    "no softmax": (check_marginal, lambda z: z.mean(1), "take each route's softmax"),
    "logs": (check_marginal, lambda z: z.log_softmax(-1).mean(1), "averaged log-probabilities"),
    "log of the average": (check_marginal, lambda z: average(z).log(), "These are log-probabilities"),
    "a vote": (
        check_marginal,
        lambda z: torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).float().mean(1),
        "a vote",
    ),
    "sum": (check_marginal, lambda z: z.softmax(-1).sum(1), "take the mean"),
    "over routes": (check_marginal, lambda z: z.softmax(1).mean(1), "softmax ran over the routes"),
    "one route": (check_marginal, lambda z: z.softmax(-1)[:, 0], "one route alone"),
    "over rows": (check_marginal, lambda z: z.softmax(-1).mean(0), "Which axis is averaged"),
    "bits": (check_split, bits, "in bits"),
    "no doubt of the routes": (check_split, lambda p: (split(p)[1], split(p)[1], 0 * split(p)[1]), "average first"),
    "the entropy twice": (check_split, lambda p: (split(p)[0], split(p)[0], 0 * split(p)[0]), "each route's entropy"),
    "one route speaks": (
        check_split,
        lambda p: (split(p)[0], -(p * p.log()).sum(-1)[:, 0], split(p)[2]),
        "one route's",
    ),
    "the wrong way round": (check_split, lambda p: (*split(p)[:2], -split(p)[2]), "sign"),
    "two values": (check_split, lambda p: split(p)[:2], "three tensors"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_told_their_cause(name):
    check, answer, cause = WRONG[name]
    with pytest.raises(AssertionError, match=cause):
        check(answer)
