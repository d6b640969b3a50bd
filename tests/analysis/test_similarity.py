"""Measures of likeness against what is known of them, and of experts that are known to be alike."""

import math

import close
import pytest
import tiny
import torch

from adamix_lab.analysis import theory as s
from adamix_lab.core.adaptations import IA3, Bottleneck, LoRA


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosine():
    a = random(3, 4)
    assert s.cosine(a, 2 * a) == pytest.approx(1) and s.cosine(a, -a) == pytest.approx(-1)
    close.assert_close(s.cosine(torch.tensor([1.0, 0]), torch.tensor([1.0, 1])), math.sqrt(0.5), close.ROUNDED)


def test_cka_ignores_rotation_and_scale_and_falls_for_unrelated_features():
    x = random(500, 6)
    rotation = torch.linalg.qr(random(6, 6, seed=1)).Q
    assert s.linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert s.linear_cka(x, random(500, 6, seed=2)) < 0.1
    with pytest.raises(ValueError, match=r"500 and 4 rows"):
        s.linear_cka(x, random(4, 6))


@pytest.mark.parametrize(("adaptation", "sides"), [(Bottleneck(3), 2), (LoRA(2), 2), (IA3(), 1)])
def test_every_pair_at_every_site(adaptation, sides):
    mixture = tiny.mixed(tiny.bert(0.1), adaptation, experts=3, blocks=(-2, -1)).train()
    before = tiny.modes(mixture)
    rows = s.expert_similarity(mixture, {**tiny.batch(), "labels": tiny.labels()})
    a_pair = 1 + sides * (1 if adaptation.kind == "ia3" else 2)
    assert len(rows) == len(mixture.sites) * 3 * a_pair and tiny.modes(mixture) == before
    assert all(0 <= r["value"] <= 1 for r in rows if r["measure"] == "cka")
    assert all(0 <= r["value"] <= 90 for r in rows if r["measure"] == "angle")


def test_equal_experts_are_alike_and_shared_sides_left_out():
    mixture = tiny.mixed(tiny.bert(), LoRA(2), experts=2, share="B")
    with torch.no_grad():
        for layer in mixture.sites.values():
            layer.experts["A"][1] = 2 * layer.experts["A"][0]
    rows = s.expert_similarity(mixture, tiny.batch())
    assert {r["side"] for r in rows} == {"A", ""}
    expected, largest = {"cosine": 1, "angle": 0, "cka": 1}, {"cosine": 1, "angle": 90, "cka": 1}
    for row in rows:
        close.assert_close(row["value"], expected[row["measure"]], scale=largest[row["measure"]])


def test_padding_is_left_out():
    mixture, batch = tiny.mixed(tiny.bert(), Bottleneck(3), experts=2), tiny.batch()
    for x in s.site_inputs(mixture, batch).values():
        assert len(x) == int(batch["attention_mask"].sum())
