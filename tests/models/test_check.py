"""The model is asked: sites that are never called are refused, several routes share a call only where that is right."""

import random
import warnings
from contextlib import contextmanager

import architectures
import close
import numpy
import pytest
import tiny
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.errors import LabError
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.fast.blocks import WAYS, cut_last_block, may_cut, routed_logits
from adamix_lab.models import check
from adamix_lab.models.model import attach


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(check, "_KNOWN", {})


# -- is every site called? -----------------------------------------------------------------------------------


class Reads(nn.Module):
    """One layer is called, the weight of another is read, a third is forgotten."""

    def __init__(self):
        super().__init__()
        self.called, self.read, self.forgotten = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        return nn.functional.linear(self.called(x), self.read.weight)


class TrainsElsewhere(Reads):
    def forward(self, x):
        return nn.functional.linear(x, self.read.weight) if self.training else self.read(x)


@pytest.mark.parametrize(
    ("build", "targets", "message"),
    [
        (Reads, "read", r"Site 'read' cannot be adapted: in evaluation mode its weight is read by Reads"),
        (Reads, ["called", "read"], r"Site 'read' cannot be adapted.*Expected layers that are called: targets="),
        (TrainsElsewhere, "read", r"in training mode its weight is read by TrainsElsewhere"),
        (Reads, "forgotten", r"Reads calls none of the sites \('forgotten'\)"),
        (lambda: architectures.build("SigLIP"), "head.attention.out_proj", r"weight is read by MultiheadAttention"),
        (architectures.Own, "out_proj", r"weight is read by MultiheadAttention"),
        (architectures.Own, "linear1", r"TransformerEncoderLayer.*set_fastpath_enabled\(False\) before attach"),
    ],
)
def test_a_layer_that_is_not_called_is_refused_and_the_model_left_as_it_was(build, targets, message):
    model = build().eval()
    before, classes = tiny.state(model), tiny.classes(model)
    with pytest.raises(LabError, match=message):
        attach(model, LoRA(2), targets=targets)
    assert tiny.same(before, tiny.state(model)) and classes == tiny.classes(model)


def test_the_remedy_for_fused_layers_works():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        mixture = tiny.mixed(architectures.Own(), LoRA(2), targets="linear2").eval()
        batch = architectures.inputs(mixture.model)
        with torch.no_grad():
            first, second = routed_logits(mixture, batch, Router(mixture.space).views(0))
        assert not torch.allclose(first, second)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_what_an_input_does_not_reach_is_named_not_refused():
    with pytest.warns(UserWarning, match=r"Whether Reads calls 'forgotten' is not known: no input made up reaches it"):
        attach(Reads(), LoRA(2), targets=["called", "forgotten"])


def test_weights_on_meta_are_said_not_refused():
    with pytest.warns(UserWarning, match=r"Whether Reads calls its sites is not known: some weights are on the meta"):
        mixture = attach(Reads().to("meta"), LoRA(2), targets="called")
    assert len(mixture.sites) == 1


def test_a_model_that_takes_what_nobody_can_guess_is_asked_in_parts():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = architectures.Own()

        def forward(self, request):
            return self.inner(request["ids"])

    with pytest.raises(LabError, match=r"'inner.encoder.layers.0.self_attn.out_proj' cannot be adapted"):
        attach(Odd().eval(), LoRA(2), targets="out_proj")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(Odd(), LoRA(2), targets="classifier")


# -- nothing is left behind ----------------------------------------------------------------------------------


def test_a_check_leaves_no_trace():
    class Noisy(architectures.Own):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(architectures.WIDTH)

        def forward(self, input_ids):
            numpy.random.rand(random.randint(1, 3))
            out = super().forward(input_ids)
            return type(out)(logits=out.logits + torch.rand(1) * self.norm(torch.randn(4, architectures.WIDTH)).mean())

    model = Noisy().train()
    model.encoder.eval()
    seen = []
    model.classifier.register_forward_hook(lambda *args: seen.append(args))
    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    draws = torch.rand(1), random.random(), numpy.random.rand()
    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    before, modes = tiny.state(model), tiny.modes(model)
    mixture = attach(model, LoRA(2), targets="classifier", train_head=False)
    check.takes_groups(mixture, architectures.inputs(model))
    after = {name.replace("classifier.base", "classifier"): value for name, value in tiny.state(model).items()}
    assert all(torch.equal(after[name][0], value) for name, (value, _) in before.items())
    assert {name: mode for name, mode in tiny.modes(model).items() if name in modes} == modes and not seen
    assert draws == (torch.rand(1), random.random(), numpy.random.rand())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("way", ["independent", "shared_prefix"])
