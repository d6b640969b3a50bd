"""The one-dimensional world: what each control does to the numbers, and its widget without a browser."""

from dataclasses import replace
from functools import cache

import close
import pytest
import torch
from seen import all_inside
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.errors import LabError
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons import world as lab
from adamix_lab.lessons.world import World, align, draw_world, permute, train_world, world_explorer

APART = World(together=False, shared=None)
known = cache(train_world)  # several tests look at the same curves


def inside(curves):
    return curves.grid.abs() <= lab.EDGE


def fan(curves):
    return float(curves.experts.std(0)[inside(curves)].mean())


def gap(curves):
    return float((curves.merged - curves.ensemble)[inside(curves)].abs().max())


def bend(curves):
    return float((curves.merged - lab.SLOPE * curves.grid)[inside(curves)].square().mean().sqrt())


def test_an_expert_is_an_adapter_on_a_line_and_the_merge_has_the_mean_weights():
    curves = known(World(steps=30, near=0.5))
    down, bias, up, last = (curves.weights[f"experts.0.{name}"] for name in ("down", "down_bias", "up", "up_bias"))
    x = lab.SLOPE * curves.grid[:, None]  # what the frozen line answers, and the adapter reads
    for expert in range(4):
        hidden = torch.nn.functional.gelu(x @ down[expert].T + bias[expert])
        close.assert_close(curves.experts[expert], (x + hidden @ up[0].T + last[0])[:, 0])
    hidden = torch.nn.functional.gelu(x @ down.mean(0).T + bias.mean(0))
    close.assert_close(curves.merged, (x + hidden @ up[0].T + last[0])[:, 0])
    close.assert_close(curves.ensemble, curves.experts.mean(0), close.ROUNDED)


def test_with_two_layers_a_route_is_a_pair_of_experts():
    curves = known(World(steps=20, layers=2, near=1.0))
    assert curves.experts.shape == (16, len(curves.grid)) and curves.routes[6, :, 0].tolist() == [1, 2]
    one = {name: w[:1] if len(w) == 1 else w[[1 if ".0." in name else 2]] for name, w in curves.weights.items()}
    close.assert_close(curves.experts[6], lab.curves_of(curves.world, one).merged)


def test_down_shared_is_merged_exactly_in_one_layer_and_not_in_two():
    one = known(World(shared="down", near=1.0))
    close.assert_close(one.merged, one.ensemble)
    two = known(World(shared="down", near=1.0, layers=2))
    assert not close.is_close(two.merged, two.ensemble, close.Bound(1e-3, "a thousandth would be no gap to see"))
    assert gap(known(World(near=1.0))) > 0.01  # up shared


def test_classes_are_probabilities_whose_ensemble_is_their_mean():
    curves = known(World(shared="down", near=1.0, classes=True, rate=0.05))
    assert float(curves.experts.min()) >= 0 and float(curves.experts.max()) <= 1
    close.assert_close(curves.merged.logit(), curves.experts.logit().mean(0))  # exact in logits only
    assert gap(curves) > 1e-3
    x, y = curves.rows
    assert int((y != lab.truth(curves.world, x)).sum()) == 10  # a quarter of the labels is wrong
    assert curves.errors["ensemble"] <= curves.errors["experts"]  # Jensen's inequality


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_consistency_closes_the_fan_and_a_weight_of_300_flattens_it(seed):
    free, firm, flat = (known(World(consistency=weight, seed=seed)) for weight in (0.0, 10.0, 300.0))
    assert fan(firm) < 0.5 * fan(free) and fan(flat) < 0.5 * fan(firm)
    assert bend(flat) < 0.6 * bend(free) and flat.errors["merged"] > 1.5 * free.errors["merged"]


@pytest.mark.parametrize("seed", [0, 4, 6])
def test_equal_starts_merge_and_far_starts_do_not(seed):
    same, far = (known(replace(APART, near=near, seed=seed)) for near in (0.0, 1.0))
    assert same.errors["merged"] < same.errors["experts"] + 0.02
    assert far.errors["merged"] > 2 * far.errors["experts"]


@pytest.mark.parametrize("world", [APART, World(consistency=1.0), World(layers=2, steps=100), replace(APART, seed=4)])
def test_permuted_units_keep_the_curves_and_break_the_merge_and_alignment_repairs_it(world):
    before = known(world)
    after = permute(before, expert=2, seed=1)
    close.assert_close(after.experts, before.experts)
    assert gap(after) > 3 * gap(before) and after.errors["merged"] > before.errors["merged"]
    repaired = align(after)
    close.assert_close(repaired.experts, before.experts)
    assert gap(repaired) < 0.5 * gap(after)
    close.assert_close(align(before).merged, repaired.merged)  # the order that is found is of the functions' own


