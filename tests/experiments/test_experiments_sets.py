"""Runs that train as one program: who belongs together, the same numbers as alone, going on after a kill."""

import io
import json
from dataclasses import replace

import close
import pandas as pd
import pytest
import tiny_grid
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.files import read_tensors
from adamix_lab.experiments import ablation, batched, running
from adamix_lab.experiments.ablation import Engine, ablate
from adamix_lab.experiments.batched import SETS, begin_set, name_of, perform_set, sets_of, why_alone
from adamix_lab.experiments.grid import Run, grid_of
from adamix_lab.experiments.results import begin, gather, place_of, state
from adamix_lab.experiments.running import Job

ADAMIX = {
    "AdaMix": {}, "no consistency": {"consistency": 0}, "gentle": {"lr": 1e-3},
    "a route a row": {"routing": "example"},
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return {**tiny_grid.make(tmp_path_factory.mktemp("tiny")), "dropout": 0.0}


def jobs(out, runs, **more):
    return [Job(run, str(begin(out, run)), **more) for run in runs]


def variants(base, **changes):
    return [tiny_grid.run({**base, **changes}, variant=name, **own) for name, own in ADAMIX.items()]


# -- which runs ---------------------------------------------------------------------------------------------


def test_runs_of_equal_shape_are_together_whatever_their_seed_rate_and_consistency():
    axes = {"seed": [0, 1], "variant": {**ADAMIX, "M=2": {"experts": 2}, "full": {"method": "full"}}}
    runs = grid_of({"base": {"top_blocks": None}, "axes": axes}).runs
    found = [[(run.variant, run.seed) for run in own] for own in sets_of(runs, 8)]
    together = [(name, seed) for seed in (0, 1) for name in ADAMIX]
    assert found == [together, [("M=2", 0), ("M=2", 1)], [("full", 0)], [("full", 1)]]
    assert [len(own) for own in sets_of(runs, 3)] == [3, 3, 2, 1, 2, 1]  # in the order of first members
    assert all(len(own) == 1 for own in sets_of(runs, 1))


def test_other_tasks_steps_sizes_and_sharing_are_other_sets():
    changes = [{}, {"steps": 7}, {"size": 8}, {"share": "none"}, {"batch_size": 8}, {"task": "rte"}, {"dropout": 0.0}]
    assert [len(own) for own in sets_of([Run(**each) for each in changes], 9)] == [1] * len(changes)
    equal = [Run(compute="compute", **each) for each in ({}, {"seed": 1}, {"consistency": 0})]
    assert [len(own) for own in sets_of(equal, 9)] == [2, 1]  # one view takes more steps for the same operations


def test_what_cannot_is_said():
    assert "model itself" in why_alone(Run(method="full")) and "model itself" in why_alone(Run(method="lora"))
    assert "apart" in why_alone(Run(method="apart-soup")) and "token" in why_alone(Run(routing="token"))
    assert not why_alone(Run()) and not why_alone(Run(method="single"))


def test_sets_that_were_begun_stay_together():
    runs = [Run(seed=seed) for seed in range(5)]
    begun = [[runs[1].key, runs[3].key]]
    assert sets_of(runs, 3, begun) == [(runs[0], runs[2], runs[4]), (runs[1], runs[3])]


def test_a_dropout_that_is_no_share_is_named():
    with pytest.raises(ValueError, match="dropout = 1"):
        Run(dropout=1)
    assert Run(dropout=0).key != Run().key and "dropout" not in Run().identity()


# -- performing ---------------------------------------------------------------------------------------------


def test_with_dropout_off_each_run_equals_the_run_alone(base, tmp_path):
    runs = variants(base, steps=12, lr=4e-4)
    together = perform_set(jobs(tmp_path / "together", runs))
    for run, found in zip(runs, together, strict=True):
        alone = running.perform(Job(run, str(begin(tmp_path / "alone", run))))
        assert not found.error and not alone.error and found.files.keys() == alone.files.keys()
        mine, other = (pd.read_parquet(io.BytesIO(each.files["results.parquet"])) for each in (found, alone))
        same = ["strategy", "metric", "steps", "operations", "trained", "stored", "inference", "settings"]
        pd.testing.assert_frame_equal(mine[same], other[same])
        close.assert_close(mine["value"].tolist(), other["value"].tolist(), close.TRAINED)
        losses = ["loss", "task_loss", "consistency"]
        curves = [pd.read_parquet(io.BytesIO(each.files["curves.parquet"])) for each in (found, alone)]
        assert curves[0]["step"].tolist() == curves[1]["step"].tolist()
        close.assert_close(*(curve[losses].to_numpy() for curve in curves), close.TRAINED)
        for name in ("experts-early.safetensors", "experts-late.safetensors"):
            for place, each in ((tmp_path / "a", found), (tmp_path / "b", alone)):
                place.mkdir(exist_ok=True)
                (place / name).write_bytes(each.files[name])
            one, two = read_tensors(tmp_path / "a" / name), read_tensors(tmp_path / "b" / name)
            close.assert_all_close(one, two, close.STORED)
        assert any("one of 4 runs of one program" in note for note in found.notes)


def test_few_examples_are_each_runs_own(base, tmp_path):
    runs = [tiny_grid.run(base, examples=9, seed=seed, steps=6, lr=4e-4) for seed in (0, 1)]
    for run, found in zip(runs, perform_set(jobs(tmp_path / "together", runs)), strict=True):
        alone = running.perform(Job(run, str(begin(tmp_path / "alone", run))))
        losses = [pd.read_parquet(io.BytesIO(each.files["curves.parquet"]))["loss"] for each in (found, alone)]
        close.assert_close(losses[0].tolist(), losses[1].tolist(), close.TRAINED)


def test_a_grid_together_gives_the_table_of_one_by_one(base, tmp_path):
    table = tiny_grid.table(base, seeds=3, lr=4e-4)
    lines: list[str] = []
    one, _ = ablate(grid_of(table), tmp_path / "one", Engine(threads=1), lines.append)
    together, failed = ablate(grid_of(table), tmp_path / "sets", Engine(threads=1, together=4), lines.append)
    assert not failed and not list((tmp_path / "sets" / SETS).iterdir())
    mine, other = tiny_grid.measured(together), tiny_grid.measured(one)
    close.assert_close(mine["value"].tolist(), other["value"].tolist(), close.TRAINED)
    pd.testing.assert_frame_equal(mine.drop(columns="value"), other.drop(columns="value"))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_set_that_was_stopped_goes_on_as_the_same_set(base, tmp_path, monkeypatch, dropout):
    monkeypatch.setattr(running, "EVERY", 5)
    runs = variants(base, steps=12, lr=4e-4, dropout=dropout)
    whole = perform_set(jobs(tmp_path / "whole", runs))
    stopped = perform_set(jobs(tmp_path / "cut", runs, deadline=1.0))
    assert all(not outcome.files and not outcome.error for outcome in stopped)
    folder = tmp_path / "cut" / SETS / name_of([run.key for run in runs])
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-00000005.safetensors"]
    resumed = perform_set(jobs(tmp_path / "cut", runs))
    for one, two in zip(whole, resumed, strict=True):
        tables = [pd.read_parquet(io.BytesIO(each.files["predictions.parquet"])) for each in (one, two)]
        pd.testing.assert_frame_equal(*tables)
        assert one.files["experts-early.safetensors"] == two.files["experts-early.safetensors"]


def test_a_driver_killed_while_it_stores_goes_on_with_the_same_set(base, tmp_path, monkeypatch):
    """Under dropout a set of other members would give other numbers."""
    table = {"base": {**base, "dropout": 0.1}, "axes": {"seed": [0, 1, 2]}}
    whole, _ = ablate(grid_of(table), tmp_path / "whole", Engine(threads=1, together=3), print)
    finish, stored = ablation.finish, []

    def killed(place, files, notes=()):
        if stored:
            raise KeyboardInterrupt
        stored.append(place)
        finish(place, files, notes)

    monkeypatch.setattr(ablation, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        ablate(grid_of(table), tmp_path / "cut", Engine(threads=1, together=3), print)
    monkeypatch.setattr(ablation, "finish", finish)
    again, _ = ablate(grid_of(table), tmp_path / "cut", Engine(threads=1, together=3), print)
    pd.testing.assert_frame_equal(tiny_grid.measured(again), tiny_grid.measured(whole))
    assert not list((tmp_path / "cut" / SETS).iterdir())


def test_a_run_that_diverges_fails_and_the_others_stay(base, tmp_path):
    runs = [tiny_grid.run(base, seed=0, lr=1e30), tiny_grid.run(base, seed=1)]
    broken, sound = perform_set(jobs(tmp_path, runs))
    assert "lower lr" in broken.error and not broken.files
    assert not sound.error and sound.files


def test_a_set_that_fails_is_performed_run_by_run(base, tmp_path, monkeypatch):
    monkeypatch.setattr(batched, "train_batched", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")))
    runs = variants(base)[:2]
    for outcome in perform_set(jobs(tmp_path, runs)):
        assert outcome.files and any("out of memory" in note for note in outcome.notes)


def test_a_full_disk_is_nobodys_error(base, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batched, "train_batched", full)
    with pytest.raises(OSError, match="No space"):
        perform_set(jobs(tmp_path, variants(base)[:2]))


def test_half_a_list_of_members_is_forgotten(base, tmp_path):
    runs = variants(base)[:2]
    keys = [run.key for run in runs]
    begin_set(tmp_path, keys)
    (tmp_path / SETS / name_of(keys) / "members.json").write_text('["abc', encoding="utf-8")
    assert batched.begun_sets(tmp_path) == [] and not (tmp_path / SETS / name_of(keys)).is_dir()


def test_the_set_stays_where_a_worker_sees_no_disk(base, tmp_path, monkeypatch):
    monkeypatch.setattr(batched.tempfile, "gettempdir", lambda: str(tmp_path / "own"))
    runs = variants(base)[:2]
    made = [replace(job, place=job.place + "-elsewhere") for job in jobs(tmp_path, runs)]
    assert all(outcome.files for outcome in perform_set(made))
    assert not list((tmp_path / "own").iterdir())  # cleaned up


def test_gathered_results_say_nothing_of_sets(base, tmp_path):
    runs = variants(base)[:2]
    ablation.perform_all(runs, tmp_path, Engine(threads=1, together=2), None, print)
    assert all(state(tmp_path, run) == "finished" for run in runs)
    assert set(gather(tmp_path)["run"]) == {run.key for run in runs}
    marker = json.loads((place_of(tmp_path, runs[0]) / "finished.json").read_text(encoding="utf-8"))
    assert any("one program" in note for note in marker["notes"])
