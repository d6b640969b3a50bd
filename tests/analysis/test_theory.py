"""The second-order estimates: exact in the limit of near experts, terms checked by hand, products of means."""

import close
import pytest
import tiny
import tiny_task
import torch

from adamix_lab.analysis import theory as t
from adamix_lab.analysis.points import logits_at, point_of, stack_points
from adamix_lab.analysis.theory import eager_attention
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.mixture import evaluating

pytestmark = pytest.mark.usefixtures("one_thread")
one_thread = tiny_task.one_thread


def model(adaptation=None, family="bert", **more):
    settings = {"experts": 3, "share": None, "blocks": (-2, -1)} | more
    return tiny.mixed(tiny.FAMILIES[family](0.1), adaptation or Bottleneck(3), **settings).double()


def batches(number=2):
    return [{**tiny.batch(4, seed=seed), "labels": tiny.labels(4)} for seed in range(number)]


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_derivatives_are_those_of_finite_differences(family):
    mixture = model(family=family)
    first, second = (stack_points([point_of(mixture, mixture.space.fixed(n))]) for n in (0, 1))
    way, step = {name: second[name] - first[name] for name in first}, 1e-4
    (batch,) = batches(1)
    with torch.no_grad(), evaluating(mixture), eager_attention(mixture.model):
        f, slope, bend = t.derivatives(mixture, batch, first, way)
        near = {
            n: logits_at(mixture, batch, {name: first[name] + n * step * way[name] for name in first})
            for n in (-1, 0, 1)
        }
        loss = {n: float(t.losses(logits, batch["labels"]).sum()) for n, logits in near.items()}
    close.assert_close(f, near[0], close.DOUBLE)
    close.assert_close(slope, (near[1] - near[-1]) / (2 * step), close.DIFFERENCES)
    assert float(bend) == pytest.approx((loss[1] + loss[-1] - 2 * loss[0]) / step**2, rel=1e-4)


@pytest.mark.parametrize("settings", [{"share": "up"}, {"tied": True}, {}])
def test_the_merge_of_near_experts_differs_from_all_routes_as_the_estimate_says(settings, monkeypatch):
    monkeypatch.setattr(t, "AT_ONCE", 4)
    mixture = model(**settings)
    with torch.no_grad():
        for _, parameter in mixture.expert_parameters():
            parameter.copy_(torch.lerp(parameter.mean(0, keepdim=True), parameter, 0.02))
    gap = t.barycentre(mixture, batches())
    assert gap.measured == pytest.approx(gap.estimate, rel=0.05) and abs(gap.measured) > 1e-9


def test_directions_are_a_side_each_and_tied_sides_together():
    for settings, number in (({"share": "up"}, 6), ({"tied": True}, 6), ({}, 12)):
        mixture = model(**settings)
        directions, weights = t.expert_directions(mixture)
        assert weights.tolist() == pytest.approx([1 / 3] * number)
        farthest = max(float(d.abs().max()) for d in directions.values())
        for d in directions.values():
            close.assert_close(d.sum(0), torch.zeros_like(d[0]), close.DOUBLE, scale=farthest)
    with pytest.raises(ValueError, match=r"one expert a side"):
        t.expert_directions(model(experts=1))


def test_drawn_routes_stand_for_all_where_there_are_too_many(monkeypatch):
    mixture = model(blocks=None, experts=4)
    assert mixture.space.number == 4096
    with pytest.raises(ValueError, match=r"too many to enumerate"):
        t.barycentre(model(blocks=None, experts=5), batches(1))
    drawn = mixture.space.draw(torch.Generator().manual_seed(0), (6,))
    one = t.barycentre(mixture, batches(1), drawn)
    monkeypatch.setattr(t, "AT_ONCE", 2)
    close.assert_close(one.ensemble, t.barycentre(mixture, batches(1), drawn.flip(0)).ensemble, close.DOUBLE)


def test_bad_input_is_named():
    mixture = model()
    with pytest.raises(ValueError, match=r"no batches"):
        t.barycentre(mixture, [])
