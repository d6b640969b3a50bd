"""Grids from their rates to their tables: resumed, in slices, with failures, killed at random moments."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import tiny_grid
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.files import sha256_of
from adamix_lab.experiments import performing, running
from adamix_lab.experiments.ablation import ablate, listed
from adamix_lab.experiments.grids import grid_of
from adamix_lab.experiments.performing import WorkersLost
from adamix_lab.experiments.results import begin, files_now, read_table
from adamix_lab.experiments.settings import Engine

QUIET = Engine(threads=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_grid.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """(grid, folder, results, lines) of a grid of six runs."""
    grid, out, lines = grid_of(tiny_grid.table(base)), tmp_path_factory.mktemp("out"), []
    results, failed = ablate(grid, out, QUIET, lines.append)
    assert failed == 0
    return grid, out, results, lines


def test_the_table_and_the_progress(finished):
    grid, out, results, lines = finished
    assert results["run"].nunique() == 6 and set(results["variant"]) == set(tiny_grid.VARIANTS)
    assert lines[0].startswith("[1 of 6 done, 0 failed, about ") and "AdaMix, seed 0: accuracy" in lines[0]
    table = lines[-1]
    assert "accuracy x 100 (%)" in table and all(name in table for name in (*tiny_grid.VARIANTS, "exact", "±"))
    single = next(line for line in table.splitlines() if line.startswith("single"))
    assert single.split()[-6:-4] == ["2", "6"]  # seeds, steps
    assert read_table(out / "results.parquet").shape == results.shape
    assert [line.split()[1] for line in listed(grid, out)] == ["finished"] * 6


def test_finished_runs_are_not_done_again_and_names_may_change(finished, base, monkeypatch):
    _, out, first, _ = finished
    monkeypatch.setattr(performing, "perform", lambda job: pytest.fail(f"{job.runs[0]} was done again"))
    grid = grid_of({"base": base, "rows": [{"variant": "mine"}, {"variant": "other", "method": "single"}]})
    results, _ = ablate(grid, out, QUIET, lambda _: None)
    assert set(results["variant"]) == {"mine", "other"} and results["run"].nunique() == 2
    again, _ = ablate(grid_of(tiny_grid.table(base)), out, QUIET, lambda _: None)
    pd.testing.assert_frame_equal(again, first)


def test_a_run_whose_results_are_deleted_is_made_anew_and_the_others_stay(base, tmp_path):
    grid = grid_of(tiny_grid.table(base, seeds=1))
    first, _ = ablate(grid, tmp_path, QUIET, lambda _: None)
    path, other = (tmp_path / run.key / "results.parquet" for run in (grid.runs[1], grid.runs[0]))
    path.write_bytes(path.read_bytes()[:100])
    kept = other.stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"not a whole Parquet file .* Delete it"):
        ablate(grid, tmp_path, QUIET, lambda _: None)
    path.unlink()
    second, _ = ablate(grid, tmp_path, QUIET, lambda _: None)
    pd.testing.assert_frame_equal(tiny_grid.measured(first), tiny_grid.measured(second))
    assert other.stat().st_mtime_ns == kept


def own_rows(base, folder):
    """A grid of two runs on rows of one's own, beside each other: a single file, and a folder."""
    lines = [line for path in sorted(Path(base["task"]).glob("*.jsonl")) for line in path.read_text().splitlines(True)]
    (folder / "own.jsonl").write_text("".join(lines))
    shutil.copytree(base["task"], folder / "rows")
    tasks = [str(folder / "own.jsonl"), str(folder / "rows")]
    return grid_of({"base": {**base, "steps": 2}, "axes": {"task": tasks}})


def test_finished_runs_are_not_reported_for_rows_that_were_edited_since(base, tmp_path):
    grid, out = own_rows(base, tmp_path), tmp_path / "out"
    first, _ = ablate(grid, out, QUIET, lambda _: None)
    for name in ("own.jsonl", "rows/train.jsonl", "rows/validation.jsonl"):
        path = tmp_path / name
        before = path.read_bytes()
        path.write_bytes(before.replace(b'"label": 0', b'"label": 1', 1))
        with pytest.raises(
            ValueError,
            match=rf"{path.name} \({re.escape(str(tmp_path))}.*\) changed since run .* read it.*another --out",
        ):
            ablate(grid, out, QUIET, lambda _: None)
        other = grid_of(
            {"base": {**base, "task": grid.runs["/" in name].task, "steps": 2}, "rows": [{"method": "single"}]}
        )
        with pytest.raises(ValueError, match="expected it as it was"):  # its table would stand beside it
            ablate(other, out, QUIET, lambda _: None)
        path.write_bytes(before)  # at another time, the same
    kept = [run.key for run in grid.runs]
    again, failed = ablate(grid, out, QUIET, lambda _: None)
    assert failed == 0 and set(again["run"]) == set(kept)
    pd.testing.assert_frame_equal(again, first)  # seconds and dates, too: nothing was performed


