"""Exact resume, kills at bad moments, full disks, damaged files."""

import errno
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core import files
from adamix_lab.training import run as runs
from adamix_lab.training.run import (
    generator_states,
    newest_checkpoint,
    read_checkpoint,
    read_log,
    set_generator_states,
    write_checkpoint,
)
from adamix_lab.training.train import train

STEPS = 60
SETTINGS = {"steps": STEPS, "checkpoint_every": 4, "log_every": 1, "dev_fraction": 0.2, "evaluate_every": 10}


def run(folder, pause=0.0, dropout=0.1, **settings):
    def slow(logits, labels):
        time.sleep(pause)
        return torch.nn.functional.cross_entropy(logits, labels)

    mixture = tiny_task.mixture(dropout)
    recipe = tiny_task.recipe(**(SETTINGS | settings))
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    return mixture, train(mixture, task, tokenizer, recipe, folder, task_loss=slow, progress=False)


def child(folder, pause, settings, die_at):
    """A training run in a process of its own; `die_at`: the write, and the moment in it, at which it kills itself."""
    torch.set_num_threads(1)
    if die_at:
        write, moment = die_at
        real, count = os.replace, iter(range(1, 1000))

        def replace(source, target):
            mine = "checkpoint-" in str(target) and next(count) == write
            if mine and moment == "half a file":
                Path(source).write_bytes(Path(source).read_bytes()[:1000])
            if mine and moment != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace
    mixture, history = run(folder, pause, **settings)
    from adamix_lab.core.files import write_tensors

    write_tensors(Path(folder) / "end.safetensors", tiny_task.weights(mixture))
    (Path(folder) / "resumed").write_text(str(history.resumed_from))


