"""Claims judged on results whose truth is known by construction."""

import pytest
import results_by_construction as made

from adamix_lab.analysis.statistics import SMALLEST
from adamix_lab.experiments.claims import (
    FAILS,
    HOLDS,
    MARGIN,
    OPEN,
    SEEDS,
    read_claims,
    read_paper,
    read_rules,
    verdicts_of,
)
from adamix_lab.experiments.contrasts import Scores, Side, minus
from adamix_lab.experiments.results import Results


def verdicts(table, budget="steps", curves=None, answers=False):
    predictions = made.predictions(table, rows=4000) if answers else None
    return {each.claim.number: each for each in verdicts_of(Scores(Results(table, predictions, curves)), budget)}


def judged(table, answered):
    scores = Scores(Results(table, made.predictions(answered, rows=60)))
    return {each.claim.number: each for each in verdicts_of(scores)}


def test_twelve_claims_each_with_source_and_parts():
    assert [claim.number for claim in read_claims()] == list(range(1, 13))
    assert all(claim.source and claim.parts for claim in read_claims())
    drawn = [minus("AdaMix", Side("AdaMix", "random", best)) for best in (False, True)]
    assert [part.contrast for part in read_claims()[3].parts] == drawn
    terms = {str(side): weight for weight, side in read_claims()[6].parts[1].contrast.terms}
    assert terms == {"AdaMix": 2, "AdaMix M=2": -1, "AdaMix M=8": -1}


def test_the_rules_in_words_name_the_numbers_that_decide():
    *_, every = read_rules()
    matters = f"{MARGIN:g} point, or {SMALLEST['nats']:g} nats"
    assert matters in every and f"Fewer than {SEEDS} seeds" in every
    assert f"at least {SEEDS} seeds; intervals of 95 % over seeds and rows" in read_paper("report.md")


@pytest.mark.parametrize(("effect", "expected"), [(3.0, HOLDS), (0.0, FAILS), (-3.0, FAILS)])
def test_better_equal_worse_by_construction(effect, expected):
    found = verdicts(made.results({"AdaMix": effect, "single": 0.0}))
    assert found[1].verdict == expected
    assert found[2].verdict == OPEN and "not run: full" in found[2].why


def test_what_is_neither_shown_nor_alike_is_not_decided():
    found = verdicts(made.results({"AdaMix": 0.6, "single": 0.0}, spread=1.5))[1]
    assert found.verdict == OPEN and "not shown; from " in found.why


def test_one_or_two_seeds_decide_nothing():
    for seeds in (1, 2):
        found = verdicts(made.results({"AdaMix": 9.0, "single": 0.0}, seeds=seeds))
        assert found[1].verdict == OPEN and "fewer than 3 decide nothing" in found[1].why


def test_tasks_that_disagree_decide_nothing():
    opposed = {"rte": 1.0, "mrpc": 1.0, "sst2": -0.3}
    table = made.results({"AdaMix": 9.0, "single": 0.0}, by_task=opposed, spread=0.1)
    found = verdicts(table)[1]
    assert found.verdict == OPEN and "sst2 goes the other way" in found.why


def test_the_correction_counts_the_comparisons_and_says_what_it_leaves_possible():
    # enough for one comparison, not for many
    table = made.results({"AdaMix": 1.05, "single": 0.0, "no consistency": 0.5, "no sharing": 0.5, "full": 0.6})
    found = verdicts(table)[1]
    alone = verdicts(table[table["variant"].isin(["AdaMix", "single"]) & (table["strategy"] == "merged")])[1]
    part, single = found.findings[0], alone.findings[0]
    assert part.estimate == single.estimate and single.judged.comparisons == 1 < part.judged.comparisons
    assert part.judged.low < single.judged.low and single.judged.high < part.judged.high
    assert f"corrected for {part.judged.comparisons} comparisons" in found.why


def test_rows_widen_what_seeds_leave():
    table = made.results({"AdaMix": 3.0, "single": 0.0})
    answers = made.predictions(table, rows=60)
    hard = answers["row"] < 12  # rows that the first answers rightly and the second does not, whatever the seed
    first = answers["run"].str.contains("AdaMix")
    answers.loc[hard & first, "prediction"] = answers["label"]
    answers.loc[hard & ~first, "prediction"] = 1 - answers["label"]
    (with_rows,) = verdicts_of(Scores(Results(table, answers)))[0].findings
    (without,) = verdicts_of(Scores(Results(table)))[0].findings
    assert with_rows.estimate.error > 3 * without.estimate.error and "over seeds and rows" in with_rows.why
    assert without.verdict == HOLDS and with_rows.verdict == OPEN


