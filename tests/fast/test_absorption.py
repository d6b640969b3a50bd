"""Where one position asks, the last attention makes no keys and values: the same answers, or the way of before."""

from dataclasses import replace

import architectures
import close
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.routing import Router
from adamix_lab.core.sites import ARCHITECTURES
from adamix_lab.fast import blocks
from adamix_lab.fast.blocks import absorption, cut_last_block, cut_unchecked, may_absorb, may_cut, routed_logits
from adamix_lab.fast.tree import tree_logits

FAMILIES = {"bert": tiny.bert, "roberta": tiny.roberta, "distilbert": tiny.distilbert, "electra": tiny.electra}
every_family = pytest.mark.parametrize("name", FAMILIES)


class Keys(TorchFunctionMode):
    """Counts the positions that keys of the last block are made of."""

    def __init__(self, model):
        super().__init__()
        last = blocks._last_block(model, ARCHITECTURES[model.config.model_type])
        key = last.get_submodule(ARCHITECTURES[model.config.model_type].key)
        self.weight, self.made = getattr(key, "base", key).weight, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear and args[1] is self.weight:
            self.made.append(args[0].shape[-2])
        return function(*args, **kwargs or {})


def padded():
    batch = tiny.batch()
    batch["attention_mask"][0, 4:] = 0
    return batch


def trained(mixture, batch):
    """(logits and gradients of two views from one state of the generators, positions that keys were made of)."""
    routes = Router(mixture.space).views(0)
    with torch.no_grad():
        routed_logits(mixture, batch, routes, "shared_prefix")  # the checks of a first use
    torch.manual_seed(3)
    with Keys(mixture.model) as watch:
        logits = routed_logits(mixture, batch, routes, "shared_prefix")
    logits.square().sum().backward()
    return {"logits": logits.detach(), **tiny.gradients(mixture)}, watch.made


@every_family
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("kind", "bound"), [(torch.float32, close.REORDERED), (torch.float64, close.DOUBLE)], ids=str)
def test_logits_and_gradients_are_those_of_keys_and_values_that_are_made(name, dropout, kind, bound, monkeypatch):
    """Draw for draw: the same dropout masks meet the same weights of attention."""
    mixture = tiny.mixed(FAMILIES[name](dropout), Bottleneck(4)).to(kind).train()
    if mixture.model.config._attn_implementation != "sdpa":  # ELECTRA before transformers 5
        pytest.skip("made by another attention")
    assert may_absorb(mixture.model, padded())
    found, keys = trained(mixture, padded())
    monkeypatch.setattr(blocks, "may_absorb", lambda *args: False)
    expected, every = trained(mixture, padded())
    assert (keys, every) == ([], [7])
    close.assert_all_close(found, expected, bound)


@every_family
def test_plain_calls_answer_alike(name):
    model, batch = FAMILIES[name](), padded()
    with torch.no_grad():
        whole = model(**batch).logits
        with cut_last_block(model, batch), Keys(model) as watch:
            close.assert_close(model(**batch).logits, whole)
    assert not watch.made or model.config._attn_implementation != "sdpa"


def test_a_row_without_any_token_gets_what_the_fused_attention_gives(monkeypatch):
    model, batch = tiny.bert().double(), tiny.batch()
    batch["attention_mask"][1] = 0
    with torch.no_grad(), cut_last_block(model, batch):
        found = model(**batch).logits
    with torch.no_grad(), cut_unchecked(model):
        close.assert_close(found, model(**batch).logits, close.DOUBLE)


def test_biases_and_scale_are_seen():
    """Large ones: a key's bias falls out under softmax, a value's counts by weights that dropout has thinned."""
    model, batch = tiny.bert(0.5).double().train().requires_grad_(False), tiny.batch()
    assert may_absorb(model)
    attention = model.bert.encoder.layer[-1].attention.self
    with torch.no_grad():
        for layer in (attention.query, attention.key, attention.value):
            layer.bias.normal_(0, 3)
        answers = []
        for way in (cut_last_block, cut_unchecked):
            torch.manual_seed(1)
            with way(model):
                answers.append(model(**batch).logits)
    close.assert_close(*answers, close.DOUBLE)


def test_the_tree_absorbs_too():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4), experts=2)
    tree_logits(mixture, tiny.batch())  # the checks of a first use
    with Keys(mixture.model) as watch:
        found = tree_logits(mixture, tiny.batch())
    plain = [mixture(selection=route, **tiny.batch()).logits for route in mixture.space.enumerate()]
    close.assert_close(found, torch.stack(plain, 1))
    assert watch.made == []


# -- the way of before --------------------------------------------------------------------------------------


def test_a_site_at_query_or_value_is_not_absorbed():
    for targets in (None, "self.key", "self.query"):
        mixture = tiny.mixed(tiny.bert(), LoRA(2), targets=targets)
        assert may_cut(mixture.model) and not absorption(mixture.model) and not may_absorb(mixture.model)
    below = tiny.mixed(tiny.bert(), LoRA(2), blocks=[0, 1])
    assert may_absorb(below.model)


@pytest.mark.parametrize(
    "model",
    [tiny.bert(cls="BertForTokenClassification"), tiny.gpt2(), tiny.albert(), tiny.t5()],
    ids=lambda m: type(m).__name__,
)
def test_other_heads_and_models_make_keys_and_values(model):
    assert not may_absorb(model)


def test_a_hook_sees_what_it_would_see():
    model, seen = tiny.bert(), []
    model.bert.encoder.layer[-1].attention.self.key.register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad(), cut_last_block(model, tiny.batch()):
        model(**tiny.batch())
    assert len(seen) == 1 and seen[0].shape[1] == 7 and torch.isfinite(seen[0]).all()


def test_keys_that_train_are_made_as_all_their_weights_have_gradients():
    model, batch = tiny.bert(), tiny.batch()
    with cut_last_block(model, batch), Keys(model) as watch:
        model(**batch).logits.sum().backward()
    attention = model.bert.encoder.layer[-1].attention.self
    assert watch.made == [7] and all(p.grad is not None for p in attention.parameters())


@pytest.mark.parametrize("kind", ["bfloat16", "autocast"])
def test_fewer_digits_make_keys_and_values(kind):
    model, batch = tiny.bert().requires_grad_(False), tiny.batch()
    model = model.bfloat16() if kind == "bfloat16" else model
    cast = torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast")
    with cast, cut_last_block(model, batch), Keys(model) as watch:
        model(**batch)
    assert watch.made == [7]


def test_eager_attention_is_not_permitted_to_absorb():
    model, batch = tiny.bert(), tiny.batch()
    if not hasattr(model, "set_attn_implementation"):
        pytest.skip("before transformers 4.53 the class of the attention is chosen at the start")
    model.set_attn_implementation("eager")
    whole = model(**batch).logits
    assert may_cut(model, batch) and not may_absorb(model, batch)
    with cut_last_block(model, batch):
        close.assert_close(model(**batch).logits, whole)


def test_a_table_that_proposes_wrongly_is_overruled(monkeypatch):
    wrong = ARCHITECTURES["bert"]
    monkeypatch.setitem(ARCHITECTURES, "bert", replace(wrong, key=wrong.value, value=wrong.key))
    model = architectures.build("MiniLM").requires_grad_(False)
    model.config.absorbs = "wrongly"  # a verdict of its own
    batch = architectures.inputs(model)
    whole = model(**batch).logits
    assert may_cut(model, batch) and not may_absorb(model, batch)
    with cut_last_block(model, batch):
        close.assert_close(model(**batch).logits, whole)
