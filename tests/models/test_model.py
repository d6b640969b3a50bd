"""Attaching to Hugging Face models, selecting, switching tasks, and coming off without a trace."""

import copy
import pickle

import close
import pytest
import tiny
import torch

from adamix_lab.core.adaptations import Bias, Bottleneck, LoRA
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.core.routing import Router
from adamix_lab.models.model import attach, detach

every_family = pytest.mark.parametrize("family", tiny.FAMILIES)


# -- a model with mixtures is still that model -----------------------------------------------------------


@every_family
@pytest.mark.parametrize("adaptation", [Bottleneck(4), LoRA(2)], ids=["ffn", "qv"])
def test_attach_and_detach_bit_for_bit(family, adaptation):
    model = tiny.FAMILIES[family]()
    next(model.parameters()).requires_grad_(False)  # a mixed pattern must come back, too
    model.train()
    next(model.children()).eval()
    before, before_modes, before_classes = tiny.state(model), tiny.modes(model), tiny.classes(model)
    reference = copy.deepcopy(model)
    mixture = tiny.mixed(model, adaptation, experts=3)
    assert all(mixture.model.get_submodule(path).training == before_modes[path] for path in mixture.sites)
    with torch.no_grad():
        for _, parameter in mixture.head_parameters():
            parameter.add_(1.0)  # training
    assert mixture.model is model and detach(mixture) is model
    assert (
        tiny.same(before, tiny.state(model))
        and tiny.modes(model) == before_modes
        and tiny.classes(model) == before_classes
    )
    assert "save_pretrained" not in model.__dict__
    assert torch.equal(tiny.logits(model.eval()), tiny.logits(reference.eval()))


@every_family
def test_only_experts_and_head_train(family):
    mixture = attach(tiny.FAMILIES[family](), Bottleneck(4))
    trained = {id(p) for p in mixture.parameters() if p.requires_grad}
    meant = [*mixture.expert_parameters(), *mixture.head_parameters()]
    assert trained == {id(p) for _, p in meant}
    assert not any(p.requires_grad for _, p in attach(tiny.bert(), Bias(), train_head=False).head_parameters())


@every_family
def test_disabled_is_the_base_bit_for_bit(family):
    model = tiny.FAMILIES[family]()
    expected = tiny.logits(model)
    mixture = tiny.mixed(model, Bottleneck(4))
    assert not torch.equal(tiny.logits(mixture), expected)
    with mixture.disabled():
        assert torch.equal(tiny.logits(mixture), expected)
        assert torch.equal(tiny.logits(mixture, selection=mixture.space.fixed(1)), expected)
    assert not torch.equal(tiny.logits(mixture), expected)


@every_family
def test_selections_by_model(family):
    """K routes on a repeated batch are K passes; without one it is the merge, the same twice."""
    mixture = tiny.mixed(tiny.FAMILIES[family](), LoRA(2), share="B")
    routes = Router(mixture.space).views(0, 2)
    batch = tiny.inputs(mixture.model)
    with torch.no_grad():
        alone = torch.cat([mixture(selection=route, **batch).logits for route in routes])
        repeated = {name: value.repeat(2, 1) for name, value in batch.items()}
        close.assert_close(mixture(selection=routes, **repeated).logits, alone)
        assert not torch.equal(*alone.chunk(2))
        merged = mixture(**batch).logits
        assert torch.equal(merged, mixture(**batch).logits)
        close.assert_close(merged, mixture(selection=mixture.space.barycentre(), **batch).logits)


def test_weights_by_site():
    mixture = tiny.mixed(tiny.bert(), LoRA(2), targets="attention.self.query")
    weights = {path: layer.weights(torch.tensor([1, 2])) for path, layer in mixture.sites.items()}
    route = torch.tensor([[1, 2]] * 3)
    close.assert_close(tiny.logits(mixture, selection=weights), tiny.logits(mixture, selection=route))
    weights.popitem()
    with pytest.raises(ValueError, match=r"Weights are missing for site 'bert.encoder.layer.2"):
        tiny.logits(mixture, selection=weights)


def test_select_puts_back_what_was_there():
    mixture = tiny.mixed(tiny.bert(), LoRA(2))
    outer, inner = mixture.space.fixed(1), mixture.space.fixed(2)
    expected = tiny.logits(mixture, selection=outer)
    with mixture.select(outer):
        assert torch.equal(mixture.model(**tiny.batch()).logits, expected)
        with pytest.raises(RuntimeError), mixture.select(inner):
            raise RuntimeError
        assert torch.equal(mixture.model(**tiny.batch()).logits, expected)
    assert all(layer.selection is None for layer in mixture.sites.values())


