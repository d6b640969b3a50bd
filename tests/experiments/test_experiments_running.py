"""One run: what it trains and measures, for every method; what it does where something is in its way."""

import errno
import io
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import close
import pandas as pd
import pytest
import tiny_grid
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.baselines.making import baseline
from adamix_lab.core.objective import Consistency
from adamix_lab.experiments import performing, running
from adamix_lab.experiments.performing import Job, perform
from adamix_lab.experiments.results import COLUMNS, begin
from adamix_lab.experiments.running import Outcome, prepare
from adamix_lab.experiments.settings import METHODS, Run, settings_of
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import TextsCut
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.evaluation import evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_grid.make(tmp_path_factory.mktemp("tiny"))


def outcome_of(run: Run, out: Path, **terms) -> Outcome:
    begin(out, run)
    ((outcome,),) = perform(Job((run,), str(out), **terms))[1:]
    return outcome


def done(run: Run, out: Path, **terms) -> dict[str, pd.DataFrame]:
    outcome = outcome_of(run, out, **terms)
    assert not outcome.error, outcome.error
    return {name.removesuffix(".parquet"): pd.read_parquet(io.BytesIO(outcome.files[name])) for name in COLUMNS}


def values(results: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {(row.strategy, row.metric): row.value for row in results.itertuples()}


def test_a_run_is_what_train_and_evaluate_do(base, tmp_path):
    """The kept prefix and the exact average change no number."""
    run = tiny_grid.run(base, steps=12)
    tables = done(run, tmp_path)
    model, tokenizer = load_backbone(run.backbone, num_labels=3, seed=0)
    mixture = baseline("adamix", model, size=4, experts=2, blocks=range(-2, 0))
    task = load_task(run.task)
    consistency = Consistency(1.0, views="shared_prefix")
    recipe = Recipe(
        steps=12, batch_size=8, lr=5e-3, max_length=10, dev_fraction=0.0, cache_prefix=True, consistency=consistency
    )
    history = train(mixture, task, tokenizer, recipe, progress=False)
    names = ["merged", "fixed", "random", "ensemble"]
    found = values(tables["results"])
    for result in evaluate(mixture, task, tokenizer, names, max_length=10):
        assert found[result.strategy, "accuracy"] == pytest.approx(result.accuracy)
        close.assert_close(found[result.strategy, "loss"], result.loss)
    close.assert_close(tables["curves"]["loss"].tolist(), history.losses)
    batch = dict(tokenizer([row["sentence"] for row in task.evaluation], padding=True, return_tensors="pt"))
    with torch.no_grad():
        passes = [mixture(selection=route, **batch).logits.softmax(-1) for route in mixture.space.enumerate()]
    mean = torch.stack(passes).mean(0)
    labels = torch.tensor([row["label"] for row in task.evaluation])
    rows = tables["predictions"].query("strategy == 'exact'").sort_values("row")
    expected = mean.gather(1, labels.unsqueeze(1)).squeeze(1).tolist()
    close.assert_close(rows["probability_of_label"].tolist(), expected)
    assert rows["label"].tolist() == labels.tolist() and rows["prediction"].tolist() == mean.argmax(-1).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(base, tmp_path, method):
    run = tiny_grid.run(base, method=method, steps=2, top_blocks=2 if "blocks" in settings_of(method) else None)
    tables = done(run, tmp_path)
    results = tables["results"]
    row = results.iloc[0]
    assert row["run"] == run.key and json.loads(row["settings"])["method"] == method
    assert row["trained"] >= row["stored"] >= row["inference"] > 0 and row["seconds"] > 0
    assert (row["operations"] == 0) == (method == "probe")
    several = {"merged", "fixed", "random", "ensemble", "exact"}
    own = {"adamix": several, "adamix-lora": several, "apart-soup": several | {"alone", "ensemble of them"}}
    strategies = own.get(method, {"merged"})
    assert set(results["strategy"]) == strategies == set(tables["predictions"]["strategy"])
    assert results[results["primary"]]["metric"].unique() == ["accuracy"]
    assert row["steps"] == {"apart-soup": 4, "probe": 0}.get(method, 2)
    assert method == "probe" or tables["curves"]["step"].max() == row["steps"]
    assert not tables["curves"]["step"].duplicated().any()


def test_runs_that_share_a_prefix_do_not_share_anything_else(base, tmp_path):
    alone = [values(done(tiny_grid.run(base, seed=seed), tmp_path / "a")["results"]) for seed in (0, 1)]
    turned = [values(done(tiny_grid.run(base, seed=seed), tmp_path / "b")["results"]) for seed in (1, 0)]
    assert alone == turned[::-1] and alone[0] != alone[1]


def test_rows_that_runs_are_judged_on_are_encoded_once_and_a_slice_for_each_sample(base, monkeypatch):
    monkeypatch.setattr(running, "_KEPT", OrderedDict())
    runs = [tiny_grid.run(base, rows=30, label_noise=noise, sample=n) for n, noise in enumerate((0.0, 0.3))]
    a, b = map(prepare, runs)
    (_, first), *_ = a.judged[""]
    (_, again), *_ = b.judged[""]
    assert torch.equal(first["labels"], again["labels"]) and len(running._KEPT) == 3  # two trained on, one judged
    for run in runs:
        prepare(replace(run, judged_on="slice"))
    assert len(running._KEPT) == 3 + 2 + 3  # of the noisy slice its true labels, too


def test_all_rows_of_a_task_are_encoded_once_for_all_seeds_and_drawn_ones_for_each(base, monkeypatch):
    for settings, kept in (({}, 1), ({"judged_on": "slice"}, 1), ({"rows": 30}, 2), ({"label_noise": 0.3}, 2)):
        monkeypatch.setattr(running, "_KEPT", OrderedDict())
        whole = {"rows": None, "sample": None, "label_noise": 0.0, **settings}
        first, second = (prepare(tiny_grid.run(base, seed=seed, **whole)) for seed in (0, 1))
        assert sum("train" in key for key in running._KEPT) == kept and (first.training is second.training) == (
            kept == 1
        )


def test_equal_compute(base, tmp_path):
    subject = done(tiny_grid.run(base, experts=4), tmp_path)["results"].iloc[0]
    single = done(tiny_grid.run(base, method="single", compute="compute"), tmp_path)["results"].iloc[0]
    assert single["steps"] > subject["steps"] == 6
    assert abs(single["operations"] - subject["operations"]) <= single["operations"] / single["steps"] / 2


@pytest.mark.parametrize("blocks", [1, 2])
def test_equal_compute_of_r_drop_is_equal_steps_above_a_cached_prefix(base, blocks):
    """Two views of AdaMix and two dropout masks compute the same: in the last block one position."""
    made = prepare(tiny_grid.run(base, method="r-drop", compute="compute", experts=1, top_blocks=blocks))
    assert made.recipe.steps == base["steps"] and made.recipe.consistency.number == 2


def test_few_examples_samples_and_slices(base):
    few = prepare(tiny_grid.run(base, examples=6, seed=1))
    assert len(few.training) == 6 and len(few.task.evaluation) == 30
    sampled = prepare(tiny_grid.run(base, rows=20, evaluation_rows=10))
    assert len(sampled.training) == 20 and len(sampled.task.evaluation) == 10
    held_out = prepare(tiny_grid.run(base, judged_on="slice"))
    assert len(held_out.training) == 48 and len(held_out.task.evaluation) == 12
    everything = [row["sentence"] for row in load_task(base["task"]).train]
    both = [row["sentence"] for row in [*held_out.task.train, *held_out.task.evaluation]]
    assert sorted(both) == sorted(everything)  # no evaluation row among them
    with pytest.warns(TextsCut, match="were cut"):
        prepare(tiny_grid.run(base, max_length=4))


def test_a_regression(base, tmp_path):
    (tmp_path / "data" / "stsb").mkdir(parents=True)
    rows = [{"sentence1": f"w{n % 9}", "sentence2": "w1 w2", "label": (n % 9) / 2} for n in range(40)]
    for part in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / "stsb" / f"{part}.jsonl").write_text(text)
    run = tiny_grid.run(base, task="stsb", folder=str(tmp_path / "data"))
    tables = done(run, tmp_path)
    own = tables["results"].query("primary")
    assert own["metric"].unique() == ["pearson"] and len(own) == 5  # the exact average is one of them
    assert tables["predictions"]["probability_of_label"].isna().all()
    assert str(tmp_path / "data") not in tables["results"]["settings"].iloc[0]


