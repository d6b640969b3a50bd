"""Two routed views in one call, three ways: the same function with dropout off; named differences with dropout on."""

import warnings
from importlib.metadata import version
from types import SimpleNamespace

import close
import pytest
import tiny
import torch
import torch.nn.functional as F

from adamix_lab.core import views as plain
from adamix_lab.core.adaptations import IA3, Bottleneck, LoRA
from adamix_lab.core.objective import without_labels
from adamix_lab.core.routing import Router
from adamix_lab.core.views import flatten_views
from adamix_lab.fast import blocks
from adamix_lab.fast.blocks import may_absorb, routed_logits
from adamix_lab.fast.prefix import cached_prefix

WAYS = ["independent", "shared_prefix", "same_dropout"]
TOKENS = 7  # of a tiny batch
MODELS = {
    **tiny.FAMILIES,
    "electra": tiny.electra,
    "bert-mlm": lambda dropout=0.0: tiny.bert(dropout, "BertForMaskedLM"),
    "bert-tokens": lambda dropout=0.0: tiny.bert(dropout, "BertForTokenClassification"),
    "roberta-mlm": lambda dropout=0.0: tiny.roberta(dropout, "RobertaForMaskedLM"),
    "distilbert-mlm": lambda dropout=0.0: tiny.distilbert(dropout, "DistilBertForMaskedLM"),
    "gpt2-classifier": lambda dropout=0.0: tiny.gpt2(dropout, "GPT2ForSequenceClassification", num_labels=3),
    "llama-classifier": lambda dropout=0.0: tiny.llama(dropout, "LlamaForSequenceClassification"),
}
every_model = pytest.mark.parametrize("name", MODELS)
SETTINGS = {
    "ffn": (Bottleneck(4), {}),
    "ffn-shared": (Bottleneck(4), {"share": "up"}),
    "ffn-top": (Bottleneck(4), {"blocks": [-1]}),
    "qv": (LoRA(2), {"share": "B"}),
    "qv-top": (LoRA(2), {"blocks": [-1]}),
    "ffn-input": (IA3(feedforward=True), {}),
}


def views_and_gradients(mixture, routes, way, batch, ways=None):
    logits = plain.routed_logits(mixture, batch, routes, way, ways or blocks.WAYS)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(9))
    (logits * weights).sum().backward()
    return logits.detach(), tiny.gradients(mixture)


@every_model
@pytest.mark.parametrize("setting", SETTINGS)
def test_three_ways_are_one_function(name, setting):
    adaptation, more = SETTINGS[setting]
    mixture = tiny.mixed(MODELS[name](), adaptation, **more).double().train()  # float64: no rounding hides a fault
    routes, batch = Router(mixture.space, seed=2).views(0, 3), tiny.inputs(mixture.model)
    expected, gradients = views_and_gradients(mixture, routes, "same_dropout", batch)
    assert not torch.allclose(expected[0], expected[1])
    alone = torch.stack([mixture(selection=route, **batch).logits for route in routes])
    assert torch.equal(expected, alone.detach())
    for way in ("independent", "shared_prefix"):
        logits, found = views_and_gradients(mixture, routes, way, batch)
        close.assert_close(logits, expected, close.DOUBLE)
        close.assert_all_close(found, gradients, close.DOUBLE)


@every_model
@pytest.mark.parametrize(("rows", "views"), [(1, 1), (1, 2), (2, 2), (3, 1), (7, 3)])
def test_any_number_of_rows_and_views(name, rows, views):
    """Also rows = tokens and rows = 1, where shapes are easily mistaken."""
    mixture = tiny.mixed(MODELS[name](), LoRA(2)).double()  # in float32 a t5 of one row is 3e-5 apart
    routes, batch = Router(mixture.space, seed=2).views(0, views), tiny.inputs(mixture.model, rows, 7)
    with torch.no_grad():
        alone = torch.stack([mixture(selection=route, **batch).logits for route in routes])
        for way in WAYS:
            close.assert_close(routed_logits(mixture, batch, routes, way), alone, close.DOUBLE)


