"""Effect tables: intervals against a plain recomputation, verdicts, what is committed, the commands."""

import csv
import math
import statistics
import sys
from collections import Counter

import close
import pytest
import tiny_answers
import tiny_task
import torch
import typer
from makers import DATA, load_maker

from adamix_lab.analysis.statistics import rows_variance, t_interval, verdict_of
from adamix_lab.lessons.answers import load_answers
from adamix_lab.lessons.drawing import draw_forest, effects_table, forest, outcome

TABLES = DATA / "results" / "effects"
maker, runs = load_maker("results/effects"), load_maker("experts")


def measured(effect, unit, function, seeds=range(3), family=""):
    return maker.measure_effect(effect, maker.Measure(unit, function, seeds, family))


def test_an_effect_counts_seeds_and_rows():
    rows = [torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])]
    found = measured("one minus other", "points", rows.__getitem__)
    assert found.values == (50.0, 75.0, 50.0) and found.rows == 4
    assert found.rows_error == round(math.sqrt(rows_variance(100 * torch.stack(rows).numpy())), 3)
    judged = verdict_of(t_interval(found.values, found.rows_error**2), "points", 3)
    row = found.row(3)
    assert (row["low"], row["high"]) == (f"{judged.low:.3f}", f"{judged.high:.3f}")
    assert row["verdict"] == "not shown" and row["by_seed"] == "50.000 75.000 50.000" and row["comparisons"] == "3"
    with pytest.raises(ValueError, match="unit 'metres' is not known"):
        measured("e", "metres", rows.__getitem__)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(4.0, 6.0, "shown"), (-6.0, -4.0, "shown"), (0.2, 0.6, "alike"), (-0.4, 0.4, "alike"), (-3.0, 3.0, "not shown")],
)
def test_three_verdicts(low, high, verdict):
    values = tuple(low + (high - low) * n / 9 for n in range(10))
    row = maker.Effect("e", "points", values, 0.0, 9).row()
    assert row["verdict"] == verdict and "are possible" in row["possible"]


def test_the_more_are_judged_together_the_less_is_shown(tmp_path):
    values, path = (0.5, 1.5, 2.5, 5.5, 1.5, 1.0, 2.0, -0.4), tmp_path / "x.csv"
    effects = [maker.Effect(str(n), "points", values, 0.0, 9, family="many") for n in range(40)]
    maker.write_effects(path, [*effects, maker.Effect("alone", "points", values, 0.0, 9, family="few")])
    verdicts = {row["effect"]: row["verdict"] for row in csv.DictReader(path.open(encoding="utf-8"))}
    assert verdicts.pop("alone") == "shown" and set(verdicts.values()) == {"not shown"}


def test_rows_that_differ_from_seed_to_seed_count_whole():
    rows = [torch.tensor([1.0, 0.0, 1.0, 0.0]).double(), torch.tensor([1.0, 0.0]).double()]
    expected = statistics.fmean([statistics.variance([1, 0, 1, 0]) / 4, statistics.variance([1, 0]) / 2])
    close.assert_close(maker.variance_over_rows(rows), expected, close.DOUBLE)


def test_missing_seeds_are_left_out_and_counted_and_none_at_all_is_an_error():
    def only_first(seed):
        if seed:
            raise FileNotFoundError("run 1 is not there")
        return torch.tensor([1.0, 0.0])

    row = measured("e", "points", only_first).row()
    assert row["verdict"] == "not shown" and row["seeds"] == "1" and row["low"] == row["high"] == ""
    assert row["possible"] == "one seed decides nothing"
    with pytest.raises(FileNotFoundError, match="run 1"):
        measured("e", "points", only_first, seeds=(1,))


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
    columns = maker.Effect("", "points", (1.0,), 0.0, 1).row()
    assert rows[0].keys() == columns.keys() and [row["effect"] for row in rows] == list(maker.measures_of(lesson))
    sizes = Counter(row["family"] for row in rows)
    for row in rows:  # verdicts are of the numbers beside them
        values = tuple(map(float, row["by_seed"].split()))
        numbers = float(row["rows_error"]), int(row["rows"]), float(row["seconds"])
        found = maker.Effect(row["effect"], row["unit"], values, *numbers, row["family"])
        assert found.row(sizes[row["family"]]) == row and len(found.values) == int(row["seeds"])