def test_time_stops_a_run_behind_a_checkpoint(base, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "EVERY", 4)
    run = tiny_grid.run(base, steps=10)
    outcome = outcome_of(run, tmp_path, deadline=1.0)
    assert not outcome.files and not outcome.error
    (kept,) = (tmp_path / run.key / "work").glob("checkpoint-*")
    assert kept.name == "checkpoint-00000004.safetensors"
    assert outcome_of(run, tmp_path, driver=-1).files == {}  # the driver is gone
    whole, resumed = outcome_of(run, tmp_path / "whole"), outcome_of(run, tmp_path)
    assert whole.note == "" and resumed.note == "went on from step 4"
    first, second = (pd.read_parquet(io.BytesIO(o.files["predictions.parquet"])) for o in (whole, resumed))
    pd.testing.assert_frame_equal(first, second)


def test_a_worker_without_the_drivers_disk_works_in_a_folder_of_its_own(base, tmp_path, monkeypatch):
    monkeypatch.setattr(performing.tempfile, "gettempdir", lambda: str(tmp_path / "there"))
    _, (outcome,) = perform(Job((tiny_grid.run(base),), str(tmp_path / "not seen")))
    assert outcome.files.keys() >= COLUMNS.keys()
    assert not list((tmp_path / "there").iterdir())  # nobody else would clean up there


