"""Each adaptation by its formula, one set of weights or K of them, its start, and its fold."""

import math
from dataclasses import FrozenInstanceError, replace

import close
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from adamix_lab.core.adaptations import IA3, Bias, Bottleneck, LoRA, Weight, adaptation_from, linear, zeros
from adamix_lab.core.mixture import MixtureLayer, during
from adamix_lab.core.routing import generator_for

IN, OUT, K, ROWS, TOKENS = 6, 8, 3, 2, 5
SLICED = LoRA(2, alpha=6.0, slices=((0, 3), (5, 8)))
ADAPTATIONS = [
    Bottleneck(4), Bottleneck(4, "relu"), Bottleneck(4, "gelu_new"), Bottleneck(4, "tanh"), LoRA(2, alpha=6.0), SLICED,
    IA3(), IA3(feedforward=True), Bias(),
]  # fmt: skip
LINEAR = [LoRA(2, alpha=6.0), SLICED, IA3(), IA3(feedforward=True), Bias()]


def ids(adaptation):
    return str(adaptation)


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_weights(adaptation, lead=()):
    declared = adaptation.weights(IN, OUT)
    return {name: seeded(*lead, *w.shape, seed=n) for n, (name, w) in enumerate(declared.items())}


@pytest.fixture
def base():
    torch.manual_seed(0)
    return nn.Linear(IN, OUT).requires_grad_(False)


def layer(adaptation, experts=4, shared=(), seed=0, base=None):
    base = base or nn.Linear(IN, OUT)
    return MixtureLayer(base, adaptation, experts, frozenset(shared), generator_for(seed))


# -- formulas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("gelu", lambda h: 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))),
        ("gelu_new", lambda h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))),
        ("relu", lambda h: h.clamp(min=0)),
        ("tanh", lambda h: (h.exp() - (-h).exp()) / (h.exp() + (-h).exp())),
    ],
)
def test_bottleneck(base, name, by_hand):
    adaptation, x = Bottleneck(4, name), seeded(ROWS, TOKENS, IN)
    w = some_weights(adaptation)
    y = x @ base.weight.T + base.bias
    expected = y + by_hand(y @ w["down"].T + w["down_bias"]) @ w["up"].T + w["up_bias"]
    close.assert_close(adaptation.apply(base, x, w, False), expected, close.ROUNDED)


def test_lora(base):
    adaptation, x = LoRA(2, alpha=6.0), seeded(ROWS, TOKENS, IN)
    w = some_weights(adaptation)
    expected = base(x) + 3.0 * (x @ w["A"].T) @ w["B"].T
    close.assert_close(adaptation.apply(base, x, w, False), expected, close.ROUNDED)


def test_lora_on_slices(base):
    x, w = seeded(ROWS, TOKENS, IN), some_weights(SLICED)
    expected = base(x)
    expected[..., 0:3] += 3.0 * (x @ w["A0"].T) @ w["B0"].T
    expected[..., 5:8] += 3.0 * (x @ w["A1"].T) @ w["B1"].T
    close.assert_close(SLICED.apply(base, x, w, False), expected, close.ROUNDED)


def test_ia3(base):
    x = seeded(ROWS, TOKENS, IN)
    scale = some_weights(IA3())["scale"]
    close.assert_close(IA3().apply(base, x, {"scale": scale}, False), base(x) * scale, close.ROUNDED)
    feedforward = IA3(feedforward=True)
    scale = some_weights(feedforward)["scale"]
    close.assert_close(feedforward.apply(base, x, {"scale": scale}, False), base(x * scale), close.ROUNDED)
    assert IA3().keeps_input and not feedforward.keeps_input


def test_bias(base):
    x, w = seeded(ROWS, TOKENS, IN), some_weights(Bias())
    close.assert_close(Bias().apply(base, x, w, False), base(x) + w["bias"], close.ROUNDED)


class Operations(TorchDispatchMode):
    """What torch is asked to do inside, in order, and whether in place."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("lead", [(), (K,)], ids=str)
def test_a_bias_costs_no_pass_of_its_own(lead):
    with torch.no_grad(), Operations() as done:
        linear(seeded(K * ROWS, IN), seeded(*lead, OUT, IN), seeded(*lead, OUT))
    assert any("mm" in name or name == "linear" for name in done.names) and "add" not in done.names


def test_a_bottleneck_adds_in_place_where_no_gradient_asks(base):
    adaptation, x = Bottleneck(4), seeded(ROWS, IN)
    w = some_weights(adaptation)
    with torch.no_grad(), Operations() as without:
        adaptation.apply(base, x, w, False)
    with Operations() as with_gradients:
        adaptation.apply(base, x, w, False)
    assert [done.names[-1] for done in (without, with_gradients)] == ["add_", "add"]


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=ids)
def test_base_is_called_once(base, adaptation):
    calls = []
    adaptation.apply(lambda x: calls.append(1) or base(x), seeded(ROWS, IN), some_weights(adaptation), True)
    assert calls == [1]


@pytest.mark.parametrize("value", [Weight((2,), "up", zeros), *ADAPTATIONS], ids=lambda value: type(value).__name__)
def test_settings_are_values(value):
    """Nobody changes another's, and a copy with the same settings is equal."""
    with pytest.raises(FrozenInstanceError):
        value.shape = (3,)
    assert replace(value) == value


# -- K sets of weights at once -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(ROWS, IN), (ROWS, TOKENS, IN), (1, TOKENS, IN)], ids=str)
@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=ids)
def test_groups_equal_one_by_one(base, adaptation, shape):
    x, w = seeded(K * shape[0], *shape[1:]), some_weights(adaptation, (K,))
    groups = x.chunk(K)
    alone = [adaptation.apply(base, g, {n: t[k] for n, t in w.items()}, False) for k, g in enumerate(groups)]
    close.assert_close(adaptation.apply(base, x, w, False), torch.cat(alone), close.ROUNDED)


