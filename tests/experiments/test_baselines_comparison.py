"""The table of baselines on a tiny backbone: budgets, costs, the soup, going on after a kill."""

import json
import statistics
from dataclasses import replace

import close
import pytest
import tiny
import torch
from tiny_task import one_thread, task, tokenizer  # noqa: F401

from adamix_lab.baselines.making import baseline, costs, ensemble, train_apart
from adamix_lab.core.merging import merge
from adamix_lab.core.model import trained_tensors
from adamix_lab.experiments import baselines_comparison as comparison
from adamix_lab.experiments.baselines_comparison import RECIPE, Clock, Setting, best_rate, compare_baselines, table
from adamix_lab.training.evaluation import evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import History
from adamix_lab.training.train import train


@pytest.fixture
def setting(monkeypatch):
    monkeypatch.setattr(comparison, "load_backbone", lambda *_, **__: (tiny.bert(0.1), tokenizer()))
    short = Recipe(**{**RECIPE.to_dict(), "consistency": RECIPE.consistency, "steps": 8, "batch_size": 8})
    return Setting(task(60), "tiny", short, size=4, experts=3)


def test_budgets_costs_and_the_record(setting, tmp_path):
    lines: list[str] = []
    rows = compare_baselines(setting, tmp_path, ["adamix", "single", "full", "apart-soup"], lines.append)
    by = {(row.name, row.budget): row for row in rows}
    assert [row.name for row in rows if row.budget == "steps"] == [
        "adamix", "single", "full", "apart-soup", "apart, mean of each alone", "apart, ensemble",
    ]  # fmt: skip
    subject = by["adamix", "compute"].operations
    assert by["adamix", "compute"].steps == by["adamix", "steps"].steps == by["single", "steps"].steps == 8
    for name in ("single", "full"):
        step = by[name, "steps"].operations / 8
        assert by[name, "compute"].steps == max(1, round(subject / step))
        assert abs(by[name, "compute"].operations - subject) <= step / 2
    assert by["single", "compute"].steps > 8  # one view
    assert by["full", "steps"].operations > by["single", "steps"].operations  # gradients of the weights, too
    assert by["apart-soup", "steps"].steps == 24 and by["apart-soup", "compute"].steps < 24
    single = costs("single", setting.make("single")[0])
    assert by["apart-soup", "steps"].trained == 3 * single.trained
    assert by["apart, ensemble", "steps"].inference == 3 * by["apart-soup", "steps"].inference == 3 * single.inference
    assert all(row.step_ms and 0 <= row.low <= row.accuracy <= row.high <= 1 for row in rows)
    record = json.loads((tmp_path / "baselines.json").read_text())
    assert record["versions"]["torch"] and record["setting"]["recipe"]["steps"] == 8
    assert "Equal compute" in lines[-1] and "apart, ensemble" in lines[-1]


def test_a_killed_comparison_goes_on_and_another_setting_is_refused(setting, tmp_path, monkeypatch):
    first = compare_baselines(setting, tmp_path, ["head"], lambda _: None)
    monkeypatch.setattr(comparison, "measure", lambda name, *_: pytest.fail(f"{name} was trained again"))
    assert compare_baselines(setting, tmp_path, ["head"], lambda _: None) == first
    with pytest.raises(ValueError, match="rows of another setting"):
        compare_baselines(Setting(setting.task, "tiny", setting.recipe, size=5), tmp_path, ["head"])
    with pytest.raises(ValueError, match="Did you mean 'head'"):
        compare_baselines(setting, tmp_path, ["haed"])


def test_the_rate_is_chosen_on_training_rows_alone(setting, monkeypatch):
    seen = []

    def watched(model, data, tokenizer, recipe, **more):
        seen.append((recipe.lr, recipe.steps, recipe.dev_fraction, recipe.choose_on))
        accuracy = 1 - abs(recipe.lr - 3e-2)  # the middle rate is best

        return History(best={"dev": {"accuracy": accuracy, "loss": 1.0}})

    monkeypatch.setattr(comparison, "train", watched)
    assert best_rate("prompt", setting) == 3e-2
    assert [round(lr, 3) for lr, *_ in seen] == [0.01, 0.03, 0.09]
    assert all(rest == (2, 0.1, "slice") for _, *values in seen for rest in [tuple(values)])


def test_the_soup_is_the_mean_of_adapters_trained_apart(setting):
    parts = []

    def load():
        return tiny.bert(0.1), tokenizer()

    soup, alone = train_apart(load, setting.task, setting.recipe, experts=2, size=4, progress=False)
    for seed in (0, 1):
        one = baseline("single", tiny.bert(0.1), seed=seed, size=4)
        train(one, setting.task, tokenizer(), replace(setting.recipe, seed=seed), progress=False)
        parts.append({name: tensor.clone() for name, tensor in trained_tensors(one).items()})
    assert any(not torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    for name, tensor in trained_tensors(merge(soup)).items():
        close.assert_close(tensor, (parts[0][name] + parts[1][name]) / 2, close.ROUNDED)
    assert len(alone) == 2 and soup.mixture.tied
    assert evaluate(soup, setting.task, tokenizer())[0].log_probabilities.shape == (30, 3)
    both = ensemble(alone)
    close.assert_close(both.log_probabilities.exp().sum(-1), torch.ones(30), close.ROUNDED)
    assert both.passes == 2


def test_the_clock_leaves_out_the_first_step_of_each_run(monkeypatch):
    times = iter([0.0, 1.0, 1.5, 9.0, 9.25])
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: next(times))
    clock = Clock()
    for step in (1, 2, 3, 1, 2):
        clock.tick(step)
    assert clock.steps == [1000.0, 500.0, 250.0] and clock.median == statistics.median(clock.steps)


def test_the_table_has_a_part_for_each_budget(setting, tmp_path):
    rows = compare_baselines(setting, tmp_path, ["head"], lambda _: None)
    text = table(rows)
    assert text.index("Equal steps") < text.index("Equal compute") and "at inference" in text
