"""Routes as data: uniform, replayable, enumerable, and refused when they do not fit."""

import itertools
from dataclasses import FrozenInstanceError, replace

import close
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamix_lab.core.routing import Router, RouteSpace, generator_for

SHARED = RouteSpace(((4, 1),) * 3)
FREE = RouteSpace(((4, 3),) * 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# -- the space -------------------------------------------------------------------------------------------


def test_shape_and_number():
    assert SHARED.shape == (3, 2) and SHARED.number == 4**3 and SHARED.experts == 4
    assert FREE.shape == (2, 2) and FREE.number == 12**2 and FREE.experts == 4


def test_a_seed_draws_the_same_routes_whatever_the_default_dtype():
    drawn = FREE.draw(generator(), (50,))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(FREE.draw(generator(), (50,)), drawn)
    finally:
        torch.set_default_dtype(torch.float32)


def test_draws_are_uniform_on_every_side():
    routes = FREE.draw(generator(), (24000,))
    for site, side in itertools.product(range(2), range(2)):
        count = FREE.counts[site][side]
        share = torch.bincount(routes[:, site, side], minlength=count) / len(routes)
        torch.testing.assert_close(share, torch.full((count,), 1 / count), rtol=0, atol=0.01)  # of 24,000 draws


def test_sides_and_sites_are_independent():
    routes = FREE.draw(generator(), (24000,))
    for one, other in itertools.combinations(itertools.product(range(2), range(2)), 2):
        a, b = routes[(slice(None), *one)], routes[(slice(None), *other)]
        joint = torch.zeros(4, 4).index_put_((a, b), torch.ones(len(a)), accumulate=True) / len(a)
        expected = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        torch.testing.assert_close(joint, expected, rtol=0, atol=0.01)  # of 24,000 draws


def test_tied_routes_take_one_expert_a_site():
    space = RouteSpace(((4, 4),) * 3, tied=True)
    routes = space.draw(generator(), (500,))
    assert torch.equal(routes[..., 0], routes[..., 1])
    assert (routes[:, 0] != routes[:, 1]).any()  # but sites stay independent
    assert set(routes.flatten().tolist()) == {0, 1, 2, 3}
    assert space.number == 4**3 == len(space.enumerate()) == len(torch.unique(space.enumerate(), dim=0))


def test_shared_sides_get_index_zero():
    assert not SHARED.draw(generator(), (100,))[..., 1].any()
    assert not replace(SHARED, tied=True).draw(generator(), (100,))[..., 1].any()
    assert SHARED.fixed(3).tolist() == [[3, 0]] * 3


def test_enumeration_is_complete_and_ordered():
    routes = SHARED.enumerate()
    assert routes.shape == (64, 3, 2) and len(torch.unique(routes, dim=0)) == 64
    assert routes.flatten(1).tolist() == sorted(routes.flatten(1).tolist())
    assert torch.equal(SHARED.check(routes), routes)


def test_enumeration_goes_to_4096_routes_unless_told_otherwise():
    assert len(RouteSpace(((4096,),)).enumerate()) == 4096
    with pytest.raises(ValueError, match=r"4097 routes are too many to enumerate \(limit 4096\)"):
        RouteSpace(((4097,),)).enumerate()


def test_enumeration_has_a_limit():
    with pytest.raises(ValueError, match=r"16777216 routes are too many to enumerate \(limit 4096\).*share a side"):
        RouteSpace(((4, 4),) * 6).enumerate()


def test_vertices_and_barycentre():
    points = SHARED.vertices(SHARED.enumerate())
    assert points.shape == (64, 3, 2, 4) and torch.equal(points.sum(-1), torch.ones(64, 3, 2))
    close.assert_close(points.mean(0)[:, 0], SHARED.barycentre()[:, 0], close.ROUNDED)
    assert torch.equal(SHARED.check_point(points), points)
    with torch.device("meta"):  # while a large model is built, say
        assert SHARED.barycentre().device.type == "cpu"


# -- the router: a function of (seed, step, view) --------------------------------------------------------


@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**6), view=st.integers(0, 3))
def test_replay(seed, step, view):
    router = Router(FREE, seed)
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(router.route(step, view), Router(FREE, seed).route(step, view))
    assert torch.equal(FREE.check(router.route(step, view)), router.route(step, view))


def test_routes_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Router(FREE).views(3, rows=2, tokens=4)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}, {"view": 1}])
def test_seed_step_and_view_each_matter(change):
    numbers = {"seed": 0, "step": 0, "view": 0, **change}
    space = RouteSpace(((4, 4),) * 12)
    first = Router(space, 0).route(0, 0)
    assert not torch.equal(first, Router(space, numbers["seed"]).route(numbers["step"], numbers["view"]))


def test_seeds_do_not_run_into_each_other():
    """(seed 0, step 1) is not (seed 1, step 0), as with seed + step."""
    states = {
        generator_for(seed, step, view).initial_seed() for seed in range(9) for step in range(9) for view in range(2)
    }
    assert len(states) == 9 * 9 * 2


