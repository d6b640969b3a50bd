"""The typed tables agree with themselves, as far as the printed ones do."""

import csv

import pytest

from adamix_lab.experiments.claims import PRINTED, printed, printed_difference, printed_table
from adamix_lab.tasks.tasks import data_root

SHAPES = {
    1: (7, 11), 2: (8, 3), 3: (10, 7), 6: (7, 14), 7: (5, 3), 8: (4, 6), 9: (3, 6), 10: (3, 7), 11: (2, 3),
    12: (8, 8), 13: (8, 13), 14: (10, 14),
}  # fmt: skip
PLAIN = ("mnli", "qnli", "sst2", "cola", "rte", "stsb")


@pytest.mark.parametrize("number", PRINTED)
def test_shapes(number):
    rows = printed_table(number)
    assert (len(rows), len(rows[0])) == SHAPES[number]
    with (data_root() / "paper" / f"table{number}.csv").open(encoding="utf-8", newline="") as file:
        assert {len(line) for line in csv.reader(file)} == {SHAPES[number][1]}


def mean(row, columns):
    return sum(float(row[column]) for column in columns) / len(columns)


def test_printed_averages_are_those_of_their_rows_but_one():
    for row in printed_table(1):
        assert mean(row, (*PLAIN, "qqp", "mrpc")) == pytest.approx(float(row["average"]), abs=0.0501)
    for row in printed_table(6):
        assert mean(row, "mnli rte qqp sst2 subj mpqa".split()) == pytest.approx(float(row["average"]), abs=0.0501)
    odd = []
    for number in (13, 14):
        for row in printed_table(number):
            kinds = [kind for kind in ("accuracy", "f1") if row[f"qqp_{kind}"]]
            averages = [mean(row, (*PLAIN, f"qqp_{kind}", f"mrpc_{kind}")) for kind in kinds]
            if not any(abs(each - float(row["average"])) < 0.0501 for each in averages):
                odd.append((row["model"], float(row["average"]), averages))
    assert odd == [("UNIPELT (APL)", 83.5, [pytest.approx(82.85)])]


def test_tables_repeat_one_another():
    thirteen = {row["model"]: row for row in printed_table(13)}
    for row in printed_table(2):
        assert {name: thirteen[row["model"]][name] for name in row} == row
    full, ours = printed(1, model="Full Fine-tuning"), printed(1, model="AdaMix Adapter")
    for column in ("mnli", "qnli", "sst2", "mrpc", "rte"):
        assert printed(8, model="Full Fine-tuning")[column] == full[column]
        for row in (printed(8, model="AdaMix"), printed(9, experts="4"), printed(10, size="16")):
            assert row[column] == ours[column]
        assert printed(12, encoder="roberta-large", size="8")[column] == printed(10, size="8")[column]
    names = ("Full Fine-tuning", "AdaMix", "AdaMix-RandomRouting", "AdaMix-FixedRouting", "AdaMix-Ensemble")
    for row, name in zip(printed_table(7), names, strict=True):
        assert float(row["average"]) == printed(14, encoder="bert-base", model=name)["average"]


def test_the_text_s_relative_gains():
    scores = {row["model"]: float(row["average"]) for row in printed_table(2)}
    best = scores["AdaMix Adapter"]
    assert round(100 * (best / scores["Full Fine-tuning"] - 1), 1) == 2.2
    assert round(100 * (best / scores["UNIPELT (APL)"] - 1), 1) == 1.2


def test_lookups():
    assert printed_difference(8, {"model": "AdaMix"}, {"model": "w/o Consistency"})["rte"] == 4.4
    assert "qqp_accuracy" not in printed(13, model="BitFit")  # an empty cell
    with pytest.raises(ValueError, match="Did you mean 'AdaMix'"):
        printed(8, model="AdaMx")
    with pytest.raises(ValueError, match="Table of the paper"):
        printed_table(4)
