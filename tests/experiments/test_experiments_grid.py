"""Grids: the order of their runs, the shipped ones, and everything that can be wrong with one."""

from pathlib import Path

import pytest
import yaml

from adamix_lab.baselines import BASELINES
from adamix_lab.experiments.claims import read_paper
from adamix_lab.experiments.grids import grid_of, narrowed, read_grid
from adamix_lab.experiments.settings import Run
from adamix_lab.tasks.tasks import PAPER_TASKS

GRIDS = Path(__file__).resolve().parents[2] / "data" / "grids"
TABLE = """
base: {task: rte, steps: 7, lr: 1e-3}
axes:
  seed: [0, 1]
  variant:
    AdaMix: {}
    without: {consistency: 0}
"""


def write(folder, text):
    path = folder / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_last_axis_varies_fastest_and_changes_count_everywhere(tmp_path):
    grid = read_grid(write(tmp_path, TABLE), steps=9, folder="rows")
    assert [str(run) for run in grid.runs] == [
        "rte, AdaMix, seed 0", "rte, without, seed 0", "rte, AdaMix, seed 1", "rte, without, seed 1",
    ]  # fmt: skip
    assert {(run.steps, run.folder, run.lr) for run in grid.runs} == {(9, "rows", 1e-3)}
    assert grid.search is None


def test_rows_and_parts_in_their_order():
    parts = [{"rows": [{"seed": 3}, {"method": "lora"}]}, {"base": {"task": "mrpc"}, "axes": {"experts": [2, 8]}}]
    runs = grid_of({"base": {"task": "rte"}, "parts": parts}).runs
    assert [str(run) for run in runs] == [
        "rte, AdaMix, seed 3", "rte, lora, seed 0", "mrpc, AdaMix M=2, seed 0", "mrpc, AdaMix M=8, seed 0",
    ]  # fmt: skip
    assert runs == grid_of({"rows": [vars(run) for run in runs]}).runs  # a table of Python values


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bsae": {}, "rows": [{}]}, "Key of a grid 'bsae' is not known.*Did you mean 'base'"),
        ({"base": {"stepz": 3}, "rows": [{}]}, "Setting of a row of the grid 'stepz'.*Did you mean 'steps'"),
        ({"axes": {"sede": [0]}}, "Axis of a grid 'sede' is not known.*Did you mean 'seed'"),
        ({"axes": {"variant": {"a": {"expert": 2}}}}, "Setting of the grid 'expert'.*Did you mean 'experts'"),
        ({"axes": {"seed": 3}}, "axis seed is 3: expected a list"),
        ({"axes": {"variant": {"a": 3}}}, "variant 'a' is 3: expected settings"),
        ({"axes": {"seed": [0]}, "rows": [{}]}, "has axes and rows: expected one of them"),
        ({"axes": {"task": ["rte", "mprc"]}}, "Task 'mprc' is not known.*Did you mean 'mrpc'"),
        ({}, "the grid is empty"),
        ({"axes": {"seed": []}}, "the grid is empty"),
        ({"rows": []}, "the grid is empty"),
        ({"parts": []}, "the grid is empty"),
        ([], r"a grid of \[\]: expected a table"),
        ({"rows": [{"seed": 1}, {"seed": 1, "variant": "again"}]}, "run 2 .aspects, again, seed 1. is the same run"),
        (
            {"axes": {"experts": [2, 4], "variant": {"single": {"method": "single"}}}},
            "run 2 .aspects, single, seed 0. is the same run as an earlier one .*tell no runs apart",
        ),
        ({"rows": [{}], "search": {"factors": [1]}}, "factors = .*two factors or more"),
        ({"rows": [{}], "search": {"factors": [1, "x"]}}, "search: factors = 'x': expected a number"),
        ({"rows": [{}], "search": {"factors": [True, 3]}}, "search: factors = True: expected a number"),
        ({"rows": [{}], "search": {"factors": [1, 3], "stops": ["a"]}}, "search: stops = 'a': expected a number"),
        ({"rows": [{}], "search": {"factors": [1, 3], "stops": "1"}}, "search: stops = '1': expected shares"),
        ({"rows": [{}], "search": {"factors": [1, 3], "stops": [0.5, 2]}}, r"stops = \[0.5, 2\]: expected shares"),
        ({"rows": [{}], "search": {"factor": [1, 2]}}, "Key of search 'factor' is not known.*Did you mean 'factors'"),
    ],
)
def test_wrong_grids_are_named(table, message):
    with pytest.raises(ValueError, match=message):
        grid_of(table)


def test_files_that_are_no_grid_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a grid"):
        read_grid(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"grid.yaml is not YAML .*Correct the file"):
        read_grid(write(tmp_path, "base: {task: rte"))
    with pytest.raises(ValueError, match=r"'seed' stands twice"):
        read_grid(write(tmp_path, "axes:\n  seed: [0]\n  seed: [1]\n"))
    with pytest.raises(ValueError, match=r"grid.yaml: the grid is empty"):
        read_grid(write(tmp_path, "base: {}\n"))
    with pytest.raises(ValueError, match=r"could not determine a constructor"):
        read_grid(write(tmp_path, "base: !!python/object/apply:os.system [ls]\n"))


