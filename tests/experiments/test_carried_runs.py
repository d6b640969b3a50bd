"""Runs as committed tables, and as folders again: a grid goes on where it stood."""

import shutil

import pandas as pd
import pytest
from makers import load_maker

from adamix_lab.experiments import ablation
from adamix_lab.experiments.grids import grid_of
from adamix_lab.experiments.performing import perform_all
from adamix_lab.experiments.results import CURVES, PREDICTIONS, RESULTS, finished
from adamix_lab.experiments.settings import Engine

maker = load_maker("results")
GRID = {
    "search": {"factors": [0.5, 1]},
    "base": {"task": "subjectivity", "rows": 40, "evaluation_rows": 20, "steps": 2, "batch_size": 4, "top_blocks": 1,
             "max_length": 64, "pooling": "cls", "compute": "steps"},
    "axes": {"variant": {"AdaMix": {}, "single": {"method": "single"}}, "seed": [0, 1]},
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A grid of which all but one run is finished, and its tables."""
    folder = tmp_path_factory.mktemp("carried")
    grid, runs = grid_of(GRID), folder / "runs"
    ablation.ablate(grid, runs, Engine(), lambda line: None)
    last = ablation.with_rates(grid, runs)[-1]
    for name in (RESULTS, PREDICTIONS, CURVES):
        (runs / last.key / name).unlink()
    maker.pack(runs, folder / "tables")
    return grid, runs, folder / "tables", last


def test_a_grid_goes_on_from_tables_with_the_runs_that_are_left(begun, tmp_path, monkeypatch):
    grid, first, tables, last = begun
    maker.unpack(tables, tmp_path / "runs")
    performed = []

    def perform(runs, out, *rest):
        performed.extend(run.key for run in runs if not finished(out, run))
        return perform_all(runs, out, *rest)

    monkeypatch.setattr(ablation, "perform_all", perform)
    results, failed = ablation.ablate(grid, tmp_path / "runs", Engine(), lambda line: None)
    assert performed == [last.key] and not failed  # no trial, and one run
    assert set(results["run"]) == {run.key for run in ablation.with_rates(grid, first)}
    for name in (RESULTS, PREDICTIONS, CURVES):
        kept, before = (pd.read_parquet(folder / name) for folder in (tmp_path / "runs", tables))
        own = kept[kept["run"] != last.key].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, before)


def test_a_grid_is_packed_again_and_goes_on_where_it_was_packed(begun, tmp_path):
    grid, first, tables, last = begun
    shutil.copytree(first, tmp_path / "runs")
    maker.pack(tmp_path / "runs", tmp_path / "tables")
    again = [pd.read_parquet(folder / RESULTS) for folder in (tmp_path / "tables", tables)]
    pd.testing.assert_frame_equal(*again)
    results, failed = ablation.ablate(grid, tmp_path / "runs", Engine(), lambda line: None)
    assert not failed and set(results["run"]) == {*again[0]["run"], last.key}


def test_what_is_finished_where_tables_are_unpacked_stays(begun, tmp_path):
    _, _, tables, _ = begun
    run = pd.read_parquet(tables / RESULTS)["run"].iloc[0]
    (tmp_path / run).mkdir()
    (tmp_path / run / RESULTS).write_bytes(b"mine")
    maker.unpack(tables, tmp_path)
    assert (tmp_path / run / RESULTS).read_bytes() == b"mine" and not (tmp_path / run / CURVES).exists()
    assert len(list(tmp_path.glob(f"*/{CURVES}"))) == 2


def test_a_table_whose_run_lies_elsewhere_writes_nothing_there(begun, tmp_path):
    _, _, tables, _ = begun
    for name in (RESULTS, PREDICTIONS, CURVES):
        (tmp_path / "tables").mkdir(exist_ok=True)
        pd.read_parquet(tables / name).assign(run="../outside").to_parquet(tmp_path / "tables" / name)
    with pytest.raises(ValueError, match="outside"):
        maker.unpack(tmp_path / "tables", tmp_path / "runs")
    assert not (tmp_path / "outside").exists()
