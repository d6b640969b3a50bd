"""The phase map, of made-up runs whose truth is known: cells, doses, verdicts, what is missing; predictions, scores."""

import importlib
import json
import sys

import close
import numpy as np
import pandas as pd
import pytest
from makers import DATA, load_maker

from adamix_lab.experiments import results as stored
from adamix_lab.experiments.grids import grid_of, read_grid
from adamix_lab.experiments.results import begin, finish, parquet
from adamix_lab.lessons.ablations import leads

maker = load_maker("results/phase")
MENU = {"AdaMix": {}, "single": {"method": "single"}, "single, lr/M": {"method": "slow"}}
BASE = {"task": "subjectivity", "lr": 2e-3, "sample": None, "compute": "rate", "label_noise": 0.25, "part": "fresh"}
AXES = {"rows": [100, 400], "steps": [50, 100, 200]}
SLICES = {"judged_on": "slice", "part": None}
GRID = {
    "base": BASE,
    "parts": [
        {"axes": AXES | {"variant": MENU, "seed": [30, 31, 32]}},
        {"base": SLICES, "axes": AXES | {"variant": {"AdaMix": {}, "single": MENU["single"]}, "seed": [30, 31]}},
    ],
}
AHEAD = {50: 0.0, 100: -0.08, 200: 0.1}  # AdaMix's accuracy above the single adapter's
STOPS = {"adamix": 200, "single": 100}


def files(run):
    """What a worker would send of a run with a known truth."""
    rng = np.random.default_rng(run.seed)
    own = AHEAD[run.steps] if run.method == "adamix" else 0.0
    score = 0.7 + own + 0.01 * rng.random()
    common = dict.fromkeys(stored.COLUMNS["results.parquet"].split(), 0)
    common |= {name: getattr(run, name) for name in "task variant method share seed steps compute".split()}
    common |= {"run": run.key, "settings": json.dumps(vars(run))}
    loss = 0.5 + abs(np.log2(run.steps / STOPS.get(run.method, 100)))
    table, answers = [], []
    for strategy in ("merged", "random") if run.method == "adamix" else ("merged",):
        right = np.arange(400) < 400 * score
        for metric, value in (("accuracy", right.mean()), ("loss", loss)):
            primary = metric == "accuracy"
            table.append(common | {"strategy": strategy, "metric": metric, "primary": primary, "value": value})
        answers += [
            {"run": run.key, "strategy": strategy, "row": n, "label": 1.0, "prediction": float(each),
             "probability_of_label": 0.8 if each else 0.2}
            for n, each in enumerate(right)
        ]  # fmt: skip
    curve = [{"run": run.key, "step": 1, "loss": 1.0, "task_loss": 1 / run.steps, "consistency": 0.0}]
    tables = {"results.parquet": table, "predictions.parquet": answers, "curves.parquet": curve}
    return {name: parquet(name, rows) for name, rows in tables.items()}


