"""The tools of an adaptation: linear maps with one weight or K, and how weights start."""

import math
from dataclasses import FrozenInstanceError

import close
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adamix_lab.core.adaptations import IA3, Bias, Bottleneck, LoRA, Weight, along, kaiming, linear, normal, ones
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.core.routing import generator_for

IN, OUT, K, ROWS, TOKENS = 6, 8, 3, 2, 5
SLICED = LoRA(2, alpha=6.0, slices=((0, 3), (5, 8)))


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def base():
    torch.manual_seed(0)
    return nn.Linear(IN, OUT).requires_grad_(False)


def test_linear_with_a_bias_of_its_own_side():
    x, weight, bias = seeded(K * ROWS, TOKENS, IN), seeded(OUT, IN), seeded(K, OUT)
    expected = torch.cat([F.linear(g, weight, b) for g, b in zip(x.chunk(K), bias, strict=True)])
    close.assert_close(linear(x, weight, bias), expected, close.ROUNDED)
    close.assert_close(linear(x, seeded(K, OUT, IN), bias[0]), linear(x, seeded(K, OUT, IN)) + bias[0], close.ROUNDED)


def test_along():
    x, vectors = seeded(K * ROWS, TOKENS, IN), seeded(K, IN)
    assert along(x, vectors[0]).shape == (IN,)
    assert along(x, vectors).shape == (K * ROWS, 1, IN)
    assert along(x.unflatten(0, (K, ROWS)), vectors).shape == (K, 1, 1, IN)


# -- starts --------------------------------------------------------------------------------------------


def layer(adaptation, experts=4, shared=(), seed=0, base=None):
    base = base or nn.Linear(IN, OUT)
    return MixtureLayer(base, adaptation, experts, frozenset(shared), generator_for(seed))


@pytest.mark.parametrize(
    "adaptation",
    [Bottleneck(4, init="identity"), LoRA(2), LoRA(2, init="reference"), SLICED, IA3(), Bias()],
    ids=str,
)
def test_identity_starts_leave_the_model_unchanged(base, adaptation):
    x = seeded(ROWS, TOKENS, IN)
    assert torch.equal(layer(adaptation, base=base).eval()(x), base(x))


def test_reference_bottleneck_perturbs_from_the_start(base):
    made = layer(Bottleneck(4), base=base).eval()
    x = seeded(ROWS, TOKENS, IN)
    assert not torch.equal(made(x), base(x))
    assert not made.experts["down_bias"].any() and not made.experts["up_bias"].any()


def test_spread_of_the_starts():
    wide = normal((200, 200), torch.Generator().manual_seed(0))  # 40,000 draws: five standard errors of the mean
    assert wide.std() == pytest.approx(0.02, rel=0.02) and wide.mean() == pytest.approx(0, abs=5e-4)
    uniform = kaiming((64, 400), torch.Generator().manual_seed(0))
    assert uniform.abs().max() == pytest.approx(1 / 20, rel=0.01)
    torch.manual_seed(0)
    theirs = torch.empty(64, 400)
    nn.init.kaiming_uniform_(theirs, a=math.sqrt(5))
    assert uniform.std() == pytest.approx(float(theirs.std()), rel=0.02)


def test_copies_start_apart_or_alike():
    apart, alike = layer(LoRA(2)).experts["A"], layer(LoRA(2, init="reference")).experts["A"]
    assert not torch.equal(apart[0], apart[1])
    assert all(torch.equal(alike[0], copy) for copy in alike)
    down = layer(Bottleneck(4)).experts["down"]
    assert not torch.equal(down[0], down[1])


@pytest.mark.parametrize(("adaptation", "names"), [(Bottleneck(4), ("down", "up")), (LoRA(2), ("A", "B"))])
def test_starts_are_functions_of_the_seed_alone(adaptation, names):
    torch.manual_seed(1)
    first = layer(adaptation, seed=3).experts
    torch.manual_seed(2)
    again, other = layer(adaptation, seed=3).experts, layer(adaptation, seed=4).experts
    assert all(torch.equal(first[name], again[name]) for name in names)
    assert not torch.equal(first[names[0]], other[names[0]])


def test_starts_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    base = nn.Linear(IN, OUT)
    torch.manual_seed(0)
    layer(Bottleneck(4), base=base)
    assert torch.equal(torch.rand(1), expected)


def test_decay_is_declared():
    decays = {name: w.decay for name, w in Bottleneck(4).weights(IN, OUT).items()}
    assert decays == {"down": True, "down_bias": False, "up": True, "up_bias": False}
    assert all(w.decay for w in SLICED.weights(IN, OUT).values())
    assert not IA3().weights(IN, OUT)["scale"].decay and not Bias().weights(IN, OUT)["bias"].decay


@pytest.mark.parametrize(
    "make", [lambda: Bottleneck(4), lambda: LoRA(2, slices=((0, 3),)), IA3, Bias, lambda: Weight((4,), "scale", ones)]
)
def test_settings_are_values(make):
    """Equal ones are one key, and nobody changes another's."""
    assert len({make(), make()}) == 1
    with pytest.raises(FrozenInstanceError):
        make().kind = "another"
