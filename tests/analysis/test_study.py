"""The study: every table and picture of a saved mixture, and what it says about its rows."""

import json
from dataclasses import replace

import pytest
import tiny
import tiny_task

from adamix_lab.analysis import posterior, study
from adamix_lab.analysis.study import Settings, write_posterior
from adamix_lab.tasks.tasks import hold_out

TASK, TOKENIZER = tiny_task.task(), tiny_task.tokenizer()
SMALL = Settings(rows=20, other_rows=10, draws=6, token_draws=2, dropout=3)
TABLES = {"draws", "strategies", "uncertainty", "convergence", "reliability"}


@pytest.fixture
def saved(monkeypatch):
    """Saved mixtures by the name of their folder, and the tiny task for every source."""

    def load_saved(folder):
        single = folder.name.startswith("single")
        more = {"experts": 1, "share": None} if single else {"experts": 4 if folder.name == "large" else 2}
        mixture = tiny.shake(tiny_task.mixture(dropout=0.2, **more), seed=len(folder.name))
        mixture.model.config.id2label = dict(enumerate(TASK.classes))
        fraction = 0.0 if folder.name == "all-seen" else 0.2
        notes = {"task": "tiny", "train_rows": 96, "recipe": {"dev_fraction": fraction, "seed": 5}}
        config = {"adaptation": {}, "experts": 2, "share": ["up"], "base": {}, "notes": notes}
        return mixture.eval(), TOKENIZER, config

    monkeypatch.setattr(study, "load_saved", load_saved)


def test_it_writes_tables_pictures_with_alt_texts_and_a_record(saved, tmp_path):
    import pandas as pd

    said = []
    members = [tmp_path / "single-a", tmp_path / "single-bc"]
    tables = write_posterior(
        tmp_path / "mixture", tmp_path / "out", TASK, SMALL, outside=TASK, members=members, say=said.append
    )
    assert tables.keys() == TABLES
    for name in TABLES:
        path = tmp_path / "out" / f"{name}.csv"
        read = pd.read_csv(path) if path.exists() else pd.read_parquet(path.with_suffix(".parquet"))
        assert len(read) == len(tables[name]) > 0 and list(read) == list(tables[name])
    pictures = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"convergence", "reliability"}
    assert all(len((tmp_path / "out" / f"{name}.txt").read_text()) > 60 for name in pictures)
    record = json.loads((tmp_path / "out/record.json").read_text())
    assert record["settings"]["rows"] == 20 and record["routes"] == 8 and record["versions"]["torch"]
    assert "not fitted" in record["interpretation"]
    assert record["rows"] == (
        "20 of 30 evaluation rows, 10 held out of training for temperatures, 10 of tiny (sentence) as the outside"
    )
    methods = list(tables["uncertainty"]["method"])
    assert methods == [
        "merged", "random route, one", "routes, 16 drawn", "exact marginal", "dropout, 3 samples",
        "single adapter, one", "apart, 2 trained",
    ]  # fmt: skip
    assert tables["uncertainty"].notna().all(axis=None)
    assert "not fitted" in said[-1]


def test_temperatures_need_rows_that_training_did_not_see(saved, tmp_path, monkeypatch):
    seen = []
    real = posterior.fix_batches

    def watch(mixture, task, tokenizer, rows, **more):
        seen.append([row["sentence"] for row in rows])
        return real(mixture, task, tokenizer, rows, **more)

    monkeypatch.setattr(study, "fix_batches", watch)
    monkeypatch.setattr(study, "_pictures", lambda tables, title: {})
    write_posterior(tmp_path / "mixture", tmp_path / "out", TASK, SMALL, say=lambda line: None)
    dev = [row["sentence"] for row in hold_out(TASK.train, 0.2, 5)[1]]
    assert len(seen) == 2 and set(seen[1]) <= set(dev)
    tables = write_posterior(tmp_path / "all-seen", tmp_path / "again", TASK, SMALL, say=lambda line: None)
    assert "temperature" not in tables["uncertainty"]
    record = json.loads((tmp_path / "again/record.json").read_text())
    assert "no temperatures" in record["rows"] and record["outside"] is None


def test_a_task_that_the_head_does_not_answer_is_refused_before_any_work(saved, tmp_path):
    two = replace(TASK, classes=TASK.classes[:2])
    turned = replace(TASK, classes=tuple(reversed(TASK.classes)))
    for task, told in ((two, "expected 2"), (turned, "in this order")):
        with pytest.raises(ValueError, match=told):
            write_posterior(tmp_path / "mixture", tmp_path / "out", task, SMALL)
    assert not (tmp_path / "out").exists()


def test_too_many_routes_are_refused_before_any_work_and_can_be_drawn(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "check_budget", lambda space: study_budget(space, 50))
    from adamix_lab.fast.tree import check_budget as study_budget

    with pytest.raises(ValueError, match=r"64 routes: expected at most 50.*--routes N"):
        write_posterior(tmp_path / "large", tmp_path / "out", TASK, SMALL)
    assert not (tmp_path / "out").exists()
    few = Settings(rows=10, other_rows=5, draws=4, token_draws=1, dropout=0, routes=9)
    tables = write_posterior(tmp_path / "large", tmp_path / "out", TASK, few, say=lambda line: None)
    assert "convergence" not in tables and "monte-carlo" in set(tables["strategies"]["strategy"])
    assert "routes, all 9 drawn" in set(tables["uncertainty"]["method"])
    assert not (tmp_path / "out/convergence.png").exists()


@pytest.mark.parametrize("settings", [{"draws": 0}, {"token_draws": 0}, {"routes": 0}, {"dropout": -1}])
def test_bad_settings_are_named(saved, tmp_path, settings):
    with pytest.raises(ValueError, match=r"draws.* = (0|-1): expected a whole number"):
        write_posterior(tmp_path / "mixture", tmp_path / "out", TASK, replace(SMALL, **settings), say=lambda line: None)


@pytest.mark.parametrize("name", ["rows", "other_rows"])
def test_no_rows_are_refused(saved, tmp_path, name):
    with pytest.raises(ValueError, match="expected at least one"):
        write_posterior(
            tmp_path / "mixture", tmp_path / "out", TASK, replace(SMALL, **{name: 0}), say=lambda line: None
        )