def test_merging_is_never_cached():
    """The authors' LoRA merged once and served stale weights ever after."""
    mixture = tiny.mixed(tiny.bert(), LoRA(2))
    first = tiny.logits(mixture.eval())
    mixture.train()
    tiny.shake(mixture, seed=2)
    mixture.eval()
    second = tiny.logits(mixture)
    assert not torch.equal(first, second)
    assert mixture.state_dict().keys() == attach(tiny.bert(), LoRA(2)).state_dict().keys()


# -- refusals: each leaves the model as it was -----------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 0}, "experts = 0: expected a whole number from 1 to 1,024"),
        ({"experts": -2}, "experts = -2"),
        ({"experts": 2.0}, "experts = 2.0: expected a whole number"),
        (
            {"share": "upp"},
            r"Side to share for bottleneck 'upp' is not known; expected one of down, up\. Did you mean 'up'",
        ),
        ({"share": ["up", "B"]}, "Side to share for bottleneck 'B' is not known"),
        (
            {"targets": "encoder.layers.*.output.dense"},
            r"matches no module.*Near misses: .*encoder\.layer\.\*\.output\.dense",
        ),
        ({"targets": []}, "targets is empty"),
    ],
)
def test_bad_requests(settings, message):
    model = tiny.bert()
    before = tiny.state(model)
    with pytest.raises(ValueError, match=message):
        attach(model, Bottleneck(4), **settings)
    assert tiny.same(before, tiny.state(model))


@pytest.mark.parametrize(
    ("adaptation", "targets", "error"),
    [
        (LoRA(2), ["attention.self.query", "LayerNorm"], TypeError),
        (LoRA(2), "layer.*", TypeError),
        (LoRA(2, slices=((0, 20),)), ["output.dense", "intermediate.dense"], ValueError),
    ],
)
def test_a_site_that_does_not_suit_leaves_the_model_whole(adaptation, targets, error):
    model = tiny.bert()
    before, before_classes = tiny.state(model), tiny.classes(model)
    with pytest.raises(error, match=r"Site 'bert\..*': .*(cannot be adapted|does not fit)"):
        attach(model, adaptation, targets=targets)
    assert tiny.same(before, tiny.state(model)) and tiny.classes(model) == before_classes


def test_attach_twice():
    mixture = attach(tiny.bert(), LoRA(2))
    for model in (mixture, mixture.model):
        with pytest.raises(ValueError, match=r"already holds mixtures.*[Dd]etach.*add_task"):
            attach(model, LoRA(2))
    attach(detach(mixture), LoRA(2))


def test_routes_of_the_wrong_shape():
    mixture = attach(tiny.bert(), Bottleneck(4), share="up")
    for route in (
        torch.zeros(2, 2).long(),
        torch.tensor([[4, 0]] * 3),
        torch.tensor([[0, 1]] * 3),
        torch.zeros(3, 2),
    ):
        with pytest.raises(ValueError, match=r"does not fit|out of range"):
            mixture(selection=route, **tiny.batch())
    with pytest.raises(ValueError, match="3 selections do not divide 4 rows"):
        mixture(selection=torch.zeros(3, 3, 2).long(), **tiny.batch(4))


def test_saving_by_the_base_librarys_call(tmp_path):
    mixture = attach(tiny.bert(), Bottleneck(4))
    with pytest.raises(RuntimeError, match=r"save_pretrained.*expected adamix_lab.save.*detach"):
        mixture.model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    mixture.save_pretrained(tmp_path / "mixture")  # the mixture's own is `save`
    assert (tmp_path / "mixture" / "adamix.json").exists()
    detach(mixture).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").exists()


# -- copies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@every_family
def test_copies_stand_alone(family, copied):
    mixture = tiny.mixed(tiny.FAMILIES[family](), Bottleneck(4))
    if mixture.head_paths:
        mixture.add_task("other", num_labels=2)
        mixture.switch("default")
    route, expected = mixture.space.fixed(1), tiny.logits(mixture)
    twin = copied(mixture)
    routed = tiny.logits(mixture, selection=route)
    tiny.shake(mixture)
    assert torch.equal(tiny.logits(twin), expected) and torch.equal(tiny.logits(twin, selection=route), routed)
    assert twin._tasks["default"].experts.keys() == dict(twin.sites).keys()
    assert next(iter(twin._tasks["default"].experts.values())) is next(iter(twin.sites.values())).experts
    bare = detach(twin)
    assert torch.equal(tiny.logits(bare), tiny.logits(tiny.FAMILIES[family]()))


