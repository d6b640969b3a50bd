"""The mixture layer: what each kind of selection means, on its own."""

import close
import pytest
import torch
from torch import nn

from adamix_lab.core.adaptations import IA3, Adaptation, Bias, Bottleneck, LoRA, Weight, zeros
from adamix_lab.core.mixture import MixtureLayer, during, effective, memoized, sizes
from adamix_lab.core.routing import generator_for

IN, OUT, M, ROWS, TOKENS = 6, 8, 4, 3, 5
ADAPTATIONS = [Bottleneck(4), LoRA(2), LoRA(2, slices=((0, 3), (5, 8))), IA3(), IA3(feedforward=True), Bias()]
every_adaptation = pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=str)


def layer(adaptation, shared=(), experts=M, base=None):
    torch.manual_seed(0)
    made = MixtureLayer(base or nn.Linear(IN, OUT), adaptation, experts, frozenset(shared), generator_for(0))
    made.base.requires_grad_(False)
    with torch.no_grad():
        for weight in made.experts.values():
            weight.add_(torch.randn(weight.shape))
    return made.eval()  # in training mode nobody may forget the selection


def x(rows=ROWS):
    return torch.randn(rows, TOKENS, IN, generator=torch.Generator().manual_seed(5))


def under(made, given=None, **state):
    """The layer's output in a call with a selection, switched off, or fanned out."""
    with during({made: state}):
        return made(x() if given is None else given)


def vertex(made, route):
    """By hand: the adaptation with the copies that a route names."""
    weights = {n: w[route[made.side_of[n]] if len(w) > 1 else 0] for n, w in made.experts.items()}
    return made.adaptation.apply(made.base, x(), weights, False)


def routes_of(made, *lead):
    return (
        torch.rand(*lead, len(made.counts()), generator=torch.Generator().manual_seed(3)) * torch.tensor(made.counts())
    ).long()


@every_adaptation
def test_none_is_the_mean_of_the_weights(adaptation):
    made = layer(adaptation)
    mean = {name: weight.mean(0) for name, weight in made.experts.items()}
    close.assert_close(made(x()), adaptation.apply(made.base, x(), mean, False))


@every_adaptation
@pytest.mark.parametrize("share", [False, True], ids=["free", "shared"])
def test_a_route_picks_copies(adaptation, share):
    made = layer(adaptation, adaptation.sides[-1:] if share else ())
    for route in routes_of(made, 6):
        close.assert_close(under(made, selection=route), vertex(made, route.tolist()))


@every_adaptation
@pytest.mark.parametrize("share", [False, True], ids=["free", "shared"])
def test_groups_examples_and_tokens(adaptation, share):
    made = layer(adaptation, adaptation.sides[-1:] if share else ())
    routes = routes_of(made, ROWS)
    expected = torch.stack([vertex(made, route.tolist())[n] for n, route in enumerate(routes)])
    close.assert_close(under(made, selection=routes), expected)  # per example: as many groups as rows
    close.assert_close(under(made, selection=routes[:, None].expand(ROWS, TOKENS, -1)), expected)
    tokens = routes_of(made, ROWS, TOKENS)
    mixed = under(made, selection=tokens)
    for b in range(ROWS):
        for t in range(TOKENS):
            close.assert_close(mixed[b, t], vertex(made, tokens[b, t].tolist())[b, t])


@every_adaptation
def test_points_of_the_mixture(adaptation):
    made = layer(adaptation)
    sides = len(adaptation.sides)
    close.assert_close(under(made, selection=torch.full((sides, M), 1 / M)), made(x()))
    route = routes_of(made)
    corner = torch.nn.functional.one_hot(route, M).float()
    close.assert_close(under(made, selection=corner), vertex(made, route.tolist()))
    points = torch.rand(ROWS, sides, M)
    together = under(made, selection=points)
    for n, point in enumerate(points):
        close.assert_close(together[n], under(made, selection=point)[n])


@every_adaptation
def test_any_weights_at_all(adaptation):
    made = layer(adaptation)
    free = {name: torch.randn(weight.shape[1:]) for name, weight in made.experts.items()}
    close.assert_close(under(made, selection=free), adaptation.apply(made.base, x(), free, False))
    repeated = {name: torch.stack([weight] * ROWS) for name, weight in free.items()}
    with during({made: {"selection": repeated}}):
        assert made.groups() == ROWS
    close.assert_close(under(made, selection=repeated), adaptation.apply(made.base, x(), free, False))


@every_adaptation
def test_fan_out_shares_the_frozen_output(adaptation):
    made, calls = layer(adaptation), []
    made.base.register_forward_hook(lambda *_: calls.append(1))
    routes = routes_of(made, 3)
    expected = torch.stack([vertex(made, route.tolist()) for route in routes])
    calls.clear()
    if adaptation.keeps_input:
        close.assert_close(under(made, selection=routes, fan_out="here"), expected)
        assert calls == [1]
    off = under(made, selection=routes, fan_out="here", enabled=False)
    close.assert_close(off, made.base(x()).expand(3, ROWS, TOKENS, OUT))


