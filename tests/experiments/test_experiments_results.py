"""Folders of runs, gathered tables, and everything that can be wrong with them."""

import errno
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from adamix_lab.analysis.calibration import adaptive_ece, nll, scores, tempered
from adamix_lab.experiments import results as stored
from adamix_lab.experiments.performing import store
from adamix_lab.experiments.results import (
    begin,
    finish,
    finished,
    gather,
    metric_rows,
    parquet,
    read_results,
    read_table,
    state,
)
from adamix_lab.experiments.running import Outcome
from adamix_lab.experiments.settings import Run
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.evaluation import judge


def made(run: Run, rows: int = 3, first: float = 0.0) -> dict[str, bytes]:
    """Result files as a worker would send them."""
    common = dict.fromkeys(stored.COLUMNS["results.parquet"].split(), 0)
    one = {
        **common,
        "run": run.key,
        "task": run.task,
        "variant": run.variant,
        "compute": run.compute,
        "seed": run.seed,
        "primary": True,
        "value": 0.5,
    }
    one |= {"strategy": "merged", "metric": "accuracy", "settings": json.dumps(vars(run))}
    answers = [
        {"run": run.key, "strategy": "merged", "row": n, "label": (n + first) % 2, "prediction": 1.0,
         "probability_of_label": 0.5}
        for n in range(rows)
    ]  # fmt: skip
    curve = [{"run": run.key, "step": 1, "loss": 1.0, "task_loss": 1.0, "consistency": 0.0}]
    tables = {"results.parquet": [one], "predictions.parquet": answers, "curves.parquet": curve}
    return {name: parquet(name, table) for name, table in tables.items()}


@pytest.fixture
def out(tmp_path) -> Path:
    """Two finished runs."""
    for seed in (0, 1):
        run = Run(seed=seed)
        finish(begin(tmp_path, run), made(run))
    return tmp_path


def test_states(out):
    run = Run(seed=7)
    assert state(out, run) == "waiting" and state(out, Run()) == "finished"
    place = begin(out, run)
    (place / "work").mkdir()
    assert state(out, run) == "waiting"
    store(out, Outcome(run, error="Traceback\nValueError: too much\n"), {})
    assert state(out, run) == "failed" and "too much" in (place / "error.txt").read_text()
    finish(place, made(run))
    assert state(out, run) == "finished"
    assert not (place / "work").exists() and not (place / "error.txt").exists()


def test_gathered_tables_are_tidy_and_a_new_name_counts(out):
    table = gather(out, {Run(seed=1).key: "mine"})
    assert sorted(table["variant"]) == ["AdaMix", "mine"]
    for name, columns in stored.COLUMNS.items():
        assert list(read_table(out / name).columns) == columns.split()
    assert len(read_table(out / "predictions.parquet")) == 6


def test_a_run_without_its_results_is_not_finished_and_not_gathered(out, monkeypatch):
    run, written, write = Run(seed=2), [], Path.write_bytes

    def killed(path, data):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data)

    place, data = begin(out, run), made(run)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_bytes", killed)
        finish(place, data)
    assert len(list((out / run.key).glob("*.parquet"))) == 2  # the results are written last
    assert not finished(out, run) and len(gather(out)) == 2


def test_half_a_file_is_damage(out):
    path = out / Run().key / "results.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"results.parquet is not a whole.*Delete it .* a run's table is made anew"):
        gather(out)
    path.unlink()
    assert not finished(out, Run()) and finished(out, Run(seed=1))


