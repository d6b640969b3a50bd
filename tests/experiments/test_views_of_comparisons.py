"""A fair comparison: the same trials for every method, an oracle beside it, three views, rows that choose nothing."""

import json
from dataclasses import replace

import pytest
import tiny_grid
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.experiments import running
from adamix_lab.experiments.ablation import ablate
from adamix_lab.experiments.grids import grid_of
from adamix_lab.experiments.results import measures
from adamix_lab.experiments.seeds import train_seeds
from adamix_lab.experiments.settings import BUDGETS, Engine
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.recipe import Recipe

QUIET = Engine(threads=1)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """The tiny task with a quarter of its labels wrong."""
    return {**tiny_grid.make(tmp_path_factory.mktemp("tiny")), "rows": 60, "label_noise": 0.25}


VIEWS = ("rate", "best", "oracle", "compute")


def test_three_views_and_an_oracle_of_one_comparison(noisy, tmp_path):
    search = {"factors": [0.1, 1], "stops": [0.5, 1]}
    methods = {"single": {"method": "single"}, "both": {"method": "slow-swa"}}
    table = {"base": noisy, "axes": {"compute": list(VIEWS), "variant": methods}, "search": search}
    grid, lines = grid_of(table), []
    results, failed = ablate(grid, tmp_path, QUIET, lines.append)
    assert failed == 0
    chosen = {
        (row["variant"], row["compute"]): row for row in json.loads((tmp_path / "search.json").read_text())["chosen"]
    }
    assert {view for _, view in chosen} == {"best", "oracle", "compute"}  # "rate" is as the grid has it
    of = {(run["variant"], run["compute"]): json.loads(run["settings"]) for _, run in results.iterrows()}
    for (variant, view), row in chosen.items():
        rates_by_steps = {(each["lr"], each["steps"]) for each in row["tried"]}
        assert len(rates_by_steps) == (2 if view == "compute" else 4)  # as many for each: the whole curve is kept
        key = "true_loss" if view == "oracle" else "loss"
        best = min(row["tried"], key=lambda each: each[key])
        assert (of[variant, view]["lr"], of[variant, view]["steps"]) == (best["lr"], best["steps"])
        assert all(each["loss"] != each["true_loss"] for each in row["tried"])  # wrong labels stand in the slice
        if view == "compute":  # at its own length, which is more than the grid's steps
            assert of[variant, view]["steps"] == noisy["steps"]
        else:
            assert of[variant, view]["temperature"] == best["true_temperature" if view == "oracle" else "temperature"]
    assert of["both", "rate"]["lr"] == of["single", "rate"]["lr"] == noisy["lr"]
    assert set(results["task"]) == {f"{noisy['task']}, {noisy['rows']} rows, 25% noise"}
    scaled = results[results["strategy"] == "scaled"]
    assert set(scaled["compute"]) == {"best", "oracle"}
    told = measures(results)  # accuracy, NLL and calibration of each, and once more where a slice fitted a temperature
    assert list(told.columns) == ["task", "budget", "variant", "strategy", "accuracy", "loss", "adaptive_ece"]
    assert len(told) == 8 + 4 and (told[["accuracy", "loss", "adaptive_ece"]] != "").all(axis=None)
    assert sorted(told.loc[told["strategy"] == "scaled", "budget"].unique()) == sorted(
        BUDGETS[view] for view in ("best", "oracle")
    )
    text = "\n".join(lines)
    for view in ("equal rate and steps", "each at its own best", "by true labels (an oracle)", "equal compute"):
        assert view in text


def test_the_rows_that_are_reported_on_choose_nothing(noisy, tmp_path, monkeypatch):
    """The same choices whatever the evaluation rows are, and no trial loads a part that is kept for the report."""
    table = {"base": {**noisy, "compute": "best"}, "rows": [{"method": "single"}], "search": {"factors": [0.1, 1]}}
    ablate(grid_of(table), tmp_path / "one", QUIET, lambda _: None)
    running._loaded.cache_clear()
    real, parts = running.load_task, []

    def load(*args, **settings):
        found = real(*args, **settings)
        parts.append(settings["part"])
        return replace(found, evaluation=[{**row, found.label: 0} for row in found.evaluation])

    monkeypatch.setattr(running, "load_task", load)
    ablate(grid_of(table), tmp_path / "other", QUIET, lambda _: None)
    running._loaded.cache_clear()
    first, second = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("one", "other"))
    assert first == second and parts


def test_an_opponent_over_seeds_by_its_word(noisy, tmp_path):
    task, lines = load_task(noisy["task"]), []
    recipe = Recipe(steps=4, batch_size=8, max_length=10)
    found = train_seeds(
        task, noisy["backbone"], Bottleneck(4), recipe, tmp_path, seeds=(0, 1), method="slow-swa", say=lines.append,
        blocks=iter([0]),
    )  # fmt: skip
    sites = [json.loads((tmp_path / f"seed{n}" / "adamix.json").read_text())["sites"] for n in (0, 1)]
    assert sites[0] == sites[1] and len(sites[0]) == 1
    assert "single, lr/M + SWA: Bottleneck" in lines[0] and len(found) == 2
    saved = json.loads((tmp_path / "results.json").read_text())["recipe"]
    assert saved["swa"] == 0.75 and saved["side_rates"] == {"down": 0.25}
    train_seeds(task, noisy["backbone"], Bottleneck(4), recipe, tmp_path / "2", say=lines.append)
    assert any("AdaMix of 4 experts (up shared): Bottleneck" in line for line in lines)
    with pytest.raises(ValueError, match="method 'full' is not known"):
        train_seeds(task, noisy["backbone"], Bottleneck(4), recipe, tmp_path, method="full")