@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2), SLICED], ids=ids)
def test_one_shared_side_among_groups(base, adaptation):
    x, w = seeded(K * ROWS, TOKENS, IN), some_weights(adaptation, (K,))
    shared = {n: t[0] if adaptation.weights(IN, OUT)[n].side == adaptation.sides[1] else t for n, t in w.items()}
    repeated = {n: t.expand(K, *t.shape) if t.dim() < w[n].dim() else t for n, t in shared.items()}
    close.assert_close(
        adaptation.apply(base, x, shared, False), adaptation.apply(base, x, repeated, False), close.ROUNDED
    )


# -- fold ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("adaptation", LINEAR, ids=ids)
def test_fold_equals_apply(adaptation, with_bias):
    base, x, w = nn.Linear(IN, OUT, bias=with_bias), seeded(ROWS, TOKENS, IN), some_weights(adaptation)
    before = base.weight.detach().clone()
    weight, bias = adaptation.fold(w, base.weight.detach(), None if base.bias is None else base.bias.detach())
    close.assert_close(F.linear(x, weight, bias), adaptation.apply(base, x, w, False), close.ROUNDED)
    assert torch.equal(base.weight, before)


def test_a_bottleneck_cannot_be_folded():
    with pytest.raises(ValueError, match=r"cannot be folded.*not linear.*LoRA"):
        Bottleneck(4).fold({}, torch.zeros(OUT, IN), None)


# -- precision and dropout -----------------------------------------------------------------------------


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=ids)
def test_float32_experts_in_a_bfloat16_base(adaptation):
    base = nn.Linear(IN, OUT).to(torch.bfloat16).requires_grad_(False)
    made = layer(adaptation, shared=adaptation.sides[-1:], base=base)
    with torch.no_grad():
        for weight in made.experts.values():
            weight.add_(0.1)
    for selection in (
        None,
        torch.zeros(len(adaptation.sides), dtype=torch.long),
        torch.zeros(2, len(adaptation.sides)).long(),
    ):
        with during({made: {"selection": selection}}):
            out = made(seeded(2, TOKENS, IN).to(torch.bfloat16))
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        for weight in made.experts.values():
            assert weight.dtype == weight.grad.dtype == torch.float32 and weight.grad.any()
            weight.grad = None


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=ids)
def test_autocast(base, adaptation):
    made = layer(adaptation, base=base)
    x = seeded(2, TOKENS, IN)
    with during({made: {"selection": torch.zeros(2, len(adaptation.sides), dtype=torch.long)}}):
        expected = made(x)
        with torch.autocast("cpu", torch.bfloat16):
            out = made(x)
            assert out.dtype == base(x).dtype == torch.bfloat16
    close.assert_close(out.float(), expected, close.BFLOAT)


@pytest.mark.parametrize("adaptation", [Bottleneck(4, dropout=0.5), LoRA(2, dropout=0.5)], ids=ids)
def test_dropout_is_passed_in(base, adaptation):
    x, w = seeded(ROWS, TOKENS, IN), some_weights(adaptation)
    quiet = adaptation.apply(base, x, w, False)
    assert torch.equal(quiet, adaptation.apply(base, x, w, False))
    torch.manual_seed(0)
    noisy = adaptation.apply(base, x, w, True)
    assert not torch.equal(noisy, quiet)
    torch.manual_seed(0)
    assert torch.equal(noisy, adaptation.apply(base, x, w, True))


def test_layer_passes_its_mode_on(base):
    made, x = layer(Bottleneck(4, dropout=0.5), base=base), seeded(ROWS, TOKENS, IN)
    assert torch.equal(made.eval()(x), made(x))
    with during({made: {"selection": None}}):
        assert not torch.equal(made.train()(x), made(x))


# -- configurations and bad settings -------------------------------------------------------------------


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=ids)
def test_config_round_trip(adaptation):
    import json

    assert adaptation_from(json.loads(json.dumps(adaptation.config()))) == adaptation


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bottleneck(0), "bottleneck size = 0: expected a whole number"),
        (lambda: Bottleneck(2.5), "bottleneck size = 2.5: expected a whole number"),
        (lambda: LoRA(-1), "LoRA rank = -1"),
        (lambda: LoRA(dropout=1.0), r"dropout = 1.0: expected a number from 0 up to, not including, 1"),
        (lambda: Bottleneck(dropout=1.0), r"dropout = 1.0: expected a number from 0 up to, not including, 1"),
        (lambda: LoRA(init="zero"), "init 'zero' is not known; expected one of identity, reference"),
        (lambda: Bottleneck(init="zero"), "init 'zero' is not known; expected one of identity, reference"),
        (lambda: Bottleneck(activation="gelo"), "Did you mean 'gelu'"),
        (lambda: LoRA(slices=((4, 2),)).weights(IN, OUT), r"slice \(4, 2\) does not fit.*0..8"),
        (lambda: LoRA(slices=((0, 4), (3, 8))).weights(IN, OUT), r"slice \(3, 8\) does not fit"),
        (lambda: LoRA(slices=((4, 4),)).weights(IN, OUT), r"slice \(4, 4\) does not fit"),
        (lambda: LoRA(slices=((0, 9),)).weights(IN, OUT), r"slice \(0, 9\) does not fit"),
        (lambda: adaptation_from({"kind": "lorra"}), "adaptation 'lorra' is not known.*Did you mean 'lora'"),
        (lambda: adaptation_from({}), "adaptation 'None' is not known"),
        (lambda: adaptation_from({"kind": "lora", "rang": 8}), "setting of lora 'rang' is not known.*'rank'"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