def test_strategies():
    worse = {"merged": 0.0, "fixed": -2.0, "random": -2.0, "ensemble": -2.0}
    found = verdicts(made.results({"AdaMix": 0.0}, strategies=worse))
    assert found[3].verdict == HOLDS
    assert found[4].verdict == OPEN and "best draw" in found[4].why  # one draw a run has no best
    table = made.results({"AdaMix": 0.0}, strategies=worse, draws=12)
    one_draw = table.drop_duplicates(["run", "strategy", "metric"])
    assert judged(table, one_draw)[4].verdict == HOLDS
    one_worse = dict(worse, ensemble=2.0)
    assert verdicts(made.results({"AdaMix": 0.0}, strategies=one_worse))[3].verdict == FAILS


def test_more_on_small_data_and_slower_convergence():
    more = {"rte": 2.0, "mrpc": 2.0, "sst2": 0.2}
    table = made.results({"AdaMix": 0.0, "no sharing": -3.0, "no consistency": -3.0}, by_task=more)
    found = verdicts(table, curves=made.curves(table))
    assert found[5].verdict == HOLDS and found[6].verdict == HOLDS
    assert "nats" in found[6].why
    without = verdicts(table)[6]
    assert without.verdict == OPEN  # no curves
    sampled = verdicts(made.results({"AdaMix": 0.0, "no consistency": -3.0}, by_task=more, rows=1000))[5]
    assert sampled.verdict == OPEN and "few and of many training rows" in sampled.why  # all tasks are small now


def test_diminishing_returns():
    table = made.results({"AdaMix M=2": 0.0, "AdaMix": 4.0, "AdaMix M=8": 2.0, "AdaMix r=8": 0.0, "AdaMix r=32": 5.0})
    found = verdicts(table)
    assert found[7].verdict == HOLDS and found[8].verdict == HOLDS
    linear = made.results({"AdaMix M=2": 0.0, "AdaMix": 4.0, "AdaMix M=8": 12.0})
    assert verdicts(linear)[7].verdict == FAILS


@pytest.mark.parametrize(("effect", "expected"), [(0.0, HOLDS), (5.0, FAILS), (1.0, OPEN)])
def test_alike(effect, expected):
    assert verdicts(made.results({"AdaMix": effect, "share down": 0.0}), answers=True)[9].verdict == expected


def test_two_that_learned_nothing_are_not_alike():
    table = made.results({"AdaMix": 0.0, "share down": 0.0})
    assert "learned" in (without := verdicts(table)[9]).why and without.verdict == OPEN  # chance is not known
    table.loc[table["metric"] == "accuracy", "value"] -= 0.3
    found = verdicts(table, answers=True)[9]
    assert found.verdict == OPEN and "above chance" in found.why
    table["metric"] = table["metric"].replace("accuracy", "matthews")  # there chance is 0
    assert verdicts(table)[9].verdict == HOLDS


def test_equal_counts_need_no_seeds():
    table = made.results({"AdaMix": 0.0, "single": 0.0}, seeds=1)
    assert verdicts(table)[10].verdict == HOLDS
    table.loc[(table["variant"] == "AdaMix") & (table["task"] == "rte"), "inference"] = 8000
    found = verdicts(table)[10]
    assert found.verdict == FAILS and "8,000 against 7,000" in found.why


def test_steps_limit_what_can_be_said():
    assert verdicts(made.results({"AdaMix": 0.0, "single": 0.0}), answers=True)[11].verdict == HOLDS
    behind = made.results({"AdaMix": -5.0, "single": 0.0})
    found = verdicts(behind, answers=True)[11]
    assert found.verdict == OPEN and "2 times the steps were not made" in found.why
    behind.loc[behind["variant"] == "AdaMix", "steps"] = 600
    assert verdicts(behind, answers=True)[11].verdict == FAILS


def test_few_examples_are_a_claim_of_their_own():
    import pandas as pd

    few = made.results({"AdaMix": 3.0, "full": 0.0}, examples=30)
    found = verdicts(few)
    assert found[12].verdict == HOLDS and found[2].verdict == OPEN
    both = pd.concat([few, made.results({"AdaMix": -3.0, "full": 0.0})])
    assert [verdicts(both)[n].verdict for n in (2, 12)] == [FAILS, HOLDS]


def test_equal_compute_takes_adamix_as_it_is():
    table = made.results({"AdaMix": 3.0, "single": 0.0}, compute=("single",))
    longer = table["compute"] == "compute"
    table.loc[longer & (table["metric"] == "accuracy"), "value"] += 0.06
    assert verdicts(table)[1].verdict == HOLDS
    assert verdicts(table, "compute")[1].verdict == FAILS


def test_seeds_that_all_give_one_number_are_no_spread():
    found = verdicts(made.results({"AdaMix": 1.0, "single": 0.0}, spread=0.0))[1]
    assert found.verdict == OPEN and "no spread" in found.why
