"""Your own adaptation: about fifteen lines, and mixing, routing, merging, ensembles and training work for it at once.

Loading what was saved needs its name in `ADAPTATIONS`; folding needs a `fold` of its own."""

from dataclasses import dataclass
from typing import ClassVar

import close
import pytest
import tiny
import torch

from adamix_lab.core.adaptations import ADAPTATIONS, Adaptation, Weight, along, linear, normal, ones
from adamix_lab.core.merging import merge
from adamix_lab.core.mixture import during
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.fast.blocks import routed_logits
from adamix_lab.models.model import attach, detach
from adamix_lab.models.saving import load, save

# -- the new method --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GatedUpdate(Adaptation):
    """`y = Wx + g * up(tanh(down(x)))`: a small network beside the frozen layer, gated by a vector."""

    rank: int = 4

    kind: ClassVar[str] = "gated"
    sides: ClassVar[tuple[str, ...]] = ("down", "up")

    def weights(self, in_features, out_features):
        return {
            "down": Weight((self.rank, in_features), "down", normal),
            "up": Weight((out_features, self.rank), "up", normal),
            "gate": Weight((out_features,), "up", ones, decay=False),
        }

    def apply(self, base, x, w, training):
        update = linear(torch.tanh(linear(x, w["down"])), w["up"])
        return base(x) + along(update, w["gate"]) * update


# -- what it can do now ----------------------------------------------------------------------------------


@pytest.fixture(params=[None, "up"], ids=["unshared", "shared"])
def mixture(request):
    return tiny.shake(attach(tiny.bert(), GatedUpdate(rank=3), experts=4, share=request.param, targets="output.dense"))


def by_hand(layer, x, down, up):
    w = layer.experts
    up = min(up, len(w["up"]) - 1)
    return layer.base(x) + w["gate"][up] * (torch.tanh(x @ w["down"][down].T) @ w["up"][up].T)


def test_a_route_picks_one_expert_a_side(mixture):
    layer = next(iter(mixture.sites.values()))
    x = torch.randn(2, 5, layer.in_features)
    up = layer.counts()[1] - 1
    with during({layer: {"selection": torch.tensor([1, up])}}):
        close.assert_close(layer(x), by_hand(layer, x, 1, up))


def test_routes_per_batch_example_and_token(mixture):
    batch, space = tiny.batch(rows=3, tokens=5), mixture.space
    for per in ("batch", "example", "token"):
        route = Router(space, seed=1, per=per).route(step=0, rows=3, tokens=5)
        logits = mixture(selection=route, **batch).logits
        assert torch.equal(logits, mixture(selection=route, **batch).logits)
        # the same route for every row and token is the route of the batch
        lead = {"batch": (), "example": (3,), "token": (3, 5)}[per]
        everywhere = space.fixed(0).expand(*lead, *space.shape)
        alone = mixture(selection=space.fixed(0), **batch).logits
        close.assert_close(mixture(selection=everywhere, **batch).logits, alone)


def test_merging_averages_the_weights(mixture):
    layer, batch = next(iter(mixture.sites.values())), tiny.batch()
    x = torch.randn(2, 5, layer.in_features)
    mean = {name: weight.mean(0) for name, weight in layer.experts.items()}
    close.assert_close(layer(x), layer.adaptation.apply(layer.base, x, mean, False))
    point = mixture.space.barycentre()
    close.assert_close(mixture(**batch).logits, mixture(selection=point, **batch).logits)


def test_an_ensemble_averages_the_outputs(mixture):
    batch, routes = tiny.batch(), mixture.space.draw(torch.Generator().manual_seed(0), (6,))
    one_by_one = torch.stack([mixture(selection=route, **batch).logits for route in routes])
    for views in ("independent", "shared_prefix", "same_dropout"):
        close.assert_close(routed_logits(mixture, batch, routes, views), one_by_one)


def test_two_views_train_it(mixture):
    objective, batch = Objective(mixture.train(), Consistency()), {**tiny.batch(), "labels": tiny.labels()}
    optimizer = torch.optim.Adam([p for p in mixture.parameters() if p.requires_grad], lr=3e-2)
    router, losses = Router(mixture.space), []
    for step in range(40):
        loss = objective(batch, router.views(step)).total
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_it_is_saved_merged_and_loaded_once_it_is_registered(mixture, tmp_path, monkeypatch):
    folder, batch = save(merge(mixture), tmp_path / "merged"), tiny.batch()
    with pytest.raises(ValueError, match=r"'gated' is not known.*Register your own: ADAPTATIONS\[kind\] = YourClass"):
        load(tiny.bert(), folder)
    monkeypatch.setitem(ADAPTATIONS, "gated", GatedUpdate)
    back = load(tiny.bert(), folder)
    assert torch.equal(back(**batch).logits, merge(mixture)(**batch).logits)
    close.assert_close(back(**batch).logits, mixture(**batch).logits)


def test_and_comes_off_without_a_trace(mixture):
    plain = tiny.bert()
    bare, batch = detach(mixture), tiny.batch()
    assert torch.equal(bare(**batch).logits, plain(**batch).logits)
