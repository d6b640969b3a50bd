"""Counts and the structure tree."""

import tiny

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.models.model import attach
from adamix_lab.training.report import parameter_report, structure


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
