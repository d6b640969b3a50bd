"""Folders of runs, gathered tables, and everything that can be wrong with them."""

import errno
import json
from pathlib import Path

import pandas as pd
import pytest

from adamix_lab.core import files
from adamix_lab.experiments import results as stored
from adamix_lab.experiments.grid import Run
from adamix_lab.experiments.results import begin, check_versions, error_of, fail, finish, gather, read_table, state
from adamix_lab.experiments.running import parquet


def made(run: Run, rows: int = 3, first: float = 0.0) -> dict[str, bytes]:
    """Result files as a worker would send them."""
    common = dict.fromkeys(stored.TABLES["results"].split(), 0)
    one = {**common, "run": run.key, "variant": run.variant, "seed": run.seed, "primary": True, "value": 0.5}
    one |= {"strategy": "merged", "metric": "accuracy", "settings": json.dumps(run.identity())}
    answers = [
        {"run": run.key, "strategy": "merged", "row": n, "label": (n + first) % 2, "prediction": 1.0,
         "probability_of_label": 0.5}
        for n in range(rows)
    ]  # fmt: skip
    curve = [{"run": run.key, "step": 1, "loss": 1.0, "task_loss": 1.0, "consistency": 0.0}]
    tables = {"results": [one], "predictions": answers, "curves": curve}
    return {f"{name}.parquet": parquet(table) for name, table in tables.items()}


@pytest.fixture
def out(tmp_path) -> Path:
    """Two finished runs."""
    for seed in (0, 1):
        run = Run(seed=seed)
        finish(begin(tmp_path, run), made(run), ["train: 2 of 9 rows were cut"])
    return tmp_path


def test_states(out):
    run = Run(seed=7)
    assert state(out, run) == "waiting" and state(out, Run()) == "finished"
    place = begin(out, run)
    (place / "work").mkdir()
    assert state(out, run) == "under way"
    fail(place, "Traceback\nValueError: too much\n")
    assert state(out, run) == "failed" and error_of(out, run) == "ValueError: too much"
    finish(place, made(run))
    assert state(out, run) == "finished" and error_of(out, run) == ""
    assert not (place / "work").exists()
    assert json.loads((out / Run().key / "finished.json").read_text())["notes"] == ["train: 2 of 9 rows were cut"]


def test_gathered_tables_are_tidy_and_a_new_name_counts(out):
    begin(out, Run(seed=1, variant="mine"))
    table = gather(out)
    assert sorted(table["variant"]) == ["AdaMix", "mine"]
    for name, columns in stored.TABLES.items():
        assert set(read_table(out / f"{name}.parquet", name).columns) == set(columns.split())
    assert len(read_table(out / "predictions.parquet", "predictions")) == 6


def test_a_run_without_its_marker_is_not_finished_and_not_gathered(out):
    run = Run(seed=2)
    place = begin(out, run)
    for name, data in made(run).items():
        (place / name).write_bytes(data)  # killed before the marker
    assert state(out, run) == "waiting" and len(gather(out)) == 2


def test_half_a_file_is_damage(out):
    path = out / Run().key / "results.parquet"
    path.write_bytes(path.read_bytes()[:200])
    assert state(out, Run()) == "damaged" and state(out, Run(seed=1)) == "finished"
    with pytest.raises(ValueError, match=r"results.parquet is not whole.*Run the grid again; that run is made anew"):
        gather(out)
    path.unlink()
    assert state(out, Run()) == "damaged"


def test_half_of_a_gathered_table_is_told_and_made_anew(out):
    gather(out)
    path = out / "results.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"results.parquet is not a whole Parquet file .*gathered anew"):
        read_table(path, "results")
    gather(out)
    assert len(read_table(path, "results")) == 2
    pd.DataFrame({"run": ["a"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"results.parquet lacks task, variant"):
        read_table(path, "results")
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_table(out / "none.parquet", "results")


@pytest.mark.parametrize("file", ["settings.json", "finished.json"])
def test_another_version_is_refused_by_name(out, file):
    path = out / Run().key / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"holds results of format 99: expected 1.*Give another --out"):
        check_versions(out)
        state(out, Run())
    with pytest.raises(ValueError, match="format 99"):
        gather(out)
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_marker_that_is_no_json_is_named(out):
    (out / Run().key / "finished.json").write_text("{")
    with pytest.raises(ValueError, match=r"finished.json is not JSON.*delete the folder"):
        state(out, Run())


def test_nothing_finished_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no finished run"):
        gather(tmp_path)


def test_answers_to_different_rows_are_not_compared(out):
    run = Run(seed=2)
    finish(begin(out, run), made(run, first=1.0))
    with pytest.raises(ValueError, match="judged on different rows"):
        gather(out)


def test_a_full_disk_loses_nothing_that_was_finished(out, monkeypatch):
    gather(out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    run, data = Run(seed=5), made(Run(seed=5))
    place = begin(out, run)

    def full(path, data):
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stored, "_write", full)
        patch.setattr(files, "_write_bytes", full)
        with pytest.raises(OSError, match=r"No space left on device.*Free some space"):
            finish(place, data)
    assert state(out, run) == "waiting" and not list(place.glob("*.parquet"))
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", lambda self, path, **_: full(path, b"half a table"))
        with pytest.raises(OSError, match="No space left on device"):
            gather(out)
    assert all(path.read_bytes() == data for path, data in before.items())
    finish(place, data)
    assert state(out, run) == "finished" and len(gather(out)) == 3


def test_a_file_name_that_leaves_the_folder_is_refused(out):
    with pytest.raises(ValueError, match="leaves its folder"):
        finish(out / Run().key, {"../x": b""})
