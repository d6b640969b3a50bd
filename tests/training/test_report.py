"""Counts, the structure tree, and the card beside a save: never over one of your own."""

import tiny
from huggingface_hub import ModelCard

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.models.model import attach
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


def test_the_card_tells_what_was_saved_and_one_of_your_own_stays(tmp_path):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=3, share="up")
    results = [{"strategy": "merged", "accuracy": 0.875, "loss": 0.25, "passes": 1}]
    save(mixture, tmp_path, notes={"task": "films: good or bad", "classes": ["bad", "good"], "results": results})
    text = (tmp_path / CARD).read_text()
    assert "task:films: good or bad" in ModelCard.load(tmp_path / CARD).data.tags
    assert "merged    0.875     0.25  1" in text and str(parameter_report(mixture)) in text
    assert "3, up" in text and "from_pretrained" in text and text.startswith("---")
    (tmp_path / CARD).write_text("my words")
    save(mixture, tmp_path)
    assert (tmp_path / CARD).read_text() == "my words" and MARK in text