def test_a_copy_after_an_evaluation_with_gradients():
    """The authors' model cannot be copied then."""
    mixture = attach(tiny.bert(), Bottleneck(4))
    mixture(**tiny.batch()).logits.sum()
    copy.deepcopy(mixture)


# -- particular models -----------------------------------------------------------------------------------


def test_t5_reads_the_weight_of_wo():
    """Its FFN casts to wo.weight's dtype: with float32 wo in a bfloat16 model that must go on."""
    model = tiny.t5().to(torch.bfloat16)
    mixture = tiny.mixed(model, Bottleneck(4))
    for layer in mixture.sites.values():
        assert layer.weight is layer.base.weight and layer.weight.dtype == torch.bfloat16
        assert {p.dtype for p in layer.experts.values()} == {torch.float32}
    assert tiny.logits(mixture, selection=mixture.space.fixed(1)).dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["gpt2", "t5", "llama"])
def test_one_selection_per_generation(family):
    mixture = tiny.mixed(tiny.FAMILIES[family](), Bottleneck(4), share="up")
    ids, seen = tiny.batch(2, 4, pad=False)["input_ids"], []
    layer = list(mixture.sites.values())[-1]
    layer.register_forward_pre_hook(lambda module, args: seen.append(module.selection))
    route = mixture.space.fixed(2)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    made = mixture.generate(input_ids=ids, attention_mask=torch.ones_like(ids), selection=route, **settings)
    assert len(seen) >= 4 and all(torch.equal(selection, route[-1]) for selection in seen)
    with mixture.select(route):
        assert torch.equal(made, mixture.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings))
    seen.clear()
    mixture.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    assert seen and all(selection is None for selection in seen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_experts_in_a_narrow_base(dtype):
    mixture = attach(tiny.bert().to(dtype), LoRA(2))
    assert {p.dtype for _, p in mixture.expert_parameters()} == {torch.float32}
    out = mixture(selection=Router(mixture.space).route(0), **tiny.batch()).logits
    assert out.dtype == torch.float32  # the head's, which trains
    assert attach(tiny.gpt2().to(dtype), LoRA(2))(**tiny.batch()).logits.dtype == dtype
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for _, p in mixture.expert_parameters())


def test_a_headless_model():
    mixture = tiny.mixed(tiny.bert(cls="BertModel"), LoRA(2))
    assert mixture.head == {} and mixture(**tiny.batch()).last_hidden_state.shape == (4, 7, tiny.WIDTH)


def test_layers_are_what_they_say():
    mixture = attach(tiny.bert(), Bottleneck(4), share="up")
    assert all(isinstance(layer, MixtureLayer) and layer.counts() == (4, 1) for layer in mixture.sites.values())
    assert mixture.space.counts == ((4, 1),) * 3
    names = [name for name, _ in mixture.expert_parameters()]
    assert names[:2] == [
        "bert.encoder.layer.0.output.dense.down",
        "bert.encoder.layer.0.output.dense.down_bias",
    ]


@pytest.mark.parametrize("number", [0, -1, 2.0, True])
def test_a_task_of_no_classes_is_refused_before_anything_changes(number):
    mixture = attach(tiny.bert(), Bottleneck(4))
    with pytest.raises(ValueError, match="num_labels = "):
        mixture.add_task("other", number)
    assert mixture.tasks == ["default"] and mixture.config.num_labels == tiny.LABELS


def test_generate_inside_select_asks_whether_routes_may_share_a_call():
    from transformers import XLNetConfig, XLNetLMHeadModel

    settings = {"vocab_size": tiny.VOCABULARY, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}
    model = tiny.build(XLNetLMHeadModel, XLNetConfig, **settings)
    mixture = tiny.mixed(model, Bottleneck(4), experts=2, targets="ff.layer_2")
    routes = torch.stack([mixture.space.fixed(0), mixture.space.fixed(1)])
    ids = tiny.batch(2, 6)["input_ids"]  # tokens stand first: two groups of six rows would mix them
    for selection in (routes, None):
        with mixture.select(routes), pytest.raises(ValueError, match="does not take 2 routes in one call"):
            mixture.generate(ids, selection=selection, max_new_tokens=2, do_sample=False)
