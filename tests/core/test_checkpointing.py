"""Gradient checkpointing runs blocks again in the backward pass: each run must see the route of its view."""

import warnings

import close
import pytest
import tiny
import torch

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.mixture import CarrySelection, checkpoints_gradients, during
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.core.views import WAYS as PLAIN
from adamix_lab.fast.blocks import WAYS
from adamix_lab.models.model import detach

MODELS = {"bert": tiny.bert, "gpt2": tiny.gpt2, "llama": tiny.llama}
modes = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
every_model = pytest.mark.parametrize("name", MODELS)


def checkpoint(model, reentrant):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the name that transformers 4 knows, too
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})


def two_views(name, adaptation, reentrant=None, views="independent", dropout=0.0, **settings):
    """Gradients of one training step; checkpointed in a mode, or not at all (then without any short-cut)."""
    mixture = tiny.mixed(MODELS[name](dropout), adaptation, **settings).train()
    if reentrant is not None:
        checkpoint(mixture.model, reentrant)
        assert checkpoints_gradients(mixture.model)
    batch = tiny.batch(pad=name == "bert")
    labels = tiny.labels() if name == "bert" else batch["input_ids"]
    torch.manual_seed(0)
    losses = Objective(mixture, Consistency(views=views), ways=PLAIN if reentrant is None else WAYS)(
        {**batch, "labels": labels}, Router(mixture.space).views(0)
    )
    losses.total.backward()
    return tiny.gradients(mixture)


@modes
@every_model
@pytest.mark.parametrize("views", WAYS)
def test_gradients_equal_those_without(name, reentrant, views):
    for adaptation in (Bottleneck(4), LoRA(2)):
        # a shared prefix falls back to independent views: exactly those are what it must equal
        plain = two_views(name, adaptation, views="independent" if views == "shared_prefix" else views)
        again = two_views(name, adaptation, reentrant, views)
        close.assert_all_close(again, plain, close.ROUNDED)


@modes
@every_model
def test_with_dropout(name, reentrant):
    """The recomputation also draws the same masks again."""
    plain = two_views(name, LoRA(2, dropout=0.2), dropout=0.2)
    close.assert_all_close(two_views(name, LoRA(2, dropout=0.2), reentrant, dropout=0.2), plain, close.ROUNDED)


@modes
@pytest.mark.parametrize("views", ["independent", "same_dropout"])
@every_model
def test_the_naive_failure_is_caught(monkeypatch, name, reentrant, views):
    """Without the carried selections the recomputation would read the merge: it is refused, as nobody asked for it."""
    monkeypatch.setattr(CarrySelection, "__call__", lambda self, function, *a, **k: self.checkpoint(function, *a, **k))
    with pytest.raises(ValueError, match=r"runs again in the backward pass .*without the route of its first run"):
        two_views(name, LoRA(2), reentrant, views)


def test_the_last_route_would_serve_the_first_view(monkeypatch):
    """The silent form: one route an own pass, another set when the backward pass comes."""

    def gradients(carry):
        mixture = tiny.mixed(tiny.bert(), LoRA(2)).train()
        checkpoint(mixture.model, reentrant=True)
        if not carry:
            monkeypatch.setattr(CarrySelection, "__call__", lambda self, f, *a, **k: self.checkpoint(f, *a, **k))
        first, second = Router(mixture.space).views(0)
        loss = mixture(selection=first, **tiny.batch()).logits.square().sum()
        with mixture.select(second):
            loss.backward()
        return tiny.gradients(mixture)

    mixture = tiny.mixed(tiny.bert(), LoRA(2)).train()
    mixture(selection=Router(mixture.space).route(0), **tiny.batch()).logits.square().sum().backward()
    plain = tiny.gradients(mixture)
    close.assert_all_close(gradients(carry=True), plain, close.ROUNDED)
    assert tiny.largest_difference(gradients(carry=False), plain) > 0.1


@modes
def test_the_switch_is_carried_too(reentrant):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4)).train()
    checkpoint(mixture.model, reentrant)
    with mixture.disabled():
        loss = mixture(**tiny.batch()).logits.square().sum()
    loss.backward()
    assert not any(p.grad is not None and p.grad.any() for _, p in mixture.expert_parameters())


@modes
def test_detach_takes_everything_off(reentrant):
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4)).train()
    checkpoint(mixture.model, reentrant)
    hooks = len(
        mixture.model.get_input_embeddings()._forward_hooks
    )  # transformers asks by itself, depending on version
    for _ in range(2):
        mixture(selection="merge", **tiny.batch())
    functions = [vars(m).get("_gradient_checkpointing_func") for m in mixture.model.modules()]
    assert any(isinstance(f, CarrySelection) for f in functions)
    assert not any(isinstance(f, CarrySelection) and isinstance(f.checkpoint, CarrySelection) for f in functions)
    bare = detach(mixture)
    assert not any(isinstance(vars(m).get("_gradient_checkpointing_func"), CarrySelection) for m in bare.modules())
    assert len(bare.get_input_embeddings()._forward_hooks) == hooks


def test_input_gradients_are_asked_for_where_needed_and_given_back():
    """A model whose hooks were taken off: reentrant checkpoints would then train nothing below the head."""
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4)).train()
    checkpoint(mixture.model, reentrant=True)
    if not hasattr(mixture.model, "_require_grads_hook"):  # transformers 4.57 does not add it by itself
        mixture.model.enable_input_require_grads()
    mixture.model.disable_input_require_grads()
    mixture(selection="merge", **tiny.batch()).logits.sum().backward()
    assert all(p.grad is not None and p.grad.any() for _, p in mixture.expert_parameters())
    assert not detach(mixture).get_input_embeddings()._forward_hooks


def test_input_gradients_that_somebody_else_asked_for_stay_when_ours_go():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4)).train()
    checkpoint(mixture.model, reentrant=True)
    if hasattr(mixture.model, "_require_grads_hook"):  # transformers 4.57 does not add it by itself
        mixture.model.disable_input_require_grads()
    mixture.model.enable_input_require_grads()
    mixture(selection="merge", **tiny.batch()).logits.sum().backward()
    assert len(detach(mixture).get_input_embeddings()._forward_hooks) == 1


def test_a_checkpoint_that_says_nothing_of_its_mode_counts_as_reentrant():
    """`torch.utils.checkpoint.checkpoint` itself, set by an older transformers or by hand."""
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4)).train()
    checkpoint(mixture.model, reentrant=True)
    for module in mixture.model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = lambda function, *given: torch.utils.checkpoint.checkpoint(
                function, *given, use_reentrant=True
            )
    if not hasattr(mixture.model, "_require_grads_hook"):
        mixture.model.enable_input_require_grads()
    mixture.model.disable_input_require_grads()
    mixture(selection="merge", **tiny.batch()).logits.sum().backward()
    assert all(p.grad is not None and p.grad.any() for _, p in mixture.expert_parameters())


def test_selections_are_put_back():
    layers = list(tiny.mixed(tiny.bert(), Bottleneck(4)).sites.values())
    route = torch.zeros(2).long()
    with during({layer: {"selection": route, "enabled": False} for layer in layers}):
        assert all(layer.selection is route and not layer.enabled for layer in layers)
    assert all(layer.selection is None and layer.enabled for layer in layers)
