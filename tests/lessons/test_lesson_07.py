"""Lesson 07: comparisons with a known truth, chances by counting, the dashboard driven, its files, bad folders."""

import csv
import itertools
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import results_by_construction as made
from makers import load_maker

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from adamix_lab.analysis.statistics import holm, t_interval, verdict_of
from adamix_lab.lessons import comparisons
from adamix_lab.lessons.ablations import (
    COLUMNS,
    MOST,
    ablation_dashboard,
    board,
    draw_board,
    draw_winners,
    save_board,
    winners_table,
)
from adamix_lab.lessons.checks.beyond import check_detectable, check_paired_interval
from adamix_lab.lessons.comparisons import (
    MAKERS,
    compare,
    detectable,
    fewest_seeds,
    league_table,
    open_results,
    own_scores,
    right_rows,
    wrong_winner,
)

measures = load_maker("results/effects")
TRUTH = {"AdaMix": 3.0, "single": 0.0, "no consistency": 2.8, "no sharing": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    table = made.results(TRUTH, compute=("single",)).sample(frac=1, random_state=0)  # runs lie in any order
    order = table["variant"].map(list(TRUTH).index).sort_values(kind="stable").index
    # 200 made-up rows would add more than the spread between these seeds: left out
    return made.write(tmp_path_factory.mktemp("results"), table.loc[order].reset_index(drop=True), with_rest=False)


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    return made.write(tmp_path_factory.mktemp("answered"), made.results(TRUTH))


@pytest.fixture(scope="module")
def scores(folder):
    return open_results(str(folder))


# -- comparing ----------------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed_and_corrected_for_their_number(scores):
    found = compare(scores)
    assert len(found) == 3 * 4  # three tasks; single at both budgets
    table = scores.results.table
    for each in found:
        at = {"AdaMix": "steps", each.other: each.budget}
        sides = [
            table[(table.task == each.task) & (table.variant == v) & (table.compute == at[v]) & table.primary
                  & (table.strategy == "merged")].set_index("seed")["value"]
            for v in ("AdaMix", each.other)
        ]  # fmt: skip
        gaps = 100 * (sides[0] - sides[1])
        assert each.by_seed == pytest.approx(gaps.to_dict())
        assert each.estimate.mean == pytest.approx(t_interval(list(gaps)).mean)
    assert [each.adjusted for each in found] == pytest.approx(holm([each.estimate.p for each in found]))
    assert [each.judged for each in found] == [verdict_of(each.estimate, "points", 12) for each in found]
    assert {each.verdict for each in found if each.other == "single"} == {"shown"}
    assert "shown" not in {each.verdict for each in found if each.other == "no sharing"}


def test_verdicts_in_words(scores):
    some = compare(scores, "rte")[0]

    def verdict(values):
        estimate = t_interval(values)
        judged = verdict_of(estimate, "points", 3)
        return replace(some, by_seed=dict(enumerate(values)), estimate=estimate, judged=judged).verdict

    assert verdict([1.0, 1.1, 0.9]) == "shown" and verdict([0.1, 0.2, 0.1]) == "alike"
    assert verdict([1.0, -1.1, 0.9]) == "not shown"
    assert verdict([1.0]) == "one seed" and verdict([0.0, 0.0]) == "alike"
    assert verdict([1.0, 1.0]) == "not shown"  # no spread to judge by


def test_strategies_and_other_references(scores):
    found = compare(scores, "RTE", "adamix, merged")
    assert {each.other for each in found} == {"fixed", "random", "ensemble"}
    assert found[0].reference == "AdaMix, merged" and {each.budget for each in found} == {"steps"}
    against = compare(scores, "sst2", "single")
    assert [(each.other, each.budget) for each in against if each.other == "AdaMix"] == [
        ("AdaMix", "steps"), ("AdaMix", "compute")]  # fmt: skip
    for task, other, told in (
        ("rt", "AdaMix", "Task 'rt' is not known; expected one of all, mrpc, rte, sst2. Did you mean 'rte'"),
        ("all", "Adamx", "Variant 'Adamx' is not known.*Did you mean 'AdaMix'"),
        ("all", "AdaMix, merge", "Strategy of AdaMix 'merge' is not known.*'merged'"),
        ("all", "single, merged", "one way only"),
    ):
        with pytest.raises(ValueError, match=told):
            compare(scores, task, other)


def test_a_league_table_is_one_seed_sorted(scores):
    table = league_table(scores, "mrpc", 2)
    (column,) = table.columns
    assert column == "accuracy x 100, seed 2" and list(table[column]) == sorted(table[column], reverse=True)
    assert table.loc["single", column] == round(own_scores(scores, "mrpc", "single")[2], 1)
    assert list(own_scores(scores, "mrpc", "single")) == [0, 1, 2, 3, 4]  # whatever the order of the file


# -- how far to trust ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_chance_of_a_wrong_winner_is_that_of_counting_all_draws(number):
    values = [2.0, -1.0, 0.5, 0.0]
    means = [np.mean(chosen) for chosen in itertools.product(values, repeat=number)]
    counted = np.mean([0.5 if abs(mean) < 1e-9 else float(mean < 0) for mean in means])
    assert wrong_winner(values, number) == pytest.approx(counted, abs=0.012)
    assert wrong_winner([-v for v in values], number) == wrong_winner(values, number)


def test_the_fewest_seeds_need_a_winner_and_stay_below(scores):
    some = compare(scores, "rte")[0]

    def fewest(values):
        return fewest_seeds(replace(some, by_seed=dict(enumerate(values)), estimate=t_interval(values)))

    assert fewest([1.0, 1.1, 0.9]) == 1
    assert fewest([1.0, -1.1, 0.9]) is None  # no winner is known
    values = [3.0, 3.2, 2.9, -0.5, 3.1]
    assert t_interval(values).low > 0 and fewest(values) == 2


def test_a_detectable_difference_is_found_in_four_tests_of_five():
    rows, disagree = 277, 0.2
    gap = detectable(rows, disagree) / 100
    rng = np.random.default_rng(0)
    drawn = rng.choice([1, -1, 0], (4000, rows), p=[(disagree + gap) / 2, (disagree - gap) / 2, 1 - disagree])
    found = np.abs(drawn.mean(1)) > 1.96 * drawn.std(1) / math.sqrt(rows)
    assert 0.75 < found.mean() < 0.85


def test_rows_answered_rightly(answered):
    scores = open_results(str(answered))
    right = right_rows(scores, "rte", "AdaMix", 1)
    assert set(right) <= {0.0, 1.0} and len(right) == 200
    with pytest.raises(FileNotFoundError, match="seed 9"):
        right_rows(scores, "rte", "AdaMix", 9)


def test_the_measures_are_of_what_is_there(answered, monkeypatch):
    monkeypatch.setattr(measures, "is_run", lambda name, *_: name == "core")
    found = measures.measures_of("07")
    assert len(found) == 9 and all("at equal steps" in name for name in found)
    monkeypatch.setattr(measures, "open_results", lambda name: open_results(str(answered)))
    unit, measure, *_ = found["mrpc, accuracy at equal steps: AdaMix minus single"]
    assert unit == "points" and set(measure(0).tolist()) <= {-1.0, 0.0, 1.0}


# -- the dashboard ------------------------------------------------------------------------------------------


def test_the_dashboard_is_driven(folder, tmp_path):
    widget = ablation_dashboard(str(folder), tmp_path)
    assert widget.last_error is None and "12 comparisons on screen, 5 seeds each" in widget.text
    assert "corrected for 12" in widget.text and "single, equal compute" in widget.text
    before = widget.picture.alt
    widget.press("Show me")
    assert "AdaMix, merged minus each other" in widget.text and widget.picture.alt != before
    widget.press("variants")
    widget.set(task="rte")
    assert "4 comparisons" in widget.text and "mrpc, " not in widget.picture.alt
    widget.set(task="qnli")
    assert "Task 'qnli' is not known" in widget.text and isinstance(widget.last_error, ValueError)
    widget.press("Save PDF and CSV")
    assert "Nothing was done" in widget.text and not list(tmp_path.iterdir())
    widget.set(task="rte")
    widget.press("Save PDF and CSV")
    assert "Saved 4 comparisons" in widget.text and widget.last_error is None
    assert (tmp_path / "comparisons.pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader((tmp_path / "comparisons.csv").open(encoding="utf-8")))
    assert tuple(rows[0]) == COLUMNS and [row["other"] for row in rows[:2]] == ["single", "single"]
    assert float(rows[0]["low"]) < float(rows[0]["difference"]) and len(rows[0]["by_seed"].split()) == 5


def test_a_folder_that_cannot_be_written_is_told_and_the_next_try_serves(folder, tmp_path):
    place = tmp_path / "there"
    place.write_text("a file")
    widget = ablation_dashboard(str(folder), place)
    widget.press("Save PDF and CSV")
    assert (
        isinstance(widget.last_error, OSError) and "there" in widget.text and "fault of the widget" not in widget.text
    )
    place.unlink()
    widget.press("Save PDF and CSV")
    assert widget.last_error is None and "Saved" in widget.text


def test_folders_without_results_are_told_where_the_learner_looks(folder, tmp_path):
    widget = ablation_dashboard(str(folder), tmp_path)
    image = widget.image.value
    empty, half, other, wrong, older = (tmp_path / name for name in ("empty", "half", "other", "wrong", "older"))
    for place in (empty, half, other, wrong, older):
        shutil.copytree(folder, place) if place is half else place.mkdir()
    whole = (half / "results.parquet").read_bytes()
    (half / "results.parquet").write_bytes(whole[: len(whole) // 2])
    (other / "results.parquet").write_text("a;b\n1;2\n")
    pd.DataFrame({"task": ["rte"], "score": [1.0]}).to_parquet(wrong / "results.parquet")
    table = made.results({"AdaMix": 0.0}, seeds=1, tasks=("rte",))
    table.assign(value="high").to_parquet(older / "results.parquet")
    for place, told in (
        (empty, "results.parquet is not there"), (half, "not a whole Parquet file"), (other, "not a whole Parquet"),
        (wrong, "lacks run, variant"), (older, "not their contents"), (tmp_path / "none", "is no folder here"),
        ("~nobody-here/x", "is no folder here"), ("x" * 300, "File name too long"), ("a\0b", "is no folder here"),
    ):  # fmt: skip
        widget.set(folder=str(place))
        assert told in widget.text, (place, widget.text)
        assert "fault of the widget" not in widget.text and widget.image.value == image
    widget.box.children[1].value = " "
    assert "folder of results is empty: type a folder" in widget.text
    widget.set(folder=str(folder / "results.parquet"))  # the table itself serves, too
    assert widget.last_error is None and "12 comparisons" in widget.text


def test_results_that_are_not_shipped_are_told_with_their_command(monkeypatch, tmp_path):
    monkeypatch.setattr(comparisons, "data_root", lambda: tmp_path)
    for name, command in MAKERS.items():
        with pytest.raises(FileNotFoundError, match=name) as raised:
            open_results(name)
        assert command in str(raised.value)
    widget = ablation_dashboard("budget")
    assert "are not there" in widget.text and MAKERS["budget"] in widget.text
    assert "are not there" in widget._repr_mimebundle_()[0]["text/plain"]
    widget.press("Save PDF and CSV")
    assert "Nothing was done" in widget.text


def test_one_seed_and_one_variant(tmp_path):
    one = made.write(tmp_path / "one", made.results({"AdaMix": 1.0, "single": 0.0}, seeds=1), with_rest=False)
    view = draw_board(board(str(one)))
    assert "1 seed each" in view.readout and "one seed" in view.picture.alt and "predictions.parquet" in view.readout
    alone = made.write(tmp_path / "alone", made.results({"AdaMix": 1.0}), with_rest=False)
    with pytest.raises(ValueError, match="Nothing can be compared with 'AdaMix'"):
        board(str(alone))


def test_many_comparisons_are_counted_and_the_first_are_drawn(tmp_path):
    many = {"AdaMix": 1.0, **{f"variant {n}": n / 10 for n in range(12)}}
    place = made.write(tmp_path / "many", made.results(many, seeds=3, strategies={"merged": 0.0}), with_rest=False)
    state = board(str(place))
    view = draw_board(state)
    assert len(state.compared) == 36 and f"The first {MOST} are drawn" in view.readout
    assert len(view.picture.figure.axes[0].get_yticks()) == MOST
    save_board(state, view, tmp_path)
    assert (tmp_path / "comparisons.csv").read_text(encoding="utf-8").count("\n") == 37


def test_the_main_picture_and_its_table(scores):
    picture = draw_winners(scores, "rte", predicted=30.0)
    assert "League table of seed 0" in picture.alt and "You predicted 30 %" in picture.alt
    assert "AdaMix or single (a winner is known) 0 %" in picture.alt and "equal compute" not in picture.alt
    assert "No prediction was entered" in draw_winners(scores, "rte").alt
    table = winners_table(compare(scores))
    assert table.loc["rte: AdaMix minus single", "fewest seeds"] == "1"
    assert set(table["verdict"]) <= {"shown", "alike", "not shown"}


# -- checks -------------------------------------------------------------------------------------------------


def interval(first, second, quantile=None, ddof=1, root=True):
    from scipy.stats import t

    gaps = np.array(first) - np.array(second)
    n = len(gaps)
    half = (quantile or t.ppf(0.975, n - 1)) * gaps.std(ddof=ddof) / (n**0.5 if root else 1)
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


def unpaired(first, second):
    from scipy.stats import t

    n, mean = len(first), np.mean(first) - np.mean(second)
    half = t.ppf(0.975, 2 * n - 2) * ((np.var(first, ddof=1) + np.var(second, ddof=1)) / n) ** 0.5
    return mean, mean - half, mean + half


def test_right_answers_pass(capsys):
    check_paired_interval(interval)
    check_detectable(lambda rows, disagree: 196 * (disagree / rows) ** 0.5)
    assert capsys.readouterr().out.count("right") == 2


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(unpaired, "Runs of one seed belong together"), (lambda a, b: interval(a, b, 1.96), "normal quantile"),
     (lambda a, b: interval(a, b, ddof=0), "divides by n - 1"), (lambda a, b: interval(b, a), "second minus first"),
     (lambda a, b: interval(a, b, root=False), "square root of n"), (lambda a, b: interval(a, b)[:2], "three numbers"),
     (lambda a, b: interval(a, b, 1.96, 0), "And the spread")],
)  # fmt: skip
def test_a_wrong_interval_is_told_its_cause(answer, cause):
    with pytest.raises(AssertionError, match=cause):
        check_paired_interval(answer)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(lambda n, q: 1.96 * (q / n) ** 0.5, "times 100"), (lambda n, q: 196 * q / n, "root is missing"),
     (lambda n, q: 100 * (q / n) ** 0.5, "one standard error"),
     (lambda n, q: 196 * (q * (1 - q) / n) ** 0.5, "share times one minus"),
     (lambda n, q: 196 * (0.5 / n) ** 0.5, "pair them")],
)  # fmt: skip
def test_a_wrong_detectable_difference_is_told_its_cause(answer, cause):
    with pytest.raises(AssertionError, match=cause):
        check_detectable(answer)