@every_adaptation
def test_disabled_is_the_frozen_layer(adaptation):
    made = layer(adaptation)
    assert torch.equal(under(made, enabled=False), made.base(x()))


def test_gradients_reach_the_chosen_copies_only():
    made = layer(LoRA(2), shared=("B",))
    under(made, selection=torch.tensor([2, 0])).square().sum().backward()
    assert [bool(g.any()) for g in made.experts["A"].grad] == [False, False, True, False]
    assert made.experts["B"].grad.any() and made.base.weight.grad is None


def test_one_expert_is_the_plain_module():
    made = layer(Bottleneck(4), experts=1)
    close.assert_close(under(made, selection=torch.zeros(3, 2).long()), made(x()))
    assert made.counts() == (1, 1)


def test_effective_shapes():
    stacked = torch.randn(M, 5, 6)
    assert effective(stacked, 0, None).shape == (5, 6)
    assert effective(stacked, 1, torch.tensor([0, 2])).equal(stacked[2])
    assert effective(stacked, 1, torch.tensor([[0, 2], [1, 3]])).equal(stacked[[2, 3]])
    assert effective(stacked, 0, torch.rand(2, M)).shape == (5, 6)
    assert effective(stacked, 0, torch.rand(7, 2, M)).shape == (7, 5, 6)
    assert effective(stacked[:1], 0, torch.tensor([3])).equal(stacked[0])


def test_rows_that_do_not_divide():
    """Two groups of a batch of three: six rows of fifteen tokens would divide, silently and wrongly."""
    made = layer(LoRA(2))
    with pytest.raises(ValueError, match="2 selections do not divide 3 rows"):
        under(made, torch.randn(3, 4, IN), selection=torch.zeros(2, 2).long())


def test_token_routes_of_another_length():
    made = layer(LoRA(2))
    with pytest.raises(ValueError, match=r"Routes of \[3, 2\] tokens do not fit an input of \[3, 5\]"):
        under(made, selection=torch.zeros(ROWS, 2, 2).long())


def test_a_frozen_layer_that_is_no_linear_map():
    with pytest.raises(TypeError, match=r"LayerNorm cannot be adapted.*pattern"):
        layer(LoRA(2), base=nn.LayerNorm(4))


def test_sizes_ask_no_weight():
    from transformers.pytorch_utils import Conv1D

    assert sizes(nn.Linear(IN, OUT)) == sizes(Conv1D(OUT, IN)) == (IN, OUT)
    made = layer(LoRA(2), base=Conv1D(OUT, IN))
    assert (made.in_features, made.out_features) == (IN, OUT)
    assert made.weight is made.base.weight and made.bias is made.base.bias


class Packed(nn.Module):
    """Like a 4-bit layer: whole numbers inside, bfloat16 outside."""

    in_features, out_features = IN, OUT

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(OUT * IN // 2, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x):
        return torch.ones(*x.shape[:-1], OUT, dtype=x.dtype)


def test_a_packed_base_keeps_its_dtype():
    made = layer(LoRA(2), base=Packed())
    for selection in (None, torch.zeros(2).long(), torch.zeros(ROWS, TOKENS, 2).long()):
        assert under(made, x().bfloat16(), selection=selection).dtype == torch.bfloat16


def test_once():
    calls = []
    remembered = memoized(lambda x: calls.append(1) or x + 1)
    assert remembered(torch.zeros(1)) is remembered(torch.zeros(1)) and calls == [1]


class Wrong(Adaptation):
    kind, sides = "wrong", ("down", "up")

    def weights(self, in_features, out_features):
        return {"a": Weight((1,), "dwon", zeros)}


class Hollow(Wrong):
    def weights(self, in_features, out_features):
        return {"a": Weight((1,), "down", zeros)}


def test_declarations_are_checked():
    with pytest.raises(ValueError, match=r"Side of wrong's weight 'a', 'dwon' is not known.*Did you mean 'down'"):
        layer(Wrong())
    with pytest.raises(ValueError, match="Side 'up' of wrong holds no weight"):
        layer(Hollow())


def test_printed_form():
    assert "down x 4, up x 1" in repr(layer(Bottleneck(4), shared=("up",)))


def test_moving_and_casting():
    made = layer(Bottleneck(4)).double()
    assert made(x().double()).dtype == torch.float64


def test_an_adaptation_that_asks_nothing_of_the_frozen_layer_answers_in_its_own_dtype():
    class Instead(Adaptation):
        kind, sides = "instead", ("all",)

        def weights(self, in_features, out_features):
            return {"w": Weight((out_features, in_features), "all", zeros)}

        def apply(self, base, x, w, training):
            return (x @ w["w"].T).double()

    assert layer(Instead())(x()).dtype == torch.double
