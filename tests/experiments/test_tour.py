"""The tour on a few steps: its table, its files, its sentences."""

import json

import pytest
import torch

from adamix_lab.experiments.tour import puzzle, sentence, table
from adamix_lab.training.evaluation import Evaluation


def evaluation(right, rows=200, strategy="merged"):
    labels = torch.zeros(rows, dtype=torch.long)
    p = torch.full((rows, 2), 0.1)
    p[:right, 0], p[right:, 1] = 0.9, 0.9
    return Evaluation(strategy, right / rows, 0.3, 1, p.log(), labels)


def test_the_sentence_says_who_wins_and_whether_it_is_more_than_chance():
    far = sentence(evaluation(120), evaluation(190), evaluation(180))
    assert far.count("more than chance") == 2 and "-35.0" in far
    near = sentence(evaluation(180), evaluation(181), evaluation(180))
    assert near.count("cannot tell from 0") == 2


def test_the_puzzle_is_told_with_its_numbers():
    ours = [*(evaluation(190) for _ in range(4)), evaluation(186)]
    told = puzzle(ours, [*(evaluation(190) for _ in range(4)), evaluation(120)])
    assert "apart answer 95.0 % on average, merged 60.0 % (-35.0 points)" in told
    assert "experts 95.0 % on average, merged 93.0 % (-2.0 points)" in told


def test_the_table_lines_up():
    line = {"model": "AdaMix", "accuracy": 0.9, "low": 0.88, "high": 0.92, "loss": 0.25, "passes": 1}
    lines = [{**line, "trained": 1000, "used": 100, "strategy": strategy} for strategy in ("merged", "fixed")]
    text = table(lines).splitlines()
    assert len({len(line) for line in text}) == 1 and text[2].startswith("AdaMix") and not text[3].startswith("AdaMix")


@pytest.mark.slow
def test_a_short_tour_writes_all_it_promises(tmp_path):
    from adamix_lab.experiments.tour import run_tour

    said: list[str] = []
    lines = run_tour(tmp_path, steps=20, say=said.append)
    assert {line["strategy"] for line in lines} >= {
        "linear probe",
        "merged",
        "fixed",
        "random",
        "ensemble",
        "fixed, mean",
    }
    assert (tmp_path / "tour.png").is_file() and (tmp_path / "tour.txt").read_text().startswith("Accuracy")
    record = json.loads((tmp_path / "tour.json").read_text())
    assert record["versions"]["torch"] and len(record["lines"]) == len(lines)
    assert (tmp_path / "adamix/adamix.json").is_file() and (tmp_path / "merged/adamix.json").is_file()
    assert any("make lab" in line for line in said)