@pytest.mark.parametrize("per", ["example", "token"])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "albert"])
def test_finer_routes_in_two_views(name, per):
    mixture = tiny.mixed(MODELS[name](), Bottleneck(4), share="up")
    routes, batch = Router(mixture.space, per=per).views(0, 2, rows=4, tokens=7), tiny.batch()
    ways = [routed_logits(mixture, batch, routes, way) for way in WAYS]
    for logits in ways[1:]:
        close.assert_close(logits, ways[0])
    assert not torch.allclose(ways[0][0], ways[0][1])
    if per == "example":
        for n in range(4):
            row = {key: value[n : n + 1] for key, value in batch.items()}
            alone = mixture(selection=routes[1, n], **row).logits[0]
            close.assert_close(ways[0][1, n], alone)


# -- dropout on ------------------------------------------------------------------------------------------


@every_model
def test_same_dropout_leaves_routing_noise_alone(name):
    mixture = tiny.mixed(MODELS[name](0.3), Bottleneck(4, dropout=0.3)).train()
    route, batch = Router(mixture.space).route(0), tiny.inputs(mixture.model)
    equal = torch.stack([route, route])
    first, second = routed_logits(mixture, batch, equal, "same_dropout")
    assert torch.equal(first, second)
    again = routed_logits(mixture, batch, equal, "same_dropout")
    assert not torch.allclose(again[0], first)  # the generator has moved on: the next step has other masks
    first, second = routed_logits(mixture, batch, equal, "independent")
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_a_shared_prefix_shares_its_masks(name):
    """Equal routes, sites in the last block only: what differs is that block's dropout, not the prefix's."""
    model = MODELS[name](0.3)
    mixture = tiny.mixed(model, Bottleneck(4), blocks=[-1]).train()
    route = Router(mixture.space).route(0)
    seen = []
    path = mixture.mixture.sites[0]
    mixture.model.get_submodule(path).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    routed_logits(mixture, tiny.batch(), torch.stack([route, route]), "shared_prefix")
    assert len(seen) == 1 and len(seen[0]) == 4  # the site saw the batch once, for both views
    seen.clear()
    routed_logits(mixture, tiny.batch(), torch.stack([route, route]), "independent")
    assert len(seen) == 1 and len(seen[0]) == 8 and not torch.allclose(seen[0][:4], seen[0][4:])


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_above_the_prefix_masks_differ(name):
    mixture = tiny.mixed(MODELS[name](0.3), Bottleneck(4)).train()
    route = Router(mixture.space).route(0)
    first, second = routed_logits(mixture, tiny.batch(), torch.stack([route, route]), "shared_prefix")
    assert not torch.allclose(first, second)


# -- independent views whose last block is cut: one expert and two masks are R-Drop ---------------------------


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize(
    ("kind", "bounds"),
    [(torch.float32, (close.REORDERED, close.GRADIENTS)), (torch.float64, (close.DOUBLE, close.DOUBLE))],
    ids=str,
)
def test_cut_views_are_the_whole_ones(name, kind, bounds):
    mixture, seen = tiny.mixed(MODELS[name](), Bottleneck(4)).to(kind).train(), []
    routes, batch = Router(mixture.space, seed=2).views(0), tiny.batch()
    whole, gradients = views_and_gradients(mixture, routes, "independent", batch, plain.WAYS)
    last = mixture.model.get_submodule(mixture.mixture.sites[-1])
    last.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2]))
    logits, found = views_and_gradients(mixture, routes, "independent", batch)
    assert seen == [(8, 1)]  # every row of both views, at the position that is read
    close.assert_close(logits, whole, bounds[0])
    close.assert_all_close(found, gradients, bounds[1])


class Masks:
    """Stands in for dropout: masks by call, row and feature (or row, head and token asked), alike at each position.

    So a whole pass and a cut one meet the same masks where they compute the same thing.
    """

    def __init__(self):
        self.calls = []

    def __call__(self, x, p=0.5, training=True, inplace=False):
        one_query = x.dim() == 3 and x.shape[-1] == TOKENS  # weights of an attention that absorbs, [B, H, T]
        positions = None if one_query else x.dim() - 2 if x.dim() > 2 else None
        shape = [size for axis, size in enumerate(x.shape) if axis != positions]
        keep = torch.rand(shape, generator=torch.Generator().manual_seed(len(self.calls)), dtype=x.dtype) >= p
        self.calls.append((p, training, shape))
        return x * (keep if positions is None else keep.unsqueeze(positions)) / (1 - p)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra"])