def test_other_files_than_a_run_read_are_named(base, tmp_path):
    grid, out = own_rows(base, tmp_path), tmp_path / "out"
    ablate(grid, out, QUIET, lambda _: None)
    (tmp_path / "rows" / "notes.csv").write_text("not read")
    ablate(grid, out, QUIET, lambda _: None)
    (tmp_path / "rows" / "validation.jsonl").rename(tmp_path / "rows" / "test.jsonl")
    with pytest.raises(ValueError, match=r"test.jsonl .* changed since run"):
        ablate(grid, out, QUIET, lambda _: None)
    shutil.rmtree(tmp_path / "rows")  # nothing there that could be something else
    assert ablate(grid, out, QUIET, lambda _: None)[1] == 0


def test_the_same_process_reads_edited_rows_anew(base, tmp_path):
    grid, path = own_rows(base, tmp_path), tmp_path / "own.jsonl"
    ablate(grid, tmp_path / "out", QUIET, lambda _: None)
    path.write_text("".join(path.read_text().splitlines(True)[:40]))
    ablate(grid, tmp_path / "other", QUIET, lambda _: None)
    judged = [len(read_table(tmp_path / out / grid.runs[0].key / "predictions.parquet")) for out in ("out", "other")]
    assert judged[1] < judged[0]


def test_what_failed_or_came_from_an_earlier_version_goes_on(base, tmp_path):
    grid, out, path = own_rows(base, tmp_path), tmp_path / "out", tmp_path / "own.jsonl"
    whole = path.read_text()
    path.write_text(whole + "{\n")
    assert ablate(grid, out, QUIET, lambda _: None)[1] == 1
    path.write_text(whole)
    assert ablate(grid, out, QUIET, lambda _: None)[1] == 0  # with the digest of now
    known = {run.key: json.loads((out / run.key / "settings.json").read_text()) for run in grid.runs}
    assert known[grid.runs[0].key]["files"] == {"own.jsonl": sha256_of(path)[:16]}
    for key, settings in known.items():
        del settings["files"]
        (out / key / "settings.json").write_text(json.dumps(settings))
    path.write_text(whole.replace('"label": 0', '"label": 1', 1))
    assert ablate(grid, out, QUIET, lambda _: None)[1] == 0


def test_a_stack_under_way_does_not_go_on_with_other_rows(base, tmp_path, monkeypatch):
    """Its checkpoint knows how many rows there were, and not which."""
    monkeypatch.setattr(running, "EVERY", 1)
    own_rows(base, tmp_path)
    path, out = tmp_path / "own.jsonl", tmp_path / "out"
    grid = grid_of({"base": {**base, "task": str(path), "steps": 3}, "axes": {"seed": [0, 1]}})
    for run in grid.runs:
        begin(out, run)
    (job,) = performing.jobs_of(grid.runs, out, Engine(threads=1, together=2), deadline=1.0)
    performing.perform(job)  # stops behind its first checkpoint
    assert list((out / job.name).rglob("checkpoint-*"))
    path.write_text(path.read_text().replace('"label": 0', '"label": 1', 1))
    with pytest.raises(ValueError, match=r"own.jsonl .* changed since run"):
        ablate(grid, out, Engine(threads=1, together=2), lambda _: None)


def test_shipped_tasks_have_no_files_and_large_ones_are_read_once(base, tmp_path, monkeypatch):
    assert files_now(tiny_grid.run(base, task="aspects")) == files_now(tiny_grid.run(base, task="rte")) == {}
    assert files_now(tiny_grid.run(base, task="owner/name")) == files_now(tiny_grid.run(base, task="no/file.csv")) == {}
    shutil.copytree(base["task"], tmp_path / "rte")
    inside = tiny_grid.run(base, task="rte", folder=str(tmp_path))
    assert inside.key == tiny_grid.run(base, task="rte").key and len(files_now(inside)) == 2
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    assert len(files_now(inside)) == 2