def perform(runs, out):
    for run in runs:
        finish(begin(out, run), files(run))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The maker with a small grid, and a folder for its runs."""
    monkeypatch.setattr(maker, "read_grid", lambda name: grid_of(GRID))
    return grid_of(GRID), tmp_path / "runs", tmp_path


def test_cells_where_adamix_wins_and_where_it_loses(small):
    grid, runs, out = small
    perform(grid.runs, runs)
    maker.main(runs, out)
    table = pd.read_parquet(out / "map.parquet")
    points = table[(table["unit"] == "points") & (table["rows"] == 400)].set_index(["panel", "steps"])
    single = points.loc["single"]
    assert dict(single["dose"]) == {50: -1, 100: 0, 200: 1}  # the single adapter's own stop is 100
    assert dict(single["verdict"]) == {50: "alike", 100: "shown", 200: "shown"}
    for steps, ahead in AHEAD.items():
        close.assert_close(single.loc[steps, "mean"], 100 * ahead, close.DOUBLE, scale=80)
    assert list(leads(single.loc[[50, 100, 200]])) == [0, -1, 1]
    own = points.loc[maker.OWN]  # AdaMix's stop is 200
    assert list(own.index) == [100] and own["first_steps"].item() == 200 and own["verdict"].item() == "shown"
    close.assert_close(own["mean"].item(), 100 * AHEAD[200], close.DOUBLE)
    assert set(points.loc[maker.ROUTES]["verdict"]) == {"alike"}
    told = (out / "map.txt").read_text()
    assert "single: of 6 cells ahead in 2, behind in 2, alike in 2" in told and "Missing by panel: none" in told
    assert "dose (+" in told and (out / "subjectivity.png").stat().st_size > 1000
    assert "ahead in 2, behind in 2" in (out / "subjectivity.txt").read_text()


def test_an_unfinished_map_says_what_is_missing_and_gives_no_dose_without_its_ladder(small, monkeypatch):
    grid, runs, out = small
    monkeypatch.setattr(maker, "save_figure", lambda *_: None)
    perform([run for run in grid.runs if run.seed < 32 or run.steps < 200 or run.variant == "single"][:-1], runs)
    maker.main(runs, out)
    told = (out / "map.txt").read_text()
    assert "'single': 2" in told and "'single, lr/M': 2" in told
    table = pd.read_parquet(out / "map.parquet")
    assert set(table["seeds"]) == {3} and set(table[table["panel"] == "single"]["steps"]) == {50, 100}
    assert table[table["rows"] == 100]["dose"].notna().all() and table[table["rows"] == 400]["dose"].isna().all()


@pytest.fixture
def predict(monkeypatch):
    """`predict.py`, which stands beside `make.py`."""
    monkeypatch.syspath_prepend(str(DATA / "results" / "phase"))
    yield importlib.import_module("predict")
    for name in ("predict", "make"):
        sys.modules.pop(name)


def test_predictions_are_made_once_of_a_whole_map_and_are_scored(small, predict, monkeypatch):
    grid, runs, out = small
    test = {"base": BASE | {"part": "sealed"}, "axes": AXES | {"variant": MENU, "seed": [40, 41, 42]}}
    grids = {"phase": GRID, "phase-test": test}
    monkeypatch.setattr(maker, "save_figure", lambda *_: None)
    monkeypatch.setattr(predict, "read_grid", lambda name: grid_of(grids[name]))
    perform(grid.runs[:-1], runs)
    maker.main(runs, out)
    with pytest.raises(ValueError, match="comparisons are there, or doses are missing: finish the map"):
        predict.make(out)
    perform(grid.runs[-1:], runs)
    maker.main(runs, out)
    predict.make(out)
    said = pd.read_csv(out / "predictions.csv")
    assert (said[predict.CHANCES].sum(axis=1).round(3) == 1).all()
    single = said[(said["panel"] == "single") & (said["rows"] == 400)].set_index("steps")
    assert single.loc[200, "ahead"] > single.loc[50, "ahead"] and single.loc[200, "sign"] == 1
    assert (said["probability"] == said[predict.CHANCES].max(axis=1)).all()
    with pytest.raises(ValueError, match="predictions are frozen"):
        predict.make(out)
    perform(grid_of(test).runs, out / "test")
    predict.score(out / "test", out)
    scores = pd.read_csv(out / "score.csv").set_index("rule")
    assert list(scores.index) == ["the map", "always not shown", "epochs", "training loss"]
    assert scores.loc["the map", "brier"] < scores.loc["always not shown", "brier"]
    assert scores.loc["the map", "error"] < scores.loc["always not shown", "error"]


def test_the_shipped_score_is_that_of_the_frozen_predictions(predict):
    said, found = (pd.read_csv(DATA / "results" / "phase" / name) for name in ("predictions.csv", "test.csv"))
    found = found[found["unit"] == "points"].merge(said[[*predict.KEY, "said", *predict.CHANCES]], "left", predict.KEY)
    assert len(found) == len(said) == 104 and set(found["seeds"]) == {10} and found["said"].notna().all()
    scores = pd.read_csv(DATA / "results" / "phase" / "score.csv").set_index("rule")
    happened = leads(found)[:, None] == predict.SIGNS
    brier = ((found[predict.CHANCES].to_numpy(float) - happened) ** 2).sum(1).mean()
    error = (found["mean"] - found["said"]).abs().mean()
    assert scores.loc["the map", ["brier", "error"]].tolist() == pytest.approx([brier, error], rel=1e-3)  # four digits
    # what lesson 07 says of them
    assert scores.loc["the map", "brier"] < scores.loc["always not shown", "brier"]
    assert scores.loc[["epochs", "training loss"], "brier"].min() <= scores.loc["the map", "brier"]
    assert scores.loc[["epochs", "training loss"], "error"].max() <= scores.loc["the map", "error"]


def test_fewer_experts_are_looked_up_at_a_larger_dose_and_another_task_has_the_mean_of_stops(predict):
    stops = [
        ["subjectivity", 400, 0.25, 2e-3, "single", 50, 0.5, False],
        ["reviews", 400, 0.25, 2e-3, "single", 200, 0.5, False],
    ]
    cells = predict.cells_of_test(
        pd.DataFrame(stops, columns=[*maker.PLACE, "variant", "steps", "loss", "edge"])
    ).set_index(["task", "experts", "panel", "rows", "label_noise", "steps"])
    assert cells.loc[("qqp", 4, "single", 400, 0.25, 200), "dose"].item() == 1
    two = cells.loc[[("subjectivity", 2, "single", 400, 0.25, 200)]].reset_index()
    assert predict.axes_of(two, "the map")[0, 0] == two["dose"].item() + 1
    assert {run.part for run in read_grid("phase-test").runs} == {"sealed", None}
    assert {run.seed for run in read_grid("phase-test").runs} == set(range(40, 50))