def test_the_other_controls_move_what_they_say():
    steps = [known(World(steps=steps)).errors["merged"] for steps in (0, 300)]
    assert steps[1] < 0.6 * steps[0] and bend(known(World(steps=0))) < 0.5 * bend(known(World()))
    assert known(World(rate=0.002)).errors["merged"] > known(World()).errors["merged"]
    clean, noisy = lab.make_rows(World(noise=0.0)), lab.make_rows(World(noise=0.5))
    close.assert_close(clean[1], lab.truth(World(), clean[0]), close.ROUNDED)
    assert torch.equal(clean[0], noisy[0]) and float((noisy[1] - clean[1]).std()) > 0.3
    few = known(World(experts=2, size=3, steps=5))
    assert few.experts.shape[0] == 2 and few.weights["experts.0.down"].shape == (2, 3, 1)
    same, far = (lab.start(World(near=near))["experts.0.down"] for near in (0.0, 1.0))
    assert torch.equal(same[0], same[3]) and float((far[0] - far[3]).abs().mean()) > 0.5
    assert known(World(experts=1)).errors["merged"] == pytest.approx(known(World(experts=1)).errors["experts"])


def test_a_world_is_a_function_of_its_settings():
    one, two = train_world(World(consistency=1.0, steps=20)), train_world(World(consistency=1.0, steps=20))
    assert torch.equal(one.merged, two.merged) and not torch.equal(one.merged, known(World(steps=20)).merged)
    assert not torch.equal(one.merged, train_world(World(consistency=1.0, steps=20, seed=1)).merged)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"near": 1.5}, r"near = 1.5: expected a distance from 0 \(one start\) to 1"),
        ({"together": False}, r"trained apart with shared = 'up'.*expected shared=None and consistency=0"),
        ({"shared": "upp"}, "Side to share 'upp' is not known.*Did you mean 'up'"),
        ({"layers": 3}, "layers = 3: expected a whole number from 1 to 2"),
        ({"noise": float("nan")}, "noise = nan: expected a number of at least 0"),
        ({"classes": True, "noise": 1.0}, "the share of wrong labels"),
    ],
)
def test_settings_that_fit_no_world_are_refused(settings, told):
    with pytest.raises(LabError, match=told):
        World(**settings)


def test_the_picture_says_what_it_draws():
    curves = known(World(layers=2, steps=20, near=1.0))
    view = draw_world(curves, "Two layers", route=6)
    assert "4 experts were trained together by random routes from starts at distance 1 (1: independent)" in view.readout
    assert "The thick line is route (1, 2)." in view.readout and view.readout in view.picture.alt
    assert f"the merge {curves.errors['merged']:.2f}" in view.readout and all_inside(view.picture.figure)
    assert "merge" not in draw_world(curves, drawn="ensemble").readout
    assert "wrong labels" in [t.get_text() for t in draw_world(
        known(World(shared="down", near=1.0, classes=True, rate=0.05))
    ).picture.figure.axes[0].get_legend().get_texts()]  # fmt: skip
    with pytest.raises(LabError, match="route = 16: expected a whole number from 0 to 15"):
        draw_world(curves, route=16)
    with pytest.raises(LabError, match="What is drawn 'all' is not known"):
        draw_world(curves, drawn="all")
    with pytest.raises(LabError, match="expert = 4: expected a whole number from 0 to 3"):
        permute(curves, 4)


def test_the_widget_trains_again_at_each_movement():
    pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")
    widget = world_explorer("Fan", "Close the fan.", shown={"consistency": 10.0}, steps=60)
    assert widget.last_error is None and "60 steps" in widget.text
    widget.buttons["Show me"].click()
    assert "consistency 10, 60 steps" in widget.text
    close.assert_close(
        widget.result["curves"].merged, train_world(World(consistency=10.0, steps=60)).merged, close.ROUNDED
    )
    far = {"far": {"near": 1.0}}
    widget = world_explorer("Units", "Break it.", ("near", "units", "route"), far, together=False, steps=60)
    before = widget.result["curves"].merged
    widget.buttons["permute"].click()
    assert not close.is_close(widget.result["curves"].merged, before)
    widget.buttons["align"].click()
    widget.buttons["draw a route"].click()
    assert "The thick line is expert" in widget.text and widget.last_error is None
    widget.buttons["far"].click()
    assert widget.state["near"] == 1.0 and "starts at distance 1" in widget.text
    widget = world_explorer("Merge", "See it.", ("drawn", "together", "consistency"), steps=20)
    assert "merge" not in widget.text
    widget.buttons["merge"].click()
    assert "The merge lies up to" in widget.text
    widget.set(together="apart", consistency=1.0)
    assert "expected shared=None and consistency=0" in widget.text
    with pytest.raises(LabError, match=r"Control 'nera' is not known.*near"):
        world_explorer("", "", ("nera",))


def test_draws_do_not_touch_the_global_generator():
    torch.manual_seed(3)
    train_world(World(steps=3))
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))
    assert generator_for(0, 1).initial_seed() != generator_for(0, 2).initial_seed()