def test_training_draws_the_same_dropout_with_and_without_a_check(way):
    found = []
    for _ in range(2):  # the first asks, the second remembers
        mixture = tiny.mixed(tiny.bert(dropout=0.3), Bottleneck(4, dropout=0.3)).train()
        torch.manual_seed(0)
        batch = {**tiny.batch(), "labels": tiny.labels()}
        losses = Objective(mixture, Consistency(views=way), ways=WAYS)(batch, Router(mixture.space).views(0))
        losses.total.backward()
        found.append((losses.total.detach(), tiny.gradients(mixture)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_a_sweep_pays_once(monkeypatch):
    made, twin = [], check.twin
    monkeypatch.setattr(check, "twin", lambda model: made.append(model) or twin(model))
    for seed in range(3):
        mixture = attach(tiny.bert(), Bottleneck(4), experts=2 + seed, seed=seed)
        routed_logits(mixture, tiny.batch(), Router(mixture.space).views(0))
    assert (
        len(made) == 3
    )  # one for attach, two for the views: the cut of the last block, and several routes in one call
    routed_logits(attach(tiny.bert(), LoRA(2)), tiny.batch(), torch.zeros(2, 6, 2).long())
    assert len(made) == 6  # other sites are other questions


# -- several routes in one call ------------------------------------------------------------------------------


def longformer(rows=4, **more):
    model = architectures.build("Longformer")
    return attach(model, LoRA(4), targets=architectures.QUERY_VALUE, **more), architectures.inputs(model)


def test_experts_that_still_agree_do_not_hide_a_wrong_axis():
    """LoRA's B starts at zero, where every route is the same; and rows times views are as many as tokens here."""
    mixture, batch = longformer()
    known = check.takes_groups(mixture, batch)
    assert not known.permitted and "site 'longformer.encoder.layer.0.attention.self.query'" in known.reason


def test_a_pass_a_route_is_taken_and_said_where_several_do_not_fit_into_one_and_nowhere_else():
    for (mixture, batch), views, passes in (
        ((tiny.mixed(tiny.bert(), LoRA(4)), tiny.batch()), 2, 1),
        (longformer(), 1, 1),
        (longformer(), 2, 2),
    ):
        routes, calls = Router(mixture.space).views(0, views, 4, 8), []
        mixture.takes_groups(batch)  # is asked beforehand, with calls of its own
        with mixture.model.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1)), said_aloud() as said:
            routed_logits(mixture, batch, routes, "independent")
        assert len(calls) == passes and len(said) == passes - 1


@contextmanager
def said_aloud():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = []
        yield found
        found += [warning for warning in said if "a pass of its own" in str(warning.message)]


@pytest.mark.parametrize("way", ["independent", "same_dropout", "shared_prefix"])
@pytest.mark.parametrize("per", ["batch", "example"])
def test_tokens_first_have_a_call_a_route(way, per):
    mixture, batch = longformer()
    tiny.shake(mixture)
    routes = Router(mixture.space, per=per).views(0, 2, 4, 8)
    found = routed_logits(mixture, batch, routes, way)
    for k in range(2):
        for n in range(4):
            row = {name: value[n : n + 1] for name, value in batch.items()}
            route = routes[k] if per == "batch" else routes[k, n]
            close.assert_close(found[k, n], mixture(selection=route, **row).logits[0])
    if per == "batch" and way == "independent":
        assert not torch.allclose(found[0], found[1])


