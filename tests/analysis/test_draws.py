"""Strategies over many draws in one tidy table."""

import pytest
import tiny
import tiny_task
import torch

from adamix_lab.analysis.calibration import scores, strategy_table, summary
from adamix_lab.analysis.posterior import drawn_routes, every_route, fix_batches, marginal
from adamix_lab.training.evaluation import evaluate

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()


@pytest.fixture(scope="module")
def mixture():
    return tiny.shake(tiny_task.mixture())


def compare(model, rows=None, routes=None, **more):
    fixed = fix_batches(model, TASK, TOKENIZER, TASK.evaluation[:rows], batch_size=8)
    return strategy_table(fixed, (routes or every_route)(fixed), **({"draws": 12, "token_draws": 2} | more))


def test_one_call_gives_one_tidy_table(mixture):
    table = compare(mixture)
    counts = table.groupby(["strategy", "average"]).size().to_dict()
    assert counts == {
        ("merged", "weights"): 1, ("fixed", "none"): 3, ("random-route", "none"): 12, ("random", "none"): 12,
        ("random-example", "none"): 12, ("random-token", "none"): 2, ("ensemble", "logits"): 48,
        ("ensemble", "probabilities"): 48, ("exact", "logits"): 1, ("exact", "probabilities"): 1,
    }  # fmt: skip
    assert set(table["seed"]) == {0} and set(table["rows"]) == {len(TASK.evaluation)} and set(table["routes"]) == {27}
    assert table[["accuracy", "loss", "ece", "brier"]].notna().all(axis=None)
    assert compare(mixture).equals(table)
    assert not compare(mixture, seed=1).drop(columns="seed").equals(table.drop(columns="seed"))


def test_its_figures_are_those_of_evaluate_and_of_the_marginal(mixture):
    table = compare(mixture).set_index(["strategy", "average", "draw"])
    told = {r.strategy: r for r in evaluate(mixture, TASK, TOKENIZER, ["merged", "fixed-0", "fixed-2"])}
    for strategy, place in {
        "merged": ("merged", "weights", 0),
        "fixed-0": ("fixed", "none", 0),
        "fixed-2": ("fixed", "none", 2),
    }.items():
        assert table.loc[place, "accuracy"] == pytest.approx(told[strategy].accuracy)
        assert table.loc[place, "loss"] == pytest.approx(told[strategy].loss, rel=1e-4)
    every = every_route(fix_batches(mixture, TASK, TOKENIZER))
    for average in ("logits", "probabilities"):
        wanted = scores(marginal(every.logits, average), every.labels)
        assert table.loc[("exact", average, 0), "loss"] == pytest.approx(wanted["loss"], rel=1e-4)


def test_what_shares_a_route(mixture):
    """Each draw of random-route is one of the 27 routes; a batch's rows share one; examples take their own."""
    fixed = fix_batches(mixture, TASK, TOKENIZER, batch_size=10)
    every = every_route(fixed)
    # answers that name the route: sample s puts all of its mass on class s of 27
    named = torch.full((len(fixed), 27, 27), -50.0) + 100 * torch.eye(27)
    from adamix_lab.analysis.calibration import _scopes, _share_routes
    from adamix_lab.core.routing import generator_for

    groups = {name: _share_routes(named, group, generator_for(0)).argmax(-1) for name, group in _scopes(fixed).items()}
    assert len(groups["random-route"].unique()) == 1
    for rows, _ in fixed.batches:
        assert len(groups["random"][rows].unique()) == 1
    assert len(groups["random"].unique()) > 1 and len(groups["random-example"].unique()) > 10
    assert len(every) == 27


def test_where_routes_are_too_many_they_are_drawn(mixture):
    table = compare(mixture, routes=lambda fixed: drawn_routes(fixed, 12))
    assert "exact" not in set(table["strategy"])
    told = table[table["strategy"] == "monte-carlo"]
    assert set(told["passes"]) == {12} and len(told) == 2


def test_the_summary_keeps_mean_spread_worst_and_best(mixture):
    table = compare(mixture)
    told = summary(table).set_index(["strategy", "average", "passes"])
    routes = table[table["strategy"] == "random-route"]["accuracy"]
    line = told.loc[("random-route", "none", 1)]
    assert line["draws"] == 12 and line["accuracy"] == pytest.approx(routes.mean())
    assert (line["worst"], line["best"]) == (routes.min(), routes.max())
    assert line["accuracy_sd"] == pytest.approx(routes.std())
    assert len(told) == 6 + 2 * 4 + 2


def test_only_some_rows_and_bad_input(mixture):
    assert set(compare(mixture, rows=7)["rows"]) == {7}
    with pytest.raises(ValueError, match=r"draws = 0"):
        compare(mixture, draws=0)
    with pytest.raises(ValueError, match=r"No rows"):
        compare(mixture, rows=0)
    fixed = fix_batches(mixture, TASK, TOKENIZER)
    assert (strategy_table(fixed, every_route(fixed), draws=2, token_draws=1)["passes"] <= 27).all()