def test_yaml_reads_small_rates_as_words_and_the_grid_takes_them_as_numbers():
    assert yaml.safe_load("1e-3") == "1e-3"
    assert grid_of({"rows": [{"lr": "1e-3"}]}).runs[0].lr == 1e-3


def test_the_shipped_grids_are_whole():
    grids = {path.stem: read_grid(path) for path in GRIDS.glob("*.yaml")}
    assert read_grid(Path("quick")) == grids["quick"]
    names = "quick core budget full baselines cells fairly table few-shot tour phase phase-test measured edges"
    assert grids.keys() == set(names.split())
    assert len(grids["budget"].runs) == 20 and len(grids["tour"].runs) == 4
    assert len(grids["quick"].runs) == 12 and {run.task for run in grids["quick"].runs} == {"aspects"}
    core = grids["core"].runs
    assert len(core) == 3 * 4 * 5 and {run.max_length for run in core} == {64} and grids["core"].search
    full = grids["full"].runs
    assert {run.task for run in full} == set("rte mrpc cola stsb sst2 qnli subj mpqa".split())
    assert {run.experts for run in full if run.method == "adamix"} == {1, 2, 4, 8}
    assert {run.size for run in full if run.method == "adamix"} == {4, 8, 16, 32}
    assert {run.method for run in full} >= set("adamix single r-drop lora houlsby bitfit full".split())
    assert {run.examples for run in full} == {0, 30} and {run.share for run in full} == {"up", "down", "none"}
    assert {run.compute for run in full} == {"steps", "compute"}
    assert all(isinstance(run, Run) for run in full)
    compared = grids["baselines"].runs
    assert {run.method for run in compared} == {*BASELINES, "probe"} and len(compared) == 2 * len(BASELINES)
    assert all(run.lr == BASELINES[run.method].lr for run in compared if run.method != "probe")
    measured = grids["measured"]
    wanted = read_paper("claims.yaml")["claims"]
    sides = {name.split(", ")[0] for claim in wanted for part in claim["parts"] for name in part["contrast"]}
    assert sides <= {run.variant for run in measured.runs} and {run.draws for run in measured.runs} == {1, 10}
    assert {run.task for run in measured.runs} == {"subjectivity", "reviews", "mrpc", "sst2", "mpqa"}
    assert all(run.part == ("fresh" if run.label_noise else None) for run in measured.runs)
    fair = grids["fairly"]
    assert measured.search == fair.search
    assert {run.part for run in fair.runs} == {"fresh"} and {run.seed for run in fair.runs} == set(range(20, 30))
    views = {run.compute for run in fair.runs if run.label_noise and run.variant == "AdaMix"}
    assert views == {"rate", "best", "oracle", "compute"}
    assert {run.method for run in fair.runs} >= {"single", "slow", "swa", "ema", "slow-swa", "r-drop", "probe"}
    assert len({len(fair.search.lengths(run)) for run in fair.runs if run.compute == "best" and run.lr}) == 1
    phase = grids["phase"].runs
    assert {run.seed for run in phase} == set(range(30, 35)) and {run.rows for run in phase} == {100, 400, 1600}
    assert {run.part for run in phase if run.judged_on != "slice"} == {"fresh"} and not grids["phase"].search
    assert {run.task for run in grids["table"].runs} == set(PAPER_TASKS) and len(grids["table"].runs) == 4 * len(
        PAPER_TASKS
    )
    few = grids["few-shot"].runs
    assert {(run.method, run.seed) for run in few} == {(m, n) for m in ("probe", "single", "adamix") for n in range(5)}


def test_a_part_of_a_shipped_grid_with_other_settings():
    grid = read_grid("table", steps=7, top_blocks=None)
    runs = narrowed(grid, ["rte", "cola"], ["single"]).runs
    assert [(run.task, run.method, run.steps) for run in runs] == [("rte", "single", 7), ("cola", "single", 7)]
    assert len(grid.runs) == 40 and len(read_grid("phase", rows=100).runs) < len(read_grid("phase").runs)
    with pytest.raises(ValueError, match=r"Method 'singl' is not known.*Did you mean 'single'"):
        narrowed(grid, methods=["singl"])
    with pytest.raises(ValueError, match=r"Task 'col' is not known.*Did you mean 'cola'"):
        narrowed(grid, ["col"])


def test_tasks_that_the_folder_does_not_hold_are_named_beforehand(tmp_path):
    for task in ("rte", "cola"):
        (tmp_path / task).mkdir()
    grid = read_grid("table", folder=str(tmp_path))
    assert len(narrowed(grid, ["rte", "cola", "aspects"]).runs) == 12
    with pytest.raises(ValueError, match=r"does not hold sst2, mrpc, .*, mpqa: expected a folder a task.*--task"):
        narrowed(grid)
    with pytest.raises(ValueError, match=r"does not hold sst2: "):
        narrowed(grid, ["rte", "sst2"])
