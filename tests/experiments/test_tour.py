"""The tour: its runs, its stored seeds, and its sentences, whoever wins."""

import json
import re

import close
import numpy as np
import pytest
import tiny_grid
import torch
from makers import load_maker
from tiny_task import one_thread  # noqa: F401

from adamix_lab.analysis.statistics import rows_variance, t_interval
from adamix_lab.experiments import tour
from adamix_lab.experiments.grids import read_grid
from adamix_lab.experiments.running import prepare, train_whole
from adamix_lab.experiments.tour import (
    ADAMIX,
    PROBE,
    SINGLE,
    SLOW,
    Line,
    draw_looks,
    perform_seed,
    run_tour,
    stored_seeds,
    table,
)
from adamix_lab.models.model import trained_tensors

WAYS = [(PROBE, "alone"), (SINGLE, "alone"), (SLOW, "alone")]
WAYS += [(ADAMIX, strategy) for strategy in ("merged", "experts", "random", "ensemble")]


def lines(accuracies: dict[str, float], seed: int, rows: int = 500) -> list[Line]:
    """Of each model about that accuracy in points; wrong answers cost more."""
    draws = torch.rand(len(WAYS), rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    right = [draw < accuracies[model] / 100 for (model, _), draw in zip(WAYS, draws, strict=True)]
    return [Line(*way, 100 * each.double(), 1.5 - each.double(), 1, 10) for way, each in zip(WAYS, right, strict=True)]


def told(tmp_path, **accuracies: float) -> str:
    names = dict(zip(("probe", "single", "slow", "adamix"), (PROBE, SINGLE, SLOW, ADAMIX), strict=True))
    by_model = {names[name]: value for name, value in accuracies.items()}
    load_maker("results/tour").write({seed: lines(by_model, seed) for seed in range(20, 30)}, tmp_path)
    return " ".join(tour.sentences(lines(by_model, 0), stored_seeds(read_grid("tour").runs, tmp_path), 0))


def test_where_adamix_loses_the_sentences_say_so(tmp_path):
    said = told(tmp_path, probe=85, single=80, slow=90, adamix=65)
    parts = said.split("Against ")
    opponents = ("a tuned linear probe of the frozen features", "the single adapter at the same rate")
    opponents += (
        "the same single adapter with 1/M of the rate on the side that AdaMix routes, averaged over its steps",
    )
    for part, opponent in zip(parts[1:], opponents, strict=True):
        assert part.startswith(opponent) and part.count("which is shown") == 2
        assert re.search(r": the accuracy of AdaMix merged is \d+\.\d points lower over 10 seeds \(-\d.* to -\d", part)
        assert re.search(
            r"Its loss is 0\.\d+ nats higher over 10 seeds \(\+0\.\d+ to \+0.\d+, with 95 % for all 6", part
        )
    assert "AdaMix is worse than a single adapter at the same rate, so there is no gain to take apart." in said
    assert " gains " not in said and "seed that was just trained (0)" in said and "One seed decides nothing." in said


@pytest.mark.parametrize(
    ("slow", "adamix", "end"),
    [
        (90, 80, "they do more than AdaMix does."),
        (75, 80, "AdaMix has something of its own."),
        (80, 80, "that routes, experts and merging add anything is not shown."),
        (70, 70.5, "AdaMix is not shown to be better than a single adapter at the same rate, so there is no gain"),
    ],
)
def test_the_gain_is_taken_apart(tmp_path, slow, adamix, end):
    said = told(tmp_path, probe=60, single=70, slow=slow, adamix=adamix)
    assert end in said and said.count("which is not shown") >= (end.endswith("shown.") or end.endswith("gain"))


def test_alike_is_said_where_the_interval_is_within_what_matters():
    alike = tour.verdict_of(t_interval([0.1, 0.2, 0.15, 0.12]), "points")
    gain = tour.verdict_of(t_interval([5.0, 5.2, 5.1, 5.3]), "points")
    assert "so that the two are alike" in tour.difference_sentence(alike)
    assert tour.reading(gain, alike).endswith("routes, experts and merging add nothing that matters.")


def test_what_is_stored_is_read_as_intervals_over_seeds_and_rows(tmp_path):
    accuracies = {PROBE: 60.0, SINGLE: 70.0, SLOW: 80.0, ADAMIX: 78.0}
    seeds = {seed: lines(accuracies, seed) for seed in (20, 21, 22)}
    load_maker("results/tour").write(seeds, tmp_path)
    runs = read_grid("tour", seed=7).runs
    found = stored_seeds(runs, tmp_path)
    points = {way: np.stack([each[n].points for each in seeds.values()]) for n, way in enumerate(WAYS)}
    for way in WAYS:
        own, difference, by_seed = found[(*way, "points")]
        for estimate, values in ((own, points[way]), (difference, points[ADAMIX, "merged"] - points[way])):
            expected = t_interval(values.mean(1), rows_variance(values))
            close.assert_close(
                torch.tensor([estimate.mean, estimate.low, estimate.high]),
                torch.tensor([expected.mean, expected.low, expected.high]),
            )
        assert len(by_seed) == 3
    assert {unit for *_, unit in found} == {"points", "nats"}
    assert not stored_seeds(read_grid("tour", steps=20).runs, tmp_path)  # other runs: nothing stands beside them
    (said,) = tour.sentences(seeds[20], {}, 20)
    assert "the stored ones had other settings" in said and f"({SINGLE})" in said
    with_ten, without = table(seeds[20], found), table(seeds[20], {})
    assert "accuracy (%), stored seeds" in with_ten and "stored" not in without
    for text in (with_ten, without):
        head, *rest = text.splitlines()
        assert all(line[head.index("passes")] == "1" for line in rest) and text.count(ADAMIX) == 1  # aligned


def test_the_shipped_seeds_are_those_of_the_shipped_runs():
    ten = stored_seeds(read_grid("tour").runs)
    assert {(model, strategy) for model, strategy, _ in ten} == set(WAYS)
    assert {each.own.number for each in ten.values()} == {10}
    assert 60 < ten[SINGLE, "alone", "points"].own.mean < ten[ADAMIX, "merged", "points"].own.mean < 90


def test_a_killed_seed_goes_on_and_looking_changes_no_number(tmp_path, monkeypatch):
    base = tiny_grid.make(tmp_path)
    run = tiny_grid.run(base, steps=60, compute="rate")
    (whole,) = perform_seed([run], tmp_path / "whole", say=str).values()
    assert [look["step"] for look in whole.looks] == [0, 25, 50, 60]
    assert [line.strategy for line in whole.lines] == ["merged", "experts", "random", "ensemble"]
    prepared = prepare(run)
    train_whole(prepared, tmp_path / "plain")
    there = trained_tensors(whole.mixture)
    assert all(torch.equal(tensor, there[path]) for path, tensor in trained_tensors(prepared.mixture).items())

    class Killed(Exception):
        pass

    def dying(prepared, work, on_step, progress):
        def after(step):
            if step == 50:  # behind the checkpoint, before the look at it
                raise Killed
            on_step(step)

        return train_whole(prepared, work, after, progress)

    with monkeypatch.context() as patch:
        patch.setattr(tour, "train_whole", dying)
        with pytest.raises(Killed):
            perform_seed([run], tmp_path / "killed", say=str)
    (again,) = perform_seed([run], tmp_path / "killed", say=str).values()
    assert again.looks == whole.looks and torch.equal(again.on_train, whole.on_train)
    assert [line.mean("nats") for line in again.lines] == [line.mean("nats") for line in whole.lines]


def test_an_average_over_steps_is_looked_at_as_such(tmp_path):
    run = tiny_grid.run(tiny_grid.make(tmp_path), steps=30, method="slow-swa", compute="rate")
    (found,) = perform_seed([run], tmp_path / "runs", say=str).values()
    prepared = prepare(run)
    train_whole(prepared, tmp_path / "plain")  # the average is put back at the end
    expected = torch.nn.functional.nll_loss(found.on_train, torch.stack([e["labels"] for e in prepared.training]))
    assert found.looks[-1]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_curves_are_told():
    own = [{"step": 0, "loss": 0.7, "accuracy": 50.0}, {"step": 25, "loss": 0.3, "accuracy": 80.0}]
    own.append({"step": 50, "loss": 0.1, "accuracy": 71.0})
    alt = draw_looks(dict.fromkeys((SINGLE, ADAMIX, SLOW), own)).alt
    assert "Single adapter: the loss goes from 0.70 to 0.10; the accuracy is 80.0 % at best, after 25 steps" in alt


@pytest.mark.slow
def test_a_short_tour_writes_all_it_promises(tmp_path):
    said: list[str] = []
    found = run_tour(tmp_path, steps=20, say=said.append)
    assert [(line.model, line.strategy) for line in found][:3] == [*WAYS[:2], (ADAMIX, "merged")]
    assert (tmp_path / "tour.png").is_file() and (tmp_path / "tour.txt").read_text().startswith("Loss on the training")
    record = json.loads((tmp_path / "tour.json").read_text())
    assert record["versions"]["torch"] and len(record["lines"]) == len(found) == 7
    assert (tmp_path / "adamix/adamix.json").is_file() and (tmp_path / "merged/adamix.json").is_file()
    assert (tmp_path / "mistakes.csv").read_text().startswith("row,text,given,true,single adapter,AdaMix (up shared)")
    text = "\n".join(said)
    assert "make lab" in text and "100 of 400 labels are wrong" in text and "processor time" in text
    assert "the stored ones had other settings" in text.replace("\n  ", " ")
