"""The card beside what is saved: written from the configuration, and never over one of your own."""

import tiny

from adamix_lab import save
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.training.card import CARD, MARK


def test_the_card_tells_what_was_saved_and_one_of_your_own_stays(tmp_path):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=3, share="up")
    results = [{"strategy": "merged", "accuracy": 0.875, "loss": 0.25, "passes": 1}]
    save(mixture, tmp_path, notes={"task": "films: good or bad", "classes": ["bad", "good"], "results": results})
    text = (tmp_path / CARD).read_text()
    assert '"task:films: good or bad"' in text and "| merged | 0.875 | 0.25 | 1 |" in text
    assert "3, up" in text and "from_pretrained" in text and text.startswith("---")
    (tmp_path / CARD).write_text("my words")
    save(mixture, tmp_path)
    assert (tmp_path / CARD).read_text() == "my words" and MARK in text