def test_half_of_a_gathered_table_is_told_and_made_anew(out):
    gather(out)
    path = out / "results.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"results.parquet is not a whole Parquet file .*gathered anew"):
        read_table(path)
    gather(out)
    assert len(read_table(path)) == 2
    pd.DataFrame({"run": ["a"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"results.parquet lacks task, variant"):
        read_table(path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_table(out / "none.parquet")


def test_results_of_an_earlier_version_are_read():
    """The shipped grids: their runs had keys of another kind."""
    for name, runs in (("archive/core", 60), ("archive/budget", 20)):
        results = read_results(data_root() / "results" / name)
        assert results.table["run"].nunique() == runs and results.notes == ()
        assert len(results.predictions) and len(results.curves)


def test_nothing_finished_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no finished run"):
        gather(tmp_path)


def test_answers_to_different_rows_are_not_compared(out):
    run = Run(seed=2)
    finish(begin(out, run), made(run, first=1.0))
    with pytest.raises(ValueError, match="judged on different rows"):
        gather(out)


def test_slices_of_several_samples_of_the_training_rows_are_gathered(out):
    for run in (Run(seed=0, judged_on="slice", sample=None), Run(seed=1, judged_on="slice", sample=None)):
        finish(begin(out, run), made(run, first=float(run.seed)))
    assert len(gather(out)) == 4
    run = Run(seed=1, judged_on="slice", sample=None, steps=7)
    finish(begin(out, run), made(run))
    with pytest.raises(ValueError, match="judged on different rows"):
        gather(out)


def test_a_full_disk_loses_nothing_that_was_finished(out, monkeypatch):
    gather(out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    run, data = Run(seed=5), made(Run(seed=5))
    place, write = begin(out, run), Path.write_bytes

    def full(path, data):
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"No space left on device.*Free some space"):
            finish(place, data)
    assert not finished(out, run) and not list(place.glob("*.parquet"))
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", lambda self, path, **_: full(path, b"half a table"))
        with pytest.raises(OSError, match="No space left on device"):
            gather(out)
    assert all(path.read_bytes() == data for path, data in before.items())
    finish(place, data)
    assert finished(out, run) and len(gather(out)) == 3


def test_a_file_name_that_leaves_the_folder_is_refused(out):
    with pytest.raises(ValueError, match="leaves its folder"):
        finish(out / Run().key, {"../x": b""})


def test_the_summary_has_a_table_a_task_and_one_of_all_that_was_measured(out):
    results = gather(out)
    text = stored.summary(results)
    assert "accuracy x 100 (%)" in text and "50.0 ± 0.0" in text
    other = results.assign(task="rte", metric="accuracy", seed=0, value=0.75)
    text = stored.summary(pd.concat([results, other.iloc[:1]]))
    assert text.splitlines()[-1].split() == ["rte", "equal", "steps", "AdaMix", "merged", "75.0"]


def test_calibration_is_measured_of_classes_that_one_model_answers():
    log_p = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    labels = torch.arange(40) % 3

    def measured(*evaluation):
        return {row["metric"]: row["value"] for row in metric_rows(judge(*evaluation))}

    assert measured("merged", 1, log_p, labels) == {
        "accuracy": scores(log_p, labels)["accuracy"],
        "loss": pytest.approx(nll(log_p, labels)),
        "adaptive_ece": adaptive_ece(log_p, labels),
    }
    flatter = adaptive_ece((log_p / 2).log_softmax(-1), labels)
    assert measured("scaled", 1, tempered(log_p, 2.0), labels)["adaptive_ece"] == pytest.approx(flatter)
    assert "adaptive_ece" not in measured("alone", 4, log_p, labels)  # a mean over models, with the first one's answers
    assert "adaptive_ece" not in measured("merged", 1, log_p[:, :1], labels.float())


def test_results_from_before_calibration_are_told_as_they_are(out):
    older = gather(out)
    told = stored.measures(older)
    assert list(told["accuracy"]) == ["50.0 ± 0.0"] and "adaptive_ece" not in told
    newer = older.assign(variant="single", metric="adaptive_ece", primary=False, value=0.125)
    both = stored.measures(pd.concat([older, newer])).set_index("variant")
    assert both.loc["AdaMix", "adaptive_ece"] == "" and both.loc["single", "adaptive_ece"] == "12.5 ± 0.0"


def test_a_run_whose_table_was_deleted_is_not_finished(tmp_path):
    run = stored.Run(seed=3)
    place = stored.begin(tmp_path, run)
    stored.finish(place, dict.fromkeys(stored.COLUMNS, b""))
    assert stored.finished(tmp_path, run)
    (place / stored.PREDICTIONS).unlink()
    assert not stored.finished(tmp_path, run)