def test_cut_views_meet_the_masks_of_whole_ones(name, monkeypatch):
    """Masks are drawn for each row of each view, in the order and with the rates of the whole model."""
    adapted = [-1] if name == "distilbert" else [-2, -1]  # one whole block: of -2 the end alone is left, but there
    mixture = tiny.mixed(MODELS[name](0.3), Bottleneck(4, dropout=0.2), experts=1, blocks=adapted).double().train()
    top, cache = cached_prefix(mixture)
    batch, routes = cache(tiny.batch()), Router(mixture.space).views(0)
    if version("transformers") < "5" or not may_absorb(top.model, batch):
        pytest.skip("before transformers 5 the way of the attention is chosen when BERT is built")
    found = {}
    for way, ways in (("cut", None), ("whole", plain.WAYS)):
        if way == "whole":  # the fused attention draws its masks out of reach
            mixture.model.set_attn_implementation("eager")
        views_and_gradients(top, routes, "independent", batch, ways)  # the checks of a first use
        masks = Masks()
        monkeypatch.setattr(F, "dropout", masks)
        found[way] = *views_and_gradients(top, routes, "independent", batch, ways), masks.calls
        monkeypatch.undo()
    (logits, gradients, masks), (whole, expected, others) = found["cut"], found["whole"]
    assert masks == others and {p for p, *_ in masks} == {0.2, 0.3}
    assert all(training and shape[0] == 8 for _, training, shape in masks)
    close.assert_close(logits, whole, close.DOUBLE)
    close.assert_all_close(gradients, expected, close.DOUBLE)
    assert not close.is_close(logits[0], logits[1])  # one route: the masks alone set the views apart


# -- edges and refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_disabled_in_every_way(way):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    routes = Router(mixture.space).views(0)
    with mixture.disabled():
        expected = mixture(**tiny.batch()).logits
        for logits in routed_logits(mixture, tiny.batch(), routes, way):
            close.assert_close(logits, expected)


def test_nothing_is_left_behind():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    before = mixture(**tiny.batch()).logits
    routed_logits(mixture, tiny.batch(), Router(mixture.space).views(0), "shared_prefix")
    with pytest.raises(RuntimeError):  # a pass that fails on its way
        routed_logits(mixture, {"inputs_embeds": torch.zeros(4, 7, 3)}, Router(mixture.space).views(0), "shared_prefix")
    assert torch.equal(mixture(**tiny.batch()).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mixture.modules())
    assert not any(layer.fan_out != "none" or layer.selection is not None for layer in mixture.sites.values())


@pytest.mark.parametrize("way", WAYS)
def test_routes_that_do_not_fit(way):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    cases = [
        (
            mixture.space.fixed(0),
            r"shape \[3, 2\] do not fit: expected \[views, sites, sides\].*route\[None\]",
        ),
        (torch.full((2, 3, 2), 4), "Expert 4 at site 0, side 0 is out of range"),
        (torch.zeros(2, 2, 2).long(), r"expected \[sites, sides\] = \[3, 2\]"),
        (torch.zeros(2, 3, 2), "expected whole numbers"),
    ]
    for routes, message in cases:
        with pytest.raises(ValueError, match=message):
            routed_logits(mixture, tiny.batch(), routes, way)


@pytest.mark.parametrize("views", [1, 2])
def test_passes_of_their_own_are_told_where_there_are_several(views):
    mixture = tiny.mixed(tiny.t5(), Bottleneck(4), targets="encoder.block.*.layer.1.DenseReluDense.wo")
    mixture.takes_groups = lambda batch: SimpleNamespace(permitted=False, reason="for a test")
    batch, routes = without_labels(mixture.model, tiny.inputs(mixture.model)), Router(mixture.space).views(0, views)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        logits = routed_logits(mixture, batch, routes)
    assert len(logits) == views and len(told) == views - 1
    assert all("of its own in T5" in str(one.message) and one.filename == __file__ for one in told)


def test_rows_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\[2, 5, 3, 2\] do not fit 4 rows: expected \[views, rows"):
        flatten_views(torch.zeros(2, 5, 3, 2).long(), rows=4)


def test_unknown_way():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    with pytest.raises(ValueError, match=r"way of viewing 'shared_prefx' is not known.*Did you mean 'shared_prefix'"):
        routed_logits(mixture, tiny.batch(), Router(mixture.space).views(0), "shared_prefx")