def test_a_committed_figure_is_what_is_measured_again():
    measure = maker.measures_of("03")["aspects, trained apart: merged minus its experts alone, accuracy"]
    (row,) = effects_table("03", "aspects, trained apart: merged minus its experts alone", None).rows[:1]
    assert maker.measure_effect(row["effect"], measure).row()["by_seed"] == row["by_seed"]


def test_a_table_is_shown_whole_and_missing_ones_are_told(tmp_path):
    maker.write_effects(tmp_path / "01.csv", [measured("a & b", "points", lambda seed: torch.rand(9))])
    table = effects_table("01", "", tmp_path)
    assert "a & b: " in repr(table) and "<td>a &amp; b</td>" in table._repr_html_()
    with pytest.raises(ValueError, match="No effect of lesson 01 is about 'zebra'"):
        effects_table("01", "zebra", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`python data/results/effects/make.py 02`"):
        effects_table("02", "", tmp_path)
    with pytest.raises(ValueError, match="Lesson '1' is not known"):
        maker.measures_of("1")


def a_row(effect, values, unit="points"):
    return maker.Effect(effect, unit, values, 0.0, 9).row()


def test_a_forest_tells_each_line_and_marks_verdicts():
    rows = [a_row("a wins", (5.0, 6.0, 5.5)), a_row("b", (0.1, 0.2, 0.1)), a_row("c", (-9.0, 9.0, 4.0)),
            a_row("one", (3.0,)), a_row("d, loss", (0.5, 0.6, 0.5), "nats")]  # fmt: skip
    picture = draw_forest(rows)
    points, nats = picture.figure.axes
    assert "a wins: 5.500 points, shown" in picture.alt and "one seed decides nothing" in picture.alt
    assert [text.get_text() for text in points.texts] == ["a wins", "b", "c", "one"] and len(nats.texts) == 1
    legend = [text.get_text() for text in points.get_legend().get_texts()]
    assert legend == ["too small to matter: ± 1 points", "shown", "alike", "not shown"]
    assert picture._repr_mimebundle_()[0]["text/plain"] == picture.alt
    with pytest.raises(ValueError, match="15 effects: expected 1 to 14"):
        draw_forest(rows * 3)
    assert "aspects, trained apart: merged minus its experts alone" in forest("03", "apart:").alt


def test_an_outcome_is_the_verdict_or_the_side_that_is_shown(tmp_path):
    seeds = range(4)
    for name, level in (("above", 0.5), ("below", -0.5), ("none", 0.0)):
        rows = {seed: torch.full((9,), level) + 0.001 * seed for seed in seeds}
        measure = maker.Measure("points", rows.__getitem__, seeds)
        maker.write_effects(tmp_path / f"{name}.csv", [maker.measure_effect("a minus b", measure)])
    found = [outcome(name, "a minus b", "a", "b", folder=tmp_path) for name in ("above", "below", "none")]
    assert found == ["a", "b", "alike"] and outcome("none", "a minus b", "a", "b", "neither", tmp_path) == "neither"
    with pytest.raises(ValueError, match="names 2 effects"):
        outcome("01", "best minus worst", "a", "b")


def test_the_command(tmp_path, monkeypatch, capsys):
    made = {"x": maker.Measure("points", lambda seed: torch.rand(5))}
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

    monkeypatch.setattr(runs, "untrained_mixture", lambda *settings: (tiny_task.mixture(), None))
    monkeypatch.setattr(runs, "train", lambda mixture, task, tokenizer, recipe, **more: calls.append(recipe))
    monkeypatch.setattr(runs, "answers_of", lambda mixture, task, tokenizer: answers)
    for _ in range(2):
        runs.main(["answers"], seeds=1, steps=3, only="weight-10", out=tmp_path)
    (recipe,) = calls
    assert recipe.consistency.weight == 10 and recipe.seed == 0 and recipe.steps == 3
    assert torch.equal(load_answers("weight-10", 0, tmp_path / "answers").labels, answers.labels)