def test_a_failed_run_tells_its_error_and_stops_no_other(base, tmp_path):
    rows = [{}, {"variant": "lost", "task": str(tmp_path / "nowhere")}, {"method": "single"}]
    grid, lines = grid_of({"base": base, "rows": rows}), []
    results, failed = ablate(grid, tmp_path, QUIET, lines.append)
    assert failed == 1 and set(results["variant"]) == {"AdaMix M=2 r=4", "single r=4"}
    assert "1 failed" in lines[1] and "FAILED: FileNotFoundError" in lines[1]
    assert any(line.startswith("FAILED nowhere") or "lost, seed 0" in line for line in lines[3:])
    assert "Traceback" in (tmp_path / grid.runs[1].key / "error.txt").read_text()
    assert [line.split()[1] for line in listed(grid, tmp_path)] == ["finished", "failed", "finished"]


def test_slices_of_minutes_end_with_the_whole_table(finished, base, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "EVERY", 2)
    grid, _, whole, _ = finished
    short = Engine(threads=1, minutes=1e-9)
    assert ablate(grid, tmp_path, short, lambda _: None) == (None, 0)  # nothing is begun
    now = time.time()
    clock = iter([now, now])  # the slice begins, the first run begins; then time is over
    monkeypatch.setattr(time, "time", lambda: next(clock, now + 1e9))
    lines: list[str] = []
    assert ablate(grid, tmp_path, Engine(threads=1, minutes=1), lines.append) == (None, 0)
    assert "stopped behind a checkpoint" in lines[0]
    assert {line.split()[1] for line in listed(grid, tmp_path)} == {"waiting"}
    monkeypatch.undo()
    results, _ = ablate(grid, tmp_path, QUIET, lambda _: None)
    pd.testing.assert_frame_equal(tiny_grid.measured(results), tiny_grid.measured(whole))


def test_rates_are_chosen_once_on_training_rows_at_the_runs_own_length(base, tmp_path):
    lines = []
    grid = grid_of({**tiny_grid.table(base, seeds=1), "search": {"factors": [0.01, 1, 1000]}})
    assert len(listed(grid, tmp_path)) == 9 and all(", 6 steps" in line for line in listed(grid, tmp_path))  # trials
    results, failed = ablate(grid, tmp_path, QUIET, lines.append)
    record = json.loads((tmp_path / "search.json").read_text())
    assert record["factors"] == [0.01, 1, 1000] and record["slice"] == 0.2
    assert record["rule"] == "the smallest loss on the slice"
    chosen = {row["variant"]: row for row in record["chosen"]}
    assert chosen.keys() == set(tiny_grid.VARIANTS)  # as many trials for each
    assert failed == 0 and all(len(row["tried"]) >= 2 for row in chosen.values())
    for run, settings in zip(results["variant"], map(json.loads, results["settings"]), strict=True):
        best = min(chosen[run]["tried"], key=lambda score: score["loss"])
        assert best["lr"] == settings["lr"] == chosen[run]["lr"] and settings["judged_on"] == "evaluation"
        assert best["steps"] == settings["steps"] == grid.runs[0].steps
    edges = sum(row["lr"] in (row["tried"][0]["lr"], row["tried"][-1]["lr"]) for row in chosen.values())
    assert sum("at the edge of what was tried" in line for line in lines) == edges
    trial = read_table(next((tmp_path / "search").glob("*/results.parquet"))).iloc[0]
    assert json.loads(trial["settings"])["judged_on"] == "slice"
    before = (tmp_path / "search.json").stat().st_mtime_ns
    ablate(grid, tmp_path, QUIET, lambda _: None)
    assert (tmp_path / "search.json").stat().st_mtime_ns == before