class Unpadded(nn.Module):
    """Its layer sees the tokens of all rows in one axis, padding left out, as kernels for unequal lengths have them."""

    def __init__(self):
        super().__init__()
        self.table, self.layer, self.classifier = nn.Embedding(99, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        states, keep = self.table(input_ids), attention_mask.bool()
        new = torch.zeros_like(states)
        new[keep] = self.layer(states[keep]).tanh()
        return SequenceClassifierOutput(logits=self.classifier(new.mean(1)))


def test_rows_of_unequal_length_in_one_axis_are_not_taken_for_equal_ones():
    mixture = tiny.mixed(Unpadded(), LoRA(2), experts=3, targets="layer")
    mask = (torch.arange(6) < torch.tensor([[6], [6], [5], [3]])).long()  # 20 tokens: four rows of five, it seems
    batch = {"input_ids": tiny.batch(4, 6)["input_ids"], "attention_mask": mask}
    routes = torch.tensor([0, 1, 2, 0]).reshape(1, 4, 1, 1).expand(1, 4, 1, 2)
    with pytest.warns(UserWarning, match="leaves padding out"):
        found = routed_logits(mixture, batch, routes)[0]
    for n in range(4):
        row = {name: value[n : n + 1] for name, value in batch.items()}
        close.assert_close(found[n], mixture(selection=routes[0, n], **row).logits[0])


def test_where_a_call_cannot_be_split_it_is_refused():
    mixture, batch = longformer()
    space, ids = mixture.space, batch.pop("input_ids")
    for routes in (
        Router(space).views(0),
        Router(space, per="token").views(0, 1, 4, 8)[0],
        space.fixed(0).expand(4, -1, -1),
    ):
        with pytest.raises(
            LabError, match=r"LongformerFor.* does not take [24] routes in one call \(what site 'longform"
        ):
            mixture(ids, selection=routes, **batch)
    tensors = {
        path: {name: weight[:2] for name, weight in layer.experts.items()} for path, layer in mixture.sites.items()
    }
    with pytest.raises(LabError, match="does not take 2 routes"):
        mixture(ids, selection=tensors, **batch)
    with pytest.raises(LabError, match="does not take 4 routes"):
        routed_logits(mixture, {"input_ids": ids, **batch}, Router(space, per="token").views(0, 2, 4, 8))


@pytest.mark.parametrize(("name", "permitted"), [("BERT", True), ("GPT-2", True), ("Longformer", False)])
def test_bfloat16_is_asked_within_its_own_roundings(name, permitted):
    model = architectures.build(name).bfloat16()
    mixture = attach(model, LoRA(4), targets=architectures.KINDS[name].targets)
    batch = architectures.inputs(model)
    assert check.takes_groups(mixture, batch).permitted is permitted
    assert may_cut(model, batch) is (name == "BERT")


def test_a_cache_that_is_given_is_not_filled_by_a_check():
    from transformers import DynamicCache

    mixture = tiny.mixed(tiny.gpt2(), LoRA(2))
    cache, ids = DynamicCache(config=mixture.model.config), torch.tensor([[3, 4], [5, 6]])
    mixture(selection=Router(mixture.space).views(0), input_ids=ids, past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == 2


# -- the head ------------------------------------------------------------------------------------------------


def test_a_head_that_is_put_on_later_is_asked_anew():
    model, batch = tiny.bert(), tiny.batch(pad=False)
    assert may_cut(model, batch)

    class Mean(nn.Module):
        def forward(self, states):
            return states.mean(1)

    model.bert.pooler = Mean()
    whole = model(**batch).logits
    assert not may_cut(model, batch)
    with cut_last_block(model, batch):
        assert torch.equal(model(**batch).logits, whole)


def test_one_token_or_one_unmasked_token_does_not_hide_a_mean():
    model = architectures.build("BERT, mean of all tokens")
    batch = architectures.inputs(model)
    batch["attention_mask"][:, 1:] = 0
    one = {name: value[:, :1] for name, value in batch.items()}
    with torch.no_grad():
        for short in (one, batch):
            whole = model(**short).logits
            with cut_last_block(model, short):
                close.assert_close(model(**short).logits, whole)
        assert may_cut(model, one) and not may_cut(model, batch)


def test_options_of_an_own_class_are_part_of_the_question():
    """One class, one configuration: what the instance was told to do is asked by itself."""
    from transformers import BertForSequenceClassification

    class Pooled(BertForSequenceClassification):
        def __init__(self, config, mean, how=None):
            super().__init__(config)
            self.mean, self.how = mean, how

        def forward(self, input_ids=None, attention_mask=None):
            states = self.bert(input_ids, attention_mask).last_hidden_state
            pooled = self.how(states) if self.how else states.mean(1) if self.mean else states[:, 0]
            return type("Output", (), {"logits": self.classifier(pooled)})()

    config, batch = tiny.bert().config, tiny.batch()
    asked = [may_cut(Pooled(config, mean).eval(), batch) for mean in (False, True)]
    asked += [may_cut(Pooled(config, False, how).eval(), batch) for how in (lambda s: s[:, 0], lambda s: s.amax(1))]
    assert asked == [True, False, True, False]


def test_a_pass_that_fails_half_way_is_no_evidence():
    class Fails(Reads):
        def forward(self, x):
            y = super().forward(x)
            if x.dim() == 3:
                raise RuntimeError("no sequences here")
            return self.read(y)

    attach(Fails(), LoRA(2), targets=["called", "read"])


def test_what_has_no_sites_has_nothing_to_mix():
    from adamix_lab.baselines.making import baseline

    mixture = baseline("full", tiny.bert())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert routed_logits(mixture, tiny.batch(), torch.zeros(2, 0, 0).long()).shape[:2] == (2, 4)
