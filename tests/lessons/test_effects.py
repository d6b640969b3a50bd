"""Effect tables: intervals against a plain recomputation, verdicts, what is committed, the commands."""

import csv
import math
import statistics
import sys

import close
import pytest
import tiny_answers
import torch
import typer
from makers import DATA, load_maker
from scipy.stats import t

from adamix_lab.lessons.answers import load_answers
from adamix_lab.lessons.effects import effects_table

TABLES = DATA / "results" / "effects"
maker, runs = load_maker("results/effects"), load_maker("lessons")


def test_an_effect_has_intervals_over_rows_and_over_seeds():
    values = {0: torch.tensor([1.0, 0.0, 1.0, 0.0]), 1: torch.tensor([1.0, 1.0, 1.0, 0.0]), 2: torch.ones(4)}
    found = maker.measure_effect("one minus other", "points", values.__getitem__)
    assert found.values == (50.0, 75.0, 100.0) and found.rows == 4
    close.assert_close(found.over_rows[0], t.ppf(0.975, 3) * 100 * statistics.stdev([1, 0, 1, 0]) / 2, close.DOUBLE)
    close.assert_close(found.half_width, t.ppf(0.975, 2) * 25 / math.sqrt(3), close.DOUBLE)
    assert found.verdict == "effect" and found.row()["by_seed"] == "50.00 75.00 100.00"
    assert (
        maker.measure_effect("e", "nats", lambda seed: torch.tensor([0.1, -0.1]) * (seed - 1)).verdict == "null result"
    )
    with pytest.raises(ValueError, match="unit 'metres' is not known"):
        maker.measure_effect("e", "metres", values.__getitem__)


def test_missing_seeds_are_left_out_and_counted_and_none_at_all_is_an_error():
    def only_first(seed):
        if seed:
            raise FileNotFoundError("run 1 is not there")
        return torch.tensor([1.0, 0.0])

    found = maker.measure_effect("e", "points", only_first)
    assert found.verdict == "one seed" and found.row()["seeds"] == "1" and found.row()["half_width"] == ""
    with pytest.raises(FileNotFoundError, match="run 1"):
        maker.measure_effect("e", "points", only_first, seeds=(1,))


def test_the_gap_of_the_merge_is_against_the_mean_of_its_experts():
    answers = tiny_answers.answers(50)
    alone = torch.stack([(answers.routes[:, n].argmax(-1) == answers.labels).float() for n in (0, 5, 10, 15)]).mean(0)
    right = (answers.merged.argmax(-1) == answers.labels).float()
    close.assert_close(maker.merged_minus_experts(answers), right - alone, close.ROUNDED)
    loss = maker.merged_minus_experts(answers, "nats").mean()
    nll = torch.nn.functional.nll_loss
    plain = (
        nll(answers.merged, answers.labels) - sum(nll(answers.routes[:, n], answers.labels) for n in (0, 5, 10, 15)) / 4
    )
    close.assert_close(loss, plain, close.ROUNDED, scale=float(nll(answers.merged, answers.labels)))


@pytest.mark.parametrize("lesson", maker.LESSONS)
def test_committed_tables_hold_every_effect(lesson):
    with (TABLES / f"{lesson}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = maker.Effect("", "points", (1.0,), (0.0,), 1, 0.0).row()
    assert rows[0].keys() == columns.keys() and [row["effect"] for row in rows] == list(maker.measures_of(lesson))
    for row in rows:
        mean, values = float(row["mean"]), [float(value) for value in row["by_seed"].split()]
        assert len(values) == int(row["seeds"]) and mean == pytest.approx(statistics.fmean(values), abs=0.011)
        inside = row["half_width"] and abs(mean) <= float(row["half_width"])
        assert row["verdict"] == ("one seed" if len(values) == 1 else "null result" if inside else "effect"), row[
            "effect"
        ]


def test_a_committed_figure_is_what_is_measured_again():
    unit, function = maker.measures_of("03")["apart: merged minus its experts alone"]
    (row,) = effects_table("03", "apart: merged minus its experts alone", None).rows[:1]
    assert maker.measure_effect(row["effect"], unit, function).row()["by_seed"] == row["by_seed"]


def test_a_table_is_shown_whole_and_missing_ones_are_told(tmp_path):
    found = maker.measure_effects({"a & b": ("points", lambda seed: torch.rand(9))}, say=lambda line: None)
    maker.write_effects(tmp_path / "01.csv", found)
    table = effects_table("01", "", tmp_path)
    assert "a & b: " in repr(table) and "<td>a &amp; b</td>" in table._repr_html_()
    with pytest.raises(ValueError, match="No effect of lesson 01 is about 'zebra'"):
        effects_table("01", "zebra", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`python data/results/effects/make.py 02`"):
        effects_table("02", "", tmp_path)
    with pytest.raises(ValueError, match="Lesson '1' is not known"):
        maker.measures_of("1")


def test_the_command(tmp_path, monkeypatch, capsys):
    made = {"x": ("points", lambda seed: torch.rand(5))}
    monkeypatch.setattr(maker, "measures_of", lambda lesson: made)
    monkeypatch.setattr(sys, "argv", ["make.py", "00", "01", "--out", str(tmp_path), "--seeds", "2"])
    with pytest.raises(SystemExit):
        typer.run(maker.main)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00.csv", "01.csv"]
    assert effects_table("00", "", tmp_path).rows[0]["seeds"] == "2"
    assert capsys.readouterr().out.count(".csv") == 2


def test_a_run_is_trained_kept_and_left_alone_afterwards(tmp_path, monkeypatch):
    answers = tiny_answers.answers()
    calls = []

    monkeypatch.setattr(runs, "untrained_mixture", lambda task, experts, share, seed, tied: (torch.nn.Identity(), None))
    monkeypatch.setattr(runs, "train", lambda mixture, task, tokenizer, recipe, progress: calls.append(recipe))
    monkeypatch.setattr(runs, "answers_of", lambda mixture, task, tokenizer: answers)
    for _ in range(2):
        runs.make("runs", tmp_path, ["weight-10"], [2], 3, say=lambda line: None)
    (recipe,) = calls
    assert recipe.consistency.weight == 10 and recipe.seed == 2 and recipe.steps == 3
    assert torch.equal(load_answers("weight-10", 2, tmp_path).labels, answers.labels)
