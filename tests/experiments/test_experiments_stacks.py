"""Runs that train as one program: who belongs together, the same numbers as alone, going on after a kill."""

import io
from types import SimpleNamespace

import close
import pandas as pd
import pytest
import tiny_grid
from tiny_task import one_thread  # noqa: F401

from adamix_lab.cli import study
from adamix_lab.experiments import ablation, performing, running
from adamix_lab.experiments.ablation import ablate
from adamix_lab.experiments.grids import grid_of
from adamix_lab.experiments.performing import Job, jobs_of, perform, stacks_of
from adamix_lab.experiments.results import COLUMNS, begin, finish, finished, gather
from adamix_lab.experiments.settings import Engine, Run

ADAMIX = {
    "AdaMix": {}, "no consistency": {"consistency": 0}, "gentle": {"lr": 1e-3}, "smooth": {"label_smoothing": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return {**tiny_grid.make(tmp_path_factory.mktemp("tiny")), "dropout": 0.0}


def outcomes_of(runs, out, **terms):
    for run in runs:
        begin(out, run)
    return perform(Job(tuple(runs), str(out), **terms))[1]


def variants(base, **changes):
    return [tiny_grid.run({**base, **changes}, variant=name, **own) for name, own in ADAMIX.items()]


# -- which runs ---------------------------------------------------------------------------------------------


def test_runs_of_equal_shape_are_together_whatever_their_seed_rate_and_consistency():
    axes = {"seed": [0, 1], "variant": {**ADAMIX, "M=2": {"experts": 2}, "full": {"method": "full"}}}
    runs = grid_of({"base": {"top_blocks": None}, "axes": axes}).runs
    found = [[(run.variant, run.seed) for run in own] for own in stacks_of(runs, 8)]
    together = [(name, seed) for seed in (0, 1) for name in ADAMIX]
    assert found == [together, [("M=2", 0), ("M=2", 1)], [("full", 0)], [("full", 1)]]
    assert [len(own) for own in stacks_of(runs, 3)] == [3, 3, 2, 1, 2, 1]  # in the order of first members
    assert all(len(own) == 1 for own in stacks_of(runs, 1))


def test_single_adapters_are_of_one_shape_and_a_seed_keeps_its_stack():
    opponents = ["single", "slow", "swa", "slow-swa", "ema", "r-drop"]
    runs = [
        Run(method=method, seed=seed, label_noise=noise)
        for seed in (0, 1)
        for noise in (0, 0.25)
        for method in opponents
    ]
    own = [[run for run in runs if run.seed == seed] for seed in (0, 1)]
    # four of eight are filled up with the next seed's, five of seven are not
    assert stacks_of(runs, 8) == [tuple(own[0][:8]), (*own[0][8:], *own[1][:4]), tuple(own[1][4:])]
    assert stacks_of(runs, 7) == [tuple(own[0][:7]), tuple(own[0][7:]), tuple(own[1][:7]), tuple(own[1][7:])]
    assert len(stacks_of([Run(seed=seed) for seed in range(8)], 8)) == 1  # a run a seed: seeds are joined
    assert len(stacks_of([Run(), Run(method="single"), Run(method="wide")], 8)) == 3


def test_other_tasks_steps_sizes_and_sharing_are_other_sets():
    changes = [{}, {"steps": 7}, {"size": 8}, {"share": "none"}, {"batch_size": 8}, {"task": "rte"}, {"dropout": 0.0}]
    assert [len(own) for own in stacks_of([Run(**each) for each in changes], 9)] == [1] * len(changes)
    equal = [Run(compute="compute", **each) for each in ({}, {"seed": 1}, {"consistency": 0})]
    assert [len(own) for own in stacks_of(equal, 9)] == [2, 1]  # one view takes more steps for the same operations


def test_a_folder_is_named_so_that_workers_elsewhere_find_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(task="rte", folder="rows")
    (job,) = jobs_of([run], tmp_path, Engine(threads=1))
    assert job.runs[0].folder == str(tmp_path / "rows") and job.runs[0].key == run.key


def test_what_cannot_be_stacked_is_alone():
    for settings in ({"method": "full"}, {"method": "ia3"}, {"method": "apart-soup"}, {"routing": "example"}):
        assert [len(own) for own in stacks_of([Run(seed=seed, **settings) for seed in (0, 1)], 2)] == [1, 1]
    assert len(stacks_of([Run(method="single", seed=seed) for seed in (0, 1)], 2)) == 1


def test_a_stack_that_was_under_way_stays_together(tmp_path):
    runs = [Run(seed=seed) for seed in range(5)]
    (whole,) = jobs_of(runs, tmp_path, Engine(threads=1, together=5))
    assert whole.runs == tuple(runs)
    finish(begin(tmp_path, runs[0]), dict.fromkeys(COLUMNS, b""))
    assert [job.runs for job in jobs_of(runs, tmp_path, Engine(threads=1, together=5))] == [tuple(runs[1:])]
    (tmp_path / whole.name / "work").mkdir(parents=True)
    assert jobs_of(runs, tmp_path, Engine(threads=1, together=5)) == [whole]
    assert [len(job.runs) for job in jobs_of(runs, tmp_path, Engine(threads=1), failed={runs[1].key})] == [1, 1, 1]


def test_the_command_stacks_eight_runs_above_a_cached_prefix(tmp_path, monkeypatch):
    engines, path = [], tmp_path / "grid.yaml"
    monkeypatch.setattr(ablation, "ablate", lambda grid, out, engine: (None, engines.append(engine)))
    for top, more in ((2, {}), ("null", {}), (2, {"workers": 2}), (2, {"together": 3})):
        path.write_text(f"base: {{top_blocks: {top}}}\naxes: {{seed: [0, 1]}}\n", encoding="utf-8")
        study.ablate(SimpleNamespace(obj=more), path, out=tmp_path)
    assert [engine.together for engine in engines] == [8, 1, 1, 3]


def test_a_dropout_that_is_no_share_is_named():
    with pytest.raises(ValueError, match="dropout = 1"):
        Run(dropout=1)
    assert Run(dropout=0).key != Run().key


# -- performing ---------------------------------------------------------------------------------------------


def test_with_dropout_off_each_run_equals_the_run_alone(base, tmp_path):
    runs = variants(base, steps=12, lr=4e-4)
    together = outcomes_of(runs, tmp_path / "together")
    for run, found in zip(runs, together, strict=True):
        (alone,) = outcomes_of([run], tmp_path / "alone")
        assert not found.error and not alone.error and found.files.keys() == alone.files.keys()
        mine, other = (pd.read_parquet(io.BytesIO(each.files["results.parquet"])) for each in (found, alone))
        same = ["strategy", "metric", "steps", "operations", "trained", "stored", "inference", "settings"]
        pd.testing.assert_frame_equal(mine[same], other[same])
        close.assert_close(mine["value"].tolist(), other["value"].tolist(), close.TRAINED)
        losses = ["loss", "task_loss", "consistency"]
        curves = [pd.read_parquet(io.BytesIO(each.files["curves.parquet"])) for each in (found, alone)]
        assert curves[0]["step"].tolist() == curves[1]["step"].tolist()
        close.assert_close(*(curve[losses].to_numpy() for curve in curves), close.TRAINED)
        assert found.note == "one of 4 runs of one program"


def test_opponents_and_averages_are_stacked_too(base, tmp_path):
    common = {**base, "steps": 12, "lr": 4e-4, "method": "slow-swa"}
    runs = [tiny_grid.run(common), tiny_grid.run(common, seed=1, swa=0.5, label_smoothing=0.1)]
    others = ("single", "slow", "swa", "ema", "r-drop")
    runs += [tiny_grid.run({**common, "method": method, "label_noise": 0.25}) for method in others]
    assert len(stacks_of(runs, 7)) == 1
    for run, found in zip(runs, outcomes_of(runs, tmp_path / "together"), strict=True):
        (alone,) = outcomes_of([run], tmp_path / "alone")
        values = [pd.read_parquet(io.BytesIO(each.files["results.parquet"]))["value"] for each in (found, alone)]
        close.assert_close(values[0].tolist(), values[1].tolist(), close.TRAINED)


@pytest.mark.parametrize("method", ["adamix-lora", "lora"])
@pytest.mark.parametrize("share", ["up", "down"])
def test_loras_are_stacked_too(base, tmp_path, method, share):
    common = {**base, "steps": 12, "lr": 4e-4, "method": method, "size": 4, "share": share}
    runs = [tiny_grid.run(common, seed=seed) for seed in (0, 1)]
    assert len(stacks_of(runs, 2)) == 1
    for run, found in zip(runs, outcomes_of(runs, tmp_path / "together"), strict=True):
        (alone,) = outcomes_of([run], tmp_path / "alone")
        values = [pd.read_parquet(io.BytesIO(each.files["results.parquet"]))["value"] for each in (found, alone)]
        close.assert_close(values[0].tolist(), values[1].tolist(), close.TRAINED)


def test_few_examples_are_each_runs_own(base, tmp_path):
    runs = [tiny_grid.run(base, examples=9, seed=seed, steps=6, lr=4e-4) for seed in (0, 1)]
    for run, found in zip(runs, outcomes_of(runs, tmp_path / "together"), strict=True):
        (alone,) = outcomes_of([run], tmp_path / "alone")
        losses = [pd.read_parquet(io.BytesIO(each.files["curves.parquet"]))["loss"] for each in (found, alone)]
        close.assert_close(losses[0].tolist(), losses[1].tolist(), close.TRAINED)


def test_a_grid_together_gives_the_table_of_one_by_one(base, tmp_path):
    table = tiny_grid.table(base, seeds=3, lr=4e-4)
    lines: list[str] = []
    one, _ = ablate(grid_of(table), tmp_path / "one", Engine(threads=1), lines.append)
    together, failed = ablate(grid_of(table), tmp_path / "sets", Engine(threads=1, together=4), lines.append)
    assert not failed and not list((tmp_path / "sets").glob("stack-*"))
    mine, other = tiny_grid.measured(together), tiny_grid.measured(one)
    close.assert_close(mine["value"].tolist(), other["value"].tolist(), close.TRAINED)
    pd.testing.assert_frame_equal(mine.drop(columns="value"), other.drop(columns="value"))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_set_that_was_stopped_goes_on_as_the_same_set(base, tmp_path, monkeypatch, dropout):
    monkeypatch.setattr(running, "EVERY", 5)
    runs = variants(base, steps=12, lr=4e-4, dropout=dropout)
    whole = outcomes_of(runs, tmp_path / "whole")
    stopped = outcomes_of(runs, tmp_path / "cut", deadline=1.0)
    assert all(not outcome.files and not outcome.error for outcome in stopped)
    kept = [path.name for path in tmp_path.glob("cut/stack-*/*/checkpoint-*")]
    assert kept == ["checkpoint-00000005.safetensors"]
    resumed = outcomes_of(runs, tmp_path / "cut")
    for one, two in zip(whole, resumed, strict=True):
        for name in ("predictions.parquet", "curves.parquet"):
            pd.testing.assert_frame_equal(*(pd.read_parquet(io.BytesIO(each.files[name])) for each in (one, two)))


def test_a_driver_killed_while_it_stores_goes_on_with_the_same_set(base, tmp_path, monkeypatch):
    """Under dropout a set of other members would give other numbers."""
    table = {"base": {**base, "dropout": 0.1}, "axes": {"seed": [0, 1, 2]}}
    whole, _ = ablate(grid_of(table), tmp_path / "whole", Engine(threads=1, together=3), print)
    finish, stored = performing.finish, []

    def killed(place, files):
        if stored:
            raise KeyboardInterrupt
        stored.append(place)
        finish(place, files)

    monkeypatch.setattr(performing, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        ablate(grid_of(table), tmp_path / "cut", Engine(threads=1, together=3), print)
    monkeypatch.setattr(performing, "finish", finish)
    again, _ = ablate(grid_of(table), tmp_path / "cut", Engine(threads=1, together=3), print)
    pd.testing.assert_frame_equal(tiny_grid.measured(again), tiny_grid.measured(whole))
    assert not list(tmp_path.glob("cut/stack-*"))


def test_a_run_that_diverges_fails_and_the_others_stay(base, tmp_path):
    runs = [tiny_grid.run(base, seed=0, lr=1e30), tiny_grid.run(base, seed=1)]
    broken, sound = outcomes_of(runs, tmp_path)
    assert "lower lr" in broken.error and not broken.files
    assert not sound.error and sound.files


def test_a_set_that_fails_is_performed_run_by_run(base, tmp_path, monkeypatch):
    monkeypatch.setattr(
        performing, "train_batched", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory"))
    )
    runs = variants(base)[:2]
    for outcome in outcomes_of(runs, tmp_path):
        assert outcome.files and "out of memory" in outcome.note


def test_a_full_disk_is_nobodys_error(base, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(performing, "train_batched", full)
    with pytest.raises(OSError, match="No space"):
        outcomes_of(variants(base)[:2], tmp_path)


def test_the_set_stays_where_a_worker_sees_no_disk(base, tmp_path, monkeypatch):
    monkeypatch.setattr(performing.tempfile, "gettempdir", lambda: str(tmp_path / "own"))
    _, outcomes = perform(Job(tuple(variants(base)[:2]), str(tmp_path / "not seen")))
    assert all(outcome.files for outcome in outcomes)
    assert not list((tmp_path / "own").iterdir())  # cleaned up


def test_gathered_results_say_nothing_of_sets(base, tmp_path):
    runs = variants(base)[:2]
    performing.perform_all(runs, tmp_path, Engine(threads=1, together=2), None, print)
    assert all(finished(tmp_path, run) for run in runs)
    assert set(gather(tmp_path)["run"]) == {run.key for run in runs}
