"""Counts, the structure tree, and the card beside a save: never over one of your own."""

from pathlib import Path

import tiny
from huggingface_hub import ModelCard

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.files import CONFIG, read_config
from adamix_lab.models.model import attach
from adamix_lab.tasks.loading import saved_task
from adamix_lab.training.report import CARD, MARK, parameter_report, save, structure


def test_counts_are_kept_apart():
    mixture = attach(tiny.bert(), Bottleneck(4), experts=3, share="up")
    report = parameter_report(mixture)
    down, up = 4 * tiny.WIDTH + 4, tiny.WIDTH * 4 + tiny.WIDTH
    assert report.experts == tiny.LAYERS * (3 * down + up)
    assert report.merged == tiny.LAYERS * (down + up)
    assert report.head == tiny.WIDTH * tiny.LABELS + tiny.LABELS
    assert report.base == sum(p.numel() for p in tiny.bert().parameters()) - report.head
    assert f"{report.experts:,}" in str(report) and "in float32" in str(report)


def test_the_tree_folds_equal_blocks_and_shows_what_trains():
    mixture = attach(tiny.bert(), Bottleneck(4), experts=3, share="up", blocks=[-1])
    tree = structure(mixture.model)
    assert "0-1: BertLayer" in tree and "2: BertLayer" in tree
    assert "down x 3, up x 1" in tree
    assert "classifier: Linear" in tree and "train" in tree


def test_where_rows_lay_is_told_from_the_working_folder_in_the_card_and_beside(tmp_path, monkeypatch):
    mixture, here = tiny.mixed(tiny.bert(), Bottleneck(4), experts=2), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    rows = [f'{{"text": "{word} {n}", "label": "{word}"}}' for n in range(10) for word in ("good", "bad")]
    for folder in (here, tmp_path):
        (folder / "rows.jsonl").write_text("\n".join(rows))
    for source, kept in (
        (str(here / "rows.jsonl"), "./rows.jsonl"),
        (str(tmp_path / "rows.jsonl"), "../rows.jsonl"),
        ("./rows.jsonl", "./rows.jsonl"),
    ):
        save(mixture, "saved", {"source": source, "train_rows": None})
        text = Path("saved", CARD).read_text()
        assert f"| source | {kept} |" in text and "None" not in text and str(tmp_path) not in text
        assert str(tmp_path) not in Path("saved", CONFIG).read_text()
        assert saved_task(read_config("saved")["notes"]).classes == ("bad", "good")


def test_the_card_tells_what_was_saved_and_one_of_your_own_stays(tmp_path):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=3, share="up")
    results = [{"strategy": "merged", "accuracy": 0.875, "loss": 0.25, "passes": 1}]
    save(mixture, tmp_path, notes={"task": "films: good or bad", "classes": ["bad", "good"], "results": results})
    text = (tmp_path / CARD).read_text()
    assert "task:films: good or bad" in ModelCard.load(tmp_path / CARD).data.tags
    assert "merged    0.875     0.25  1" in text and str(parameter_report(mixture)) in text
    assert "3, up" in text and "from_pretrained" in text and text.startswith("---")
    for row in ({"low": 0.125}, {"low": 0.125, "high": 0.5}, {"low": None, "high": 0.5, "accuracy": 0.125}):
        save(mixture, tmp_path, notes={"results": [row]})  # no interval, and as it is
        assert "0.125" in (tmp_path / CARD).read_text()
    (tmp_path / CARD).write_text("my words")
    save(mixture, tmp_path)
    assert (tmp_path / CARD).read_text() == "my words" and MARK in text