def test_an_error_is_told_and_a_full_disk_is_nobodys_error(base, tmp_path, monkeypatch):
    run = tiny_grid.run(base, task=str(tmp_path / "nowhere"))
    assert "FileNotFoundError" in outcome_of(run, tmp_path).error

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(running, "train_examples", full)
    with pytest.raises(OSError, match="No space left"):
        outcome_of(tiny_grid.run(base), tmp_path)


def test_several_draws_of_random_routes_are_judged_and_the_first_is_what_one_draw_gives(base, tmp_path):
    one, several = (tiny_grid.run(base, draws=draws) for draws in (1, 12))
    few, many = done(one, tmp_path / "one"), done(several, tmp_path / "several")
    pick = {"strategy": "random", "metric": "loss"}
    losses = [part.loc[(part[list(pick)] == pick).all(axis=1), "value"] for part in (few["results"], many["results"])]
    assert len(losses[0]) == 1 and len(losses[1]) == 12 and losses[1].nunique() > 1
    assert losses[1].iloc[0] == losses[0].iloc[0]
    pd.testing.assert_frame_equal(
        *(
            part["predictions"].drop(columns="run").sort_values(["strategy", "row"], ignore_index=True)
            for part in (few, many)
        )
    )


def test_further_rows_are_judged_merged(base, tmp_path):
    """MNLI's mismatched rows: beside the task's own, under their name."""
    (tmp_path / "data" / "mnli").mkdir(parents=True)
    rows = [{"premise": f"w{n % 9}", "hypothesis": "w1 w2", "label": n % 3} for n in range(60)]
    for part, some in {"train": rows, "validation": rows[:20], "validation_mismatched": rows[20:50]}.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        (tmp_path / "data" / "mnli" / f"{part}.jsonl").write_text(text)
    for method in ("single", "probe"):
        run = tiny_grid.run(base, task="mnli", folder=str(tmp_path / "data"), method=method)
        tables = done(run, tmp_path / "out")
        merged = tables["results"].query("strategy == 'merged'")
        own = ["accuracy", "loss", "adaptive_ece"]
        assert list(merged["metric"]) == [*own, *(f"{name}, mismatched" for name in own)]
        assert list(merged["primary"]) == [True, *[False] * 5] and len(tables["predictions"]) == 20
