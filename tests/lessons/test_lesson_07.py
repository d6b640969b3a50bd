"""Lesson 07: comparisons with a known truth, the phase map, the dashboard driven, cells, claims, bad folders."""

import html
import math
import os
import shutil

import close
import numpy as np
import pandas as pd
import pytest
import results_by_construction as made
from makers import DATA, load_maker
from scipy.stats import t
from seen import all_inside

pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from adamix_lab.analysis.statistics import t_interval, verdict_of
from adamix_lab.experiments.claims import FAILS, HOLDS, OPEN
from adamix_lab.lessons import ablations
from adamix_lab.lessons.ablations import (
    ALONE,
    ANSWERS,
    compare,
    detectable,
    draw_phase,
    drawn_lines,
    judged_alone,
    open_results,
    opponents,
    own_folders,
    seeds_needed,
)
from adamix_lab.lessons.checks.exercises import check_detectable, check_paired_interval
from adamix_lab.lessons.widgets import html_of

measures = load_maker("results/effects")
TRUTH = {"AdaMix": 3.0, "single": 0.0, "no consistency": 2.8, "no sharing": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    table = made.results(TRUTH, compute=("single",)).sample(frac=1, random_state=0)  # runs lie in any order
    # 200 made-up rows would add more than the spread between these seeds: left out
    return made.write(tmp_path_factory.mktemp("results"), table.reset_index(drop=True), with_rest=False)


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    return made.write(tmp_path_factory.mktemp("answered"), made.results(TRUTH))


# -- comparing ----------------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed_and_judged_together(folder):
    scores = open_results(folder)
    lines = {line["effect"]: line for line in compare(scores)}
    assert len(lines) == 3 * 4  # three tasks; single at both budgets
    table = scores.results.table
    for (task, other, budget), words in {
        ("rte", "single", "steps"): "rte, accuracy at equal steps: AdaMix minus single",
        ("sst2", "single", "compute"): "sst2, accuracy at equal compute: AdaMix minus single",
        ("mrpc", "no sharing", "steps"): "mrpc, accuracy at equal steps: AdaMix minus no sharing",
    }.items():
        first, second = (
            table[(table.task == task) & (table.variant == v) & (table.compute == at) & table.primary
                  & (table.strategy == "merged")].set_index("seed")["value"].sort_index()
            for v, at in (("AdaMix", "steps"), (other, budget))
        )  # fmt: skip
        gaps = 100 * (first - second).to_numpy()
        judged, line = verdict_of(t_interval(gaps), "points", 12), lines[words]
        assert line["verdict"] == judged.verdict and line["seeds"] == "5" and line["comparisons"] == "12"
        close.assert_close(float(line["mean"]), gaps.mean(), close.ROUNDED, scale=100)
        close.assert_close(
            [float(line["low"]), float(line["high"])], [judged.low, judged.high], close.ROUNDED, scale=100
        )
    assert {line["verdict"] for words, line in lines.items() if words.endswith("single")} == {"shown"}
    assert "shown" not in {line["verdict"] for words, line in lines.items() if words.endswith("sharing")}


def test_a_loss_counts_as_it_is_and_alone_is_not_corrected(folder):
    lines = compare(open_results(folder), "nats")
    line = next(line for line in lines if line["effect"] == "rte, loss at equal steps: AdaMix minus single")
    assert float(line["mean"]) < 0 and line["unit"] == "nats"  # it loses less
    alone = judged_alone(line)
    assert alone["comparisons"] == "1" and float(alone["high"]) < float(line["high"])


def test_what_cannot_be_compared_is_told(tmp_path):
    for name, table in {"alone": made.results({"AdaMix": 1.0}), "none": made.results({"single": 1.0})}.items():
        place = made.write(tmp_path / name, table, with_rest=False)
        with pytest.raises(ValueError, match="Nothing can be compared with AdaMix"):
            compare(open_results(place))


def test_own_folders_are_grids_and_not_their_runs(folder, tmp_path):
    for place in ("", "mine", "runs/other"):
        shutil.copytree(folder, tmp_path / place, dirs_exist_ok=True)
    shutil.copytree(folder, tmp_path / "mine" / "0123")
    (tmp_path / "mine" / "0123" / "settings.json").write_text("{}")
    assert set(own_folders(tmp_path)) == {".", "mine", os.path.join("runs", "other")}


def test_files_that_are_no_results_are_told(folder, tmp_path):
    whole = (folder / "results.parquet").read_bytes()
    wrong = {
        "empty": (None, "results.parquet is not there"),
        "half": (whole[: len(whole) // 2], "not a whole Parquet file"),
        "text": (b"a;b\n1;2\n", "not a whole Parquet"),
    }
    for name, (content, told) in wrong.items():
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "results.parquet").write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=told):
            open_results(tmp_path / name)
    for name, table, told in (
        ("lacks", pd.DataFrame({"task": ["rte"], "score": [1.0]}), "lacks run, variant"),
        ("other", made.results({"AdaMix": 0.0}, seeds=1, tasks=("rte",)).assign(value="high"), "not their contents"),
    ):
        (tmp_path / name).mkdir()
        table.to_parquet(tmp_path / name / "results.parquet")
        with pytest.raises(ValueError, match=told):
            open_results(tmp_path / name)


# -- how far to trust ---------------------------------------------------------------------------------------


def test_a_detectable_difference_is_found_in_four_tests_of_five():
    rows, disagree = 277, 0.2
    gap = detectable(rows, disagree) / 100
    rng = np.random.default_rng(0)
    drawn = rng.choice([1, -1, 0], (4000, rows), p=[(disagree + gap) / 2, (disagree - gap) / 2, 1 - disagree])
    found = np.abs(drawn.mean(1)) > 1.96 * drawn.std(1) / math.sqrt(rows)
    assert 0.75 < found.mean() < 0.85


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_so_many_seeds_are_needed_and_one_less_is_not_enough(spread):
    values = spread * np.array([-1.0, 0.0, 1.0])
    number = seeds_needed(values, 1.0)

    def half(seeds):
        return t.ppf(0.975, seeds - 1) * spread / math.sqrt(seeds)

    assert half(number) <= 1 and (number == 2 or half(number - 1) > 1)


def test_many_seeds_are_counted_at_once_and_no_number_is_refused():
    assert 3.84e8 < seeds_needed([-1.0, 0.0, 1.0], 1e-4) < 3.85e8  # (1.96 / 1e-4)²
    assert seeds_needed([1.0, 1.0], 0.1) == 2
    for values, smallest in (([1.0, 2.0], 0.0), ([1.0, 2.0], -1.0), ([1.0, 2.0], math.nan), ([1.0], 1.0), ([], 1.0),
                             ([1.0, math.nan], 1.0), ([1.0, math.inf], 1.0)):  # fmt: skip
        with pytest.raises(ValueError, match="expected two finite differences"):
            seeds_needed(values, smallest)


def test_rows_answered_rightly_and_their_loss(answered):
    scores = open_results(answered)
    right = measures.own_rows(scores, "rte", "AdaMix", 1)
    assert set(right) <= {0.0, 1.0} and len(right) == 200
    close.assert_close(
        measures.own_rows(scores, "rte", "AdaMix", 1, unit="nats"), np.full(200, math.log(2)), close.ROUNDED
    )
    with pytest.raises(FileNotFoundError, match="seed 9"):
        measures.own_rows(scores, "rte", "AdaMix", 9)


# -- the lesson ---------------------------------------------------------------------------------------------


def test_the_first_question_is_a_loss_and_each_is_about_a_line_of_the_table():
    truths = [ablations.result(number)[1] for number in range(1, 7)]
    assert truths[0] == "the other" and set(truths) == set(ANSWERS)


def test_a_cell_is_told_only_after_an_answer_and_a_probability():
    asked = ablations.Prediction(ablations.question(1), answers=ANSWERS)
    result = asked.then(*ablations.result(1))
    assert "Question 1 of 6" in asked.question and not result.opened and "is hidden" in result.text
    asked.choice.value = "AdaMix"
    assert not result.opened
    asked.entry.value = "80"
    assert result.opened and "80 % sure. It is “the other”" in result.text
    still = result._repr_mimebundle_()[0]["text/html"]  # folded away in what is committed
    assert still.startswith("<details>") and html.escape(ablations.texts()["questions"][0]["why"]) in still


SOURCE = DATA.parent / "notebooks" / "src" / "07_ablations.py"


@pytest.fixture
def phase(tmp_path, monkeypatch):
    """A made-up phase map: of 400 rows AdaMix is ahead by 6 points at dose 1, alike at 0, and behind by 4 at -1."""
    lines = [
        {"task": task, "panel": panel, "unit": unit, "rows": rows, "label_noise": noise, "lr": lr, "dose": dose,
         "mean": mean if unit == "points" else 0.02 * mean, "verdict": verdict,
         "mean_first": 80.0 + mean if unit == "points" else -0.4 + 0.02 * mean,
         "mean_second": 80.0 if unit == "points" else -0.4}
        for task in ("subjectivity", "reviews") for panel in ("single", "random routes") for unit in ("points", "nats")
        for rows, noise in ((400, 0.25), (100, 0.0)) for lr in (2e-3, 6e-3)
        for dose, mean, verdict in ((-1.0, -4.0, "shown"), (0.0, 0.2, "alike"), (1.0, 6.0, "shown"),
                                    (2.0, 1.0, "not shown"), (math.nan, 9.0, "shown"))
    ]  # fmt: skip
    table = pd.DataFrame(lines)
    table.to_parquet(path := tmp_path / "map.parquet")
    monkeypatch.setattr(ablations, "PHASE", path)
    return table


def test_the_phase_map_has_a_colour_a_pattern_and_a_winner_s_score_a_cell(phase):
    own = drawn_lines(phase[(phase["task"] == "reviews") & (phase["unit"] == "points")])
    assert len(own) == 2 * 2 * 4 and set(own["lr"]) == {2e-3}
    view = draw_phase(own)
    assert "single: of 8 cells ahead in 2, behind in 2, alike in 2; random routes: of 8" in view.readout
    assert "-4.0 (" in view.readout and "+6.0 (" in view.readout and view.readout in view.picture.alt
    single, routes = view.picture.figure.axes
    assert single.get_title() == "single" and "accuracy" in routes.get_xlabel() and all_inside(view.picture.figure)
    for cell, line in zip(single.patches, own[own["panel"] == "single"].itertuples(), strict=True):
        red, _, blue, _ = cell.get_facecolor()
        assert (blue > red) == (line.mean > 0), line
        assert cell.get_hatch() == {"shown": "", "alike": "..", "not shown": "///"}[line.verdict]
        assert cell.get_x() + 0.5 == line.dose
        row = single.get_yticklabels()[round(cell.get_y() + 0.5)].get_text()
        assert row == f"{line.rows} rows, {100 * line.label_noise:.0f} % wrong"
    assert {text.get_text() for text in single.texts} == {"80", "86", "81"}  # the winner's, not AdaMix's


def test_the_phase_map_is_driven_and_says_what_it_lacks(phase, monkeypatch, tmp_path):
    widget = ablations.phase_map()
    assert widget.last_error is None and widget.text.startswith("subjectivity, accuracy; AdaMix minus single: of 8")
    widget.set(task="reviews", opponent="random routes", unit="nats")
    assert "reviews, loss" in widget.text and "-0.080" in widget.text
    assert {text.get_text() for text in widget.picture.figure.axes[0].texts} == {"0.40", "0.28", "0.38"}
    widget.set(opponent="AdaMix, down shared")
    assert "was not measured on reviews" in widget.text
    monkeypatch.setattr(ablations, "PHASE", tmp_path / "none.parquet")
    lacks = ablations.phase_map()
    assert "There is no phase map yet" in html_of(lacks) and "data/results/phase/make.py" in lacks


def test_what_the_lesson_says_of_the_shipped_map_is_so():
    table = drawn_lines(pd.read_parquet(ablations.PHASE))
    table = table[table["unit"] == "points"].assign(lead=ablations.leads(table[table["unit"] == "points"]))
    single, own = (table[table["panel"] == panel] for panel in ("single", "each at its own stop"))
    ahead, behind = single[single["lead"] == 1], single[single["lead"] == -1]
    assert (len(single), len(ahead), len(behind)) == (92, 3, 8) and not own["lead"].any()
    assert (ahead["dose"] > 0).all() and (ahead["label_noise"] > 0).all() and (behind["dose"] <= 0).all()
    told = " ".join(SOURCE.read_text(encoding="utf-8").replace("\n#", "").split())
    assert "in three of 92 cells, all above dose 0 and with wrong labels; behind in eight, none above 0" in told
    losses = drawn_lines(pd.read_parquet(ablations.PHASE))
    losses = losses[(losses["unit"] == "nats") & (losses["panel"] == "single")]
    won = losses[ablations.leads(losses) == 1]
    assert (len(won), (ablations.leads(losses) == -1).sum()) == (27, 11) and (won["dose"] > 0).all()
    assert "(In loss: ahead in 27, all above 0, behind in 11.)" in told
    assert 'doses.then(lesson.phase_map, "above 0")' in told


def test_the_widget_offers_the_panels_of_the_maker(phase):
    maker, widget = load_maker("results/phase"), ablations.phase_map()
    assert set(widget.controls["opponent"].values) == set(maker.PANELS)


def test_the_dashboard_is_driven(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mine")
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "results.parquet").write_bytes(b"PAR1")
    widget = opponents(tmp_path)
    assert widget.last_error is None and "comparison" in widget.text and "right of 0 AdaMix is ahead" in widget.text
    before = widget.picture.alt
    widget.set(unit="nats")
    assert "left of 0" in widget.text and widget.picture.alt != before
    families = [family for family in widget.controls["results"].values if family not in ("mine", "broken")]
    assert len(families) > 3
    for family in families:
        widget.set(results=family, unit="points")
        assert widget.last_error is None, (family, widget.text)
    widget.set(results="30 examples", unit="nats")
    assert "was not measured in nats" in widget.text
    widget.set(results="mine", unit="points", judged="with its family")
    assert "12 comparisons" in widget.text and "AdaMix minus no sharing" in widget.picture.alt
    together = widget.picture.alt
    widget.set(judged=ALONE)
    assert widget.last_error is None and widget.picture.alt != together
    widget.set(results="broken")
    assert "not a whole Parquet" in widget.text and "fault of the widget" not in widget.text


def test_claims_have_verdicts_of_one_vocabulary():
    rows = ablations.claims().rows
    paper = [row for row in rows if row["who"] == "paper"]
    assert len(paper) == 12 and len(rows) == 21
    assert {row["verdict"] for row in paper} <= {HOLDS, FAILS, OPEN}


def test_what_is_said_of_others_and_of_consistency_is_so():
    table = pd.read_csv(DATA / "results" / "measured" / "report" / "comparisons.csv")
    table = table[(table["view"] == "steps") & (table["measure"] == "points")].assign(
        lead=lambda lines: np.where(lines["verdict"] == "shown", np.sign(lines["difference"]), 0)
    )
    others = "single|single, lr/M|single + SWA|single + EMA|single, lr/M + SWA|r-drop|lora|linear probe".split("|")
    lead = table.loc[table["against"].isin(others), "lead"]
    told = {sentence["says"]: sentence["verdict"] for sentence in ablations.texts()["sentences"]}
    said = told["it beats all others, with 30 examples, too"]
    assert f"of {len(lead)} comparisons on five tasks ahead in {sum(lead > 0)}, behind in {sum(lead < 0)};" in said
    few = ablations.row_about("07", "SST-2, 30 examples, accuracy: AdaMix minus linear probe")
    assert (few["verdict"], float(few["mean"]) < 0) == ("shown", "a probe is ahead on SST-2" in said)
    claims = pd.read_csv(DATA / "results" / "measured" / "report" / "claims.csv").set_index("number")
    assert "alike" in claims.loc[5, "why (at equal steps)"]
    assert "alike without it" in told["consistency counteracts instability"]


def test_accuracies_are_of_the_same_seeds():
    first, second = ablations.accuracies("adamix", "single")
    assert len(first) == len(second) > 0 and 50 < first.mean() < 100
    with pytest.raises(ValueError, match="Run 'adamx'"):
        ablations.accuracies("adamx")


# -- checks -------------------------------------------------------------------------------------------------


def interval(first, second, quantile=None, ddof=1, root=True):
    gaps = np.array(first) - np.array(second)
    n = len(gaps)
    half = (quantile or t.ppf(0.975, n - 1)) * gaps.std(ddof=ddof) / (n**0.5 if root else 1)
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


def unpaired(first, second):
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