def test_steps_are_uniform_too():
    routes = torch.stack([Router(FREE).route(step) for step in range(4000)])
    share = torch.bincount(routes[:, 0, 0]) / 4000
    torch.testing.assert_close(share, torch.full((4,), 0.25), rtol=0, atol=0.03)  # of 4,000 draws


def test_a_known_route():
    """Constants: recorded seeds must mean the same routes in every later version."""
    known = [[[1, 2], [2, 3], [1, 3]], [[3, 0], [0, 0], [1, 3]]]
    assert Router(RouteSpace(((4, 4),) * 3), seed=7).views(step=11).tolist() == known


def test_scopes():
    assert Router(FREE).route(0).shape == (2, 2)
    assert Router(FREE, per="example").route(0, rows=5).shape == (5, 2, 2)
    assert Router(FREE, per="token").route(0, rows=5, tokens=7).shape == (5, 7, 2, 2)
    assert Router(FREE, per="example").views(0, 2, rows=5).shape == (2, 5, 2, 2)
    tokens = Router(replace(FREE, tied=True), per="token").views(0, 3, rows=5, tokens=7)
    assert [*Router(FREE, per="token").views(0).shape] == [2, 1, 1, 2, 2]  # two views, one row, one token
    assert [*Router(FREE, per="token").route(0).shape] == [1, 1, 2, 2]
    assert Router(FREE) == Router(FREE, seed=0) and torch.equal(Router(FREE).route(3), Router(FREE).views(3)[0])
    assert tokens.shape == (3, 5, 7, 2, 2) and len(torch.unique(tokens.flatten(0, 2), dim=0)) > 5


def test_a_default_device_plays_no_part():
    expected = Router(FREE).route(0)
    with torch.device("meta"):
        route = Router(FREE).route(0)
        FREE.fixed(1), FREE.enumerate(), FREE.barycentre(), FREE.check(expected)
    assert torch.equal(route, expected)


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (torch.zeros(2, 2).long(), r"shape \[2, 2\] does not fit: expected \[sites, sides\] = \[3, 2\]"),
        (torch.zeros(6).long(), r"shape \[6\] does not fit"),
        (torch.zeros(1, 1, 1, 3, 2).long(), "at most two leading axes"),
        (
            torch.tensor([[0, 0], [4, 0], [0, 0]]),
            "Expert 4 at site 1, side 0 is out of range: expected 0 to 3",
        ),
        (torch.tensor([[0, 0], [0, 0], [-1, 0]]), "Expert -1 at site 2, side 0 is out of range"),
        (
            torch.tensor([[0, 0], [0, 1], [0, 0]]),
            r"Expert 1 at site 1, side 1.*expected 0 to 0 \(the side is shared\)",
        ),
        (torch.zeros(3, 2), "float32 does not fit: expected whole numbers"),
        (torch.zeros(3, 2).bool(), "bool does not fit: expected whole numbers"),
    ],
)
def test_routes_that_do_not_fit(route, message):
    with pytest.raises(ValueError, match=message):
        SHARED.check(route)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 3), (2, 2, 4), (1, 1, 3, 2, 4)])
def test_points_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"Mixture point of shape.*expected \[sites, sides, experts\] = \[3, 2, 4\]"):
        SHARED.check_point(torch.zeros(shape))


@pytest.mark.parametrize("expert", [4, -1])
def test_fixed_expert_out_of_range(expert):
    with pytest.raises(ValueError, match=f"Expert {expert} is out of range: expected 0 to 3"):
        SHARED.fixed(expert)


def test_unknown_scope():
    with pytest.raises(ValueError, match=r"routing scope 'tokens' is not known.*Did you mean 'token'"):
        Router(SHARED, per="tokens")


def test_spaces_are_values():
    """Equal ones are one key, and nobody changes another's."""
    assert len({FREE, RouteSpace(FREE.counts), Router(FREE), Router(RouteSpace(FREE.counts))}) == 2
    with pytest.raises(FrozenInstanceError):
        FREE.tied = True


def test_a_model_without_sites_has_one_route_and_one_expert():
    assert RouteSpace(()).experts == 1 and RouteSpace(()).number == 1


def test_fixed_and_enumerated_routes_of_a_model_without_sites():
    space = RouteSpace(())
    assert torch.equal(space.check(space.fixed(0)), torch.zeros(0, 0).long())
    assert torch.equal(space.check(space.enumerate()), torch.zeros(1, 0, 0).long())


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_a_number_is_the_same_seed_whatever_holds_it(kind):
    expected = Router(FREE, seed=3).views(5)
    assert torch.equal(Router(FREE, seed=kind(3)).views(5), expected)
    assert torch.equal(Router(FREE, seed=3).views(kind(5)), expected)
    with pytest.raises(TypeError, match="float"):
        generator_for(0.5)