@pytest.fixture(scope="module")
def context():
    """Children are forked from a server that has imported everything, so that one costs little."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    slow = ["transformers.models.bert.modeling_bert", "accelerate", "tqdm.auto", "safetensors.torch"]
    context.set_forkserver_preload(["tiny_task", "adamix_lab.training.train", *slow])
    return context


def start(context, folder, pause=0.0, settings=None, die_at=None):
    process = context.Process(target=child, args=(folder, pause, settings or {}, die_at))
    process.start()
    return process


def end_of(folder):
    return files.read_tensors(folder / "end.safetensors")


@pytest.fixture(scope="module")
def undisturbed(context, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(context, folder)
    process.join()
    assert process.exitcode == 0
    return folder


def steps_done(folder):
    rows = read_log(folder / "log.jsonl")
    return rows[-1]["step"] if rows else 0


def test_killed_three_times_and_resumed_ends_bit_for_bit_alike(context, undisturbed, tmp_path):
    kills = []
    for target in (7, 22, 41):
        process = start(context, tmp_path, pause=0.02)
        while steps_done(tmp_path) < target:
            assert process.is_alive(), "the run ended before it was killed"
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills.append(steps_done(tmp_path))
    assert all(kill % 10 for kill in kills) or len(set(kills)) == 3  # inside epochs of ten steps
    process = start(context, tmp_path)
    process.join()
    assert process.exitcode == 0
    assert int((tmp_path / "resumed").read_text()) >= 40
    expected, found = end_of(undisturbed), end_of(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)

    def without_time(folder):
        rows = read_log(folder / "log.jsonl")
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert without_time(undisturbed) == without_time(tmp_path)  # no row twice, none missing


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("moment", ["half a file", "before", "after"])
def test_killed_while_writing(context, undisturbed, tmp_path, moment):
    process = start(context, tmp_path, die_at=(3, moment))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = [8, 4] if moment != "after" else [12, 8, 4]  # the rename is the moment; the old ones go after it
    assert [read_checkpoint(p).step for p in sorted(tmp_path.glob("checkpoint-*"), reverse=True)] == kept
    process = start(context, tmp_path)
    process.join()
    assert process.exitcode == 0 and not list(tmp_path.glob(".checkpoint-*"))
    expected, found = end_of(undisturbed), end_of(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, history = run(tmp_path, steps=8)
    again, loaded = run(tmp_path, steps=8)
    assert tiny_task.apart(tiny_task.weights(first), tiny_task.weights(again)) == 0
    assert loaded.resumed_from == 8 and loaded.rows == history.rows and loaded.best == history.best


def test_an_early_stop_stays_stopped(tmp_path):
    settings = {"lr": 0.0, "evaluate_every": 1, "patience": 2}
    _, history = run(tmp_path, **settings)
    assert history.stopped_early and history.steps == 3
    _, again = run(tmp_path, **settings)
    assert again.stopped_early and again.steps == 3 and len(again.rows) == len(history.rows)


def test_the_frozen_off_route_optimiser_resumes_too(tmp_path):
    settings = {"steps": 12, "off_route": "freeze", "checkpoint_every": 5}
    whole, _ = run(None, **settings)
    run(tmp_path, **settings)
    for path in sorted(tmp_path.glob("checkpoint-*"))[1:]:
        path.unlink()  # go back to step 10
    resumed, history = run(tmp_path, **settings)
    assert history.resumed_from == 10
    assert tiny_task.apart(tiny_task.weights(whole), tiny_task.weights(resumed)) == 0


def test_cached_passes_are_drawn_again_alike(tmp_path):
    settings = {"steps": 12, "cache_prefix": True, "cached_passes": 3, "checkpoint_every": 5}
    whole = cached_run(None, **settings)
    cached_run(tmp_path, **settings)
    for path in sorted(tmp_path.glob("checkpoint-*"))[1:]:
        path.unlink()  # go back to step 10
    resumed = cached_run(tmp_path, **settings)
    assert tiny_task.apart(tiny_task.weights(whole), tiny_task.weights(resumed)) == 0


def cached_run(folder, **settings):
    mixture = tiny_task.mixture(0.3, blocks=(-2, -1))
    train(mixture, tiny_task.task(), tiny_task.tokenizer(), tiny_task.recipe(**settings), folder, progress=False)
    return mixture


def test_a_checkpoint_without_a_setting_that_came_since_has_its_default():
    from adamix_lab.training.recipe import Recipe

    now = {"recipe": Recipe(steps=8, side_rates={"down": 0.5}).to_dict(), "processes": 1}
    earlier = {name: value for name, value in now["recipe"].items() if name not in ("cached_passes", "ema")}
    runs.check_same_run({**now, "recipe": earlier}, now, Path("checkpoint"))
    other = {**now, "recipe": Recipe(steps=8, side_rates={"down": 0.5}, ema=0.9).to_dict()}
    with pytest.raises(ValueError, match=r"recipe.ema was None, is 0.9"):
        runs.check_same_run({**now, "recipe": earlier}, other, Path("checkpoint"))


def test_only_the_last_two_are_kept(tmp_path):
    run(tmp_path, steps=12)
    assert [p.name for p in sorted(tmp_path.glob("checkpoint-*"))] == [
        "checkpoint-00000008.safetensors",
        "checkpoint-00000012.safetensors",
    ]


def test_another_recipe_is_refused_by_name(tmp_path):
    run(tmp_path, steps=8)
    with pytest.raises(
        ValueError, match=r"belongs to another run: recipe.lr was 0.005, is 0.1; recipe.steps was 8, is 9"
    ):
        run(tmp_path, steps=9, lr=0.1)
    _, history = run(tmp_path, steps=8, log_every=3, checkpoint_every=2)  # these change no weight
    assert history.resumed_from == 8


def test_another_model_is_refused_by_name(tmp_path):
    run(tmp_path, steps=4)
    other = tiny_task.mixture(experts=2)
    recipe = tiny_task.recipe(**(SETTINGS | {"steps": 4}))
    with pytest.raises(ValueError, match=r"model.experts was 3, is 2"):
        train(other, tiny_task.task(), tiny_task.tokenizer(), recipe, tmp_path, progress=False)
    rows = tiny_task.task(seed=5)
    with pytest.raises(ValueError, match=r"data.sha256 was"):
        train(tiny_task.mixture(), rows, tiny_task.tokenizer(), recipe, tmp_path, progress=False)


def test_other_rows_to_choose_on_are_refused_where_they_are_the_reported_ones(tmp_path):
    task = tiny_task.task()
    other = replace(task, evaluation=task.evaluation[:20])
    for choose_on, place in (("evaluation", tmp_path / "a"), ("slice", tmp_path / "b")):
        recipe = tiny_task.recipe(**(SETTINGS | {"steps": 4, "choose_on": choose_on}))
        train(tiny_task.mixture(), task, tiny_task.tokenizer(), recipe, place, progress=False)
        if choose_on == "slice":  # then they decide nothing
            train(tiny_task.mixture(), other, tiny_task.tokenizer(), recipe, place, progress=False)
            continue
        with pytest.raises(ValueError, match=r"data.sha256 was"):
            train(tiny_task.mixture(), other, tiny_task.tokenizer(), recipe, place, progress=False)


def test_a_truncated_checkpoint_falls_back_and_says_so(tmp_path):
    whole, _ = run(tmp_path, steps=12)
    last = tmp_path / "checkpoint-00000012.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"00000012.safetensors is not a whole.*Going on from.*00000008"):
        again, history = run(tmp_path, steps=12)
    assert history.resumed_from == 8
    assert tiny_task.apart(tiny_task.weights(whole), tiny_task.weights(again)) == 0


def test_a_changed_checkpoint_falls_back_and_says_so(tmp_path):
    whole, _ = run(tmp_path, steps=12)
    last = tmp_path / "checkpoint-00000012.safetensors"
    data = bytearray(last.read_bytes())
    data[-7] ^= 4  # one bit of one weight
    last.write_bytes(data)
    with pytest.warns(UserWarning, match=r"00000012.safetensors was changed since.*Going on from.*00000008"):
        again, history = run(tmp_path, steps=12)
    assert history.resumed_from == 8
    assert tiny_task.apart(tiny_task.weights(whole), tiny_task.weights(again)) == 0


def test_a_folder_that_another_run_writes_into_is_left_alone(tmp_path):
    with files.locked(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run").is_dir()
    assert not (tmp_path / "new").exists()  # nothing was written after all
    with files.locked(tmp_path), pytest.raises(files.LabError, match=r"Another run writes into .*: expected one at a"):
        run(tmp_path, steps=4)
    assert not list(tmp_path.iterdir())


def test_only_truncated_checkpoints_are_an_error(tmp_path):
    run(tmp_path, steps=8)
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"No checkpoint in .* is whole.*Remove them"):
        run(tmp_path, steps=8)
    assert newest_checkpoint(tmp_path / "empty") is None


def test_a_foreign_safetensors_file_is_no_checkpoint(tmp_path):
    files.write_tensors(tmp_path / "checkpoint-00000001.safetensors", {"a": torch.ones(1)})
    with pytest.raises(ValueError, match="holds no state: expected a checkpoint that"):
        run(tmp_path)


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1, {"a": torch.ones(3)}, {"n": 1})

    def full(path, data):
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device.*Free some space"):
        write_checkpoint(tmp_path, 2, {"a": torch.zeros(3)}, {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001.safetensors"]
    found = newest_checkpoint(tmp_path)
    assert found.step == 1 and found.facts["n"] == 1 and torch.equal(found.tensors["a"], torch.ones(3))


def test_what_a_killed_write_left_goes_before_the_next_one_needs_its_room(tmp_path, monkeypatch):
    left, write = tmp_path / ".checkpoint-00000001.safetensors.a1b2", files._write_bytes

    def small(path, data):  # a disk with room for one of them
        if left.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    left.write_bytes(b"half")
    monkeypatch.setattr(files, "_write_bytes", small)
    assert read_checkpoint(write_checkpoint(tmp_path, 2, {"a": torch.ones(3)}, {"n": 2})).step == 2


def test_a_run_on_a_full_disk_goes_on_when_there_is_space(tmp_path, monkeypatch):
    whole, _ = run(None, steps=12)
    real, count = runs.write_record, iter(range(1, 100))

    def full(*record):
        if next(count) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*record)

    monkeypatch.setattr(runs, "write_record", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, steps=12)
    again, history = run(tmp_path, steps=12)
    assert history.resumed_from == 8
    assert tiny_task.apart(tiny_task.weights(whole), tiny_task.weights(again)) == 0


def test_generators_go_through_a_file_unchanged(tmp_path):
    random.gauss(0, 1), np.random.randn()  # each keeps a second number for later
    path = write_checkpoint(tmp_path, 1, generator_states(torch.device("cpu")), {})

    def draws():
        return random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), float(torch.rand(()))

    expected = draws()
    set_generator_states(read_checkpoint(path).tensors, torch.device("cpu"))
    assert draws() == expected


def test_checkpoints_hold_no_pickles(tmp_path):
    run(tmp_path, steps=4)
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".jsonl"}
    facts = newest_checkpoint(tmp_path).facts
    assert json.dumps(facts) and facts["run"]["recipe"]["steps"] == 4