def test_a_search_that_is_shorter_than_its_runs_warns(base):
    table = tiny_grid.table(base, seeds=1)
    with pytest.warns(UserWarning, match=r"shorter than its runs: it tries at most 3 steps.*takes 6"):
        grid_of({**table, "base": {**base, "compute": "best"}, "search": {"factors": [0.1, 1], "stops": [0.5]}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid_of({**table, "search": {"factors": [0.1, 1], "stops": [0.5, 1]}})
    with pytest.raises(ValueError, match=r"stops = \[0\]: expected shares"):
        grid_of({**table, "search": {"factors": [0.1, 1], "stops": [0]}})
    with pytest.raises(ValueError, match='compute = "best" in a grid without search'):
        grid_of({**table, "base": {**base, "compute": "best"}})


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_a_run_that_loses_its_worker_again_and_again_fails_and_others_go_on(base, tmp_path, monkeypatch, culprit):
    grid = grid_of(tiny_grid.table(base, seeds=1))
    fatal, handed = {grid.runs[culprit]}, []

    def fragile(jobs, workers, cluster):
        taken = list(jobs)
        handed.append([job.runs[0] for job in taken])
        for n, job in enumerate(taken):
            if fatal & {*handed[-1][n : n + 2]}:  # two workers: what the other has under way is lost with it
                raise WorkersLost("A worker ended.")
            yield performing.perform(job)

    out, lines = tmp_path, []
    monkeypatch.setattr(performing, "hand_out", fragile)
    results, failed = ablate(grid, out, QUIET, lines.append)
    assert failed == 1 and results["run"].nunique() == 2  # what is finished is gathered and printed
    assert [line.split()[1] == "failed" for line in listed(grid, out)] == [n == culprit for n in range(3)]
    assert (out / grid.runs[culprit].key / "error.txt").read_text() == "A worker ended.\n"
    assert [grid.runs[culprit]] in handed and f"FAILED {grid.runs[culprit]}, alone with the workers." in lines
    fatal.clear()
    results, failed = ablate(grid, out, QUIET, lines.append)
    assert failed == 0 and results["run"].nunique() == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"workers": 0}, "workers = 0"), ({"threads": 0}, "threads = 0"), ({"minutes": 0}, "minutes = 0")],
)
def test_wrong_engines_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Engine(**settings)


def test_one_process_holds_a_grid(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="expected one process"):
        Engine()


def test_the_command(finished, base, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from adamix_lab.cli.main import app
    from adamix_lab.experiments import report

    monkeypatch.setattr(report, "report", lambda _: None)  # it has tests of its own
    _, out, _, _ = finished
    table = {"base": {**base, "steps": 99}, "rows": [{}, {"task": str(tmp_path / "nowhere")}]}
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps(table))  # JSON is YAML
    command = ["ablate", str(grid), "--steps", "6", "--threads", "1", "--out", str(out)]
    listing = CliRunner().invoke(app, [*command, "--list"]).output
    assert [line.split()[1] for line in listing.splitlines()] == ["finished", "waiting"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "1 of 2 runs are finished, 1 failed, 0 are left" in done.output
    assert "accuracy x 100 (%)" in done.output


# -- killed at random moments ----------------------------------------------------------------------------------


def child(base, out):
    import torch

    torch.set_num_threads(1)
    running.EVERY = 10
    ablate(grid_of(tiny_grid.table(base, steps=60)), out, Engine(threads=1), lambda _: None)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_five_times_it_ends_with_the_table_of_an_undisturbed_run(base, tmp_path):
    context = multiprocessing.get_context("forkserver")
    imported = [
        "transformers.models.bert.modeling_bert",
        "accelerate",
        "safetensors.torch",
        "pandas",
        "sklearn.metrics",
    ]
    context.set_forkserver_preload(["tiny_grid", "adamix_lab.experiments.ablation", *imported])

    def start(out):
        process = context.Process(target=child, args=(base, out))
        process.start()
        return process

    def ended(out):
        return len(list(out.glob("*/results.parquet")))

    calm, rough = tmp_path / "calm", tmp_path / "rough"
    start(calm).join()
    assert ended(calm) == 6
    rng = random.Random(0)
    for kill in range(5):
        process = start(rough)
        while not list(rough.glob("*/*/log.jsonl")) and ended(rough) <= kill and process.is_alive():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.5))
        assert process.is_alive(), "the grid ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert ended(rough) < 6
    start(rough).join()
    tables = [read_table(out / "results.parquet") for out in (calm, rough)]
    pd.testing.assert_frame_equal(*map(tiny_grid.measured, tables))
    for name in ("predictions", "curves"):
        pd.testing.assert_frame_equal(*(read_table(out / f"{name}.parquet") for out in (calm, rough)))
