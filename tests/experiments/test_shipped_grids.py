"""Shipped grids on other tasks and a tiny backbone: baselines, table, few-shot."""

import json

import pandas as pd
import pytest
import tiny
import tiny_grid
import tiny_task
from tiny_task import one_thread  # noqa: F401
from typer.testing import CliRunner

from adamix_lab.baselines import BASELINES
from adamix_lab.cli.main import app
from adamix_lab.experiments.ablation import ablate
from adamix_lab.experiments.grids import narrowed, read_grid
from adamix_lab.experiments.settings import Engine

QUIET = Engine(threads=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_grid.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.bert(num_labels=2, max_position_embeddings=128).save_pretrained(folder)
    tiny_task.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sentences = [row["sentence"] for row in tiny_task.task().train]
    tables = {
        "cola": [{"sentence": s, "label": n % 2} for n, s in enumerate(sentences)],
        "stsb": [{"sentence1": s, "sentence2": "w1", "label": (n % 11) / 2} for n, s in enumerate(sentences)],
        "mnli": [{"premise": s, "hypothesis": "", "label": n % 3} for n, s in enumerate(sentences)],
    }
    for name, rows in tables.items():
        (folder / name).mkdir()
        parts = {"train": rows[:60], "validation": rows[60:]}
        if name == "mnli":
            parts["validation_mismatched"] = rows[50:80]
        for part, some in parts.items():
            (folder / name / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def command(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


def test_baselines_at_both_budgets(base, tmp_path):
    methods = ["adamix", "single", "full", "apart-soup"]
    settings = {"task": base["task"], "backbone": base["backbone"], "steps": 8, "batch_size": 8, "experts": 3}
    grid = narrowed(read_grid("baselines", **settings), methods=methods)
    lines: list[str] = []
    results, failed = ablate(type(grid)(grid.runs), tmp_path, QUIET, lines.append)
    assert failed == 0 and set(results["method"]) == set(methods)
    by = results.drop_duplicates("run").set_index(["method", "compute"])
    subject = by.loc[("adamix", "steps"), "operations"]
    assert by.loc[("single", "steps"), "steps"] == 8 < by.loc[("single", "compute"), "steps"]
    for name in ("single", "full"):
        step = by.loc[(name, "steps"), "operations"] / 8
        assert abs(by.loc[(name, "compute"), "operations"] - subject * 4 / 3) < subject  # of AdaMix with M = 4
        assert by.loc[(name, "compute"), "operations"] % step == 0
    assert by.loc[("full", "steps"), "operations"] > by.loc[("single", "steps"), "operations"]  # the weights', too
    assert by.loc[("apart-soup", "steps"), "steps"] == 24 > by.loc[("apart-soup", "compute"), "steps"]
    assert by.loc[("apart-soup", "steps"), "trained"] == 3 * by.loc[("single", "steps"), "trained"]
    assert (by["inference"] > 0).all() and "equal compute: accuracy" in lines[-1] and "ensemble of them" in lines[-1]


def test_rates_are_searched_on_training_rows(base, tmp_path):
    options = ["--task", base["task"], "--model", base["backbone"], "--steps", 8, "--rows", 60, "--out", tmp_path]
    said = command("ablate", "baselines", *options, "--method", "head", "--method", "single")
    assert "Rates are chosen" in said and "single" in said and "4 of 4 runs are finished" in said
    record = json.loads((tmp_path / "search.json").read_text())
    names = [(row["variant"], row["compute"]) for row in record["chosen"]]
    assert names == [(name, view) for view in ("steps", "compute") for name in ("head", "single")]
    rates = [each["lr"] for each in record["chosen"][0]["tried"]]
    assert rates == pytest.approx([BASELINES["head"].lr * factor for factor in (1 / 3, 1, 3)])
    assert {each["steps"] for row in record["chosen"] for each in row["tried"]} == {8}  # the runs' own length
    again = command("ablate", "baselines", *options, "--method", "head", "--method", "single")
    assert "4 of 4 runs are finished" in again
    said = command("ablate", "baselines", *options, "--method", "head", "--no-search")
    assert "Rates" not in said and "2 of 2 runs are finished" in said


def test_the_table_of_tasks_by_methods(data, backbone, tmp_path):
    tasks = [word for name in ("cola", "stsb", "mnli") for word in ("--task", name)]
    options = [*tasks, "--folder", data, "--model", backbone, *"--steps 3 --rows 40 --evaluation-rows 20".split()]
    said = command("ablate", "table", *options, "--out", tmp_path)
    results = pd.read_parquet(tmp_path / "results.parquet")
    tasks, methods = {"cola", "stsb", "mnli"}, {"probe", "lora", "single", "adamix"}
    assert set(zip(results["task"], results["method"], strict=True)) == {(t, m) for t in tasks for m in methods}
    assert {"matthews", "pearson", "spearman", "accuracy", "accuracy, mismatched"} < set(results["metric"])
    assert (results["trained"] >= results["stored"]).all() and (results["stored"] > 0).all()
    heads, *last = said[said.index("merged: metrics x 100") :].splitlines()[1:]
    assert all(name in heads for name in ("matthews", "spearman", "accuracy, mismatched", "adaptive_ece"))
    assert any("mnli" in line and "linear probe" in line for line in last)


def test_few_shot_runs_over_seeds(data, backbone, tmp_path):
    options = ["--task", "cola", "--folder", data, "--model", backbone, "--steps", 8, "--out", tmp_path]
    said = command("ablate", "few-shot", *options, "--method", "probe", "--method", "adamix")
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert set(results["seed"]) == set(range(5)) and set(results["examples"]) == {30} and {*results["steps"]} == {0, 8}
    assert "cola, equal steps, 30 examples: matthews x 100" in said and "±" in said
