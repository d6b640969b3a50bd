"""Heads and tasks: several on one frozen base, swapped in a line."""

import pytest
import tiny
import torch

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.model import attach, detach
from adamix_lab.core.sites import find_head, new_head

every_family = pytest.mark.parametrize("family", tiny.FAMILIES)


def test_a_new_head_has_the_build_of_the_old():
    model = tiny.roberta()
    fresh = new_head(model, find_head(model), 5, torch.Generator().manual_seed(0))["classifier"]
    assert fresh.dense.weight.shape == (tiny.WIDTH, tiny.WIDTH) and fresh.out_proj.weight.shape == (
        5,
        tiny.WIDTH,
    )
    assert not fresh.dense.bias.any() and not fresh.out_proj.bias.any()
    assert float(fresh.dense.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    again = new_head(model, find_head(model), 5, torch.Generator().manual_seed(0))["classifier"]
    assert torch.equal(fresh.out_proj.weight, again.out_proj.weight)
    assert model.classifier.out_proj.out_features == tiny.LABELS  # the old one is left alone


def test_tasks_are_swapped_in_a_line():
    model = tiny.roberta(dropout=0.5)
    model.config.id2label, model.config.label2id = (
        {0: "no", 1: "maybe", 2: "yes"},
        {"no": 0, "maybe": 1, "yes": 2},
    )
    before, names = tiny.state(model), dict(model.config.id2label)
    mixture = tiny.mixed(model, Bottleneck(4)).eval()
    first = tiny.logits(mixture)
    mixture.add_task("five", num_labels=5)
    second = tiny.logits(mixture)
    assert mixture.tasks == ["default", "five"] and mixture.task == "five"
    assert second.shape == (4, 5) and mixture.model.config.num_labels == mixture.model.num_labels == 5
    assert all(p.requires_grad for _, p in [*mixture.expert_parameters(), *mixture.head_parameters()])
    mixture.train()
    mixture.switch("default")
    mixture.eval()
    assert torch.equal(tiny.logits(mixture), first) and model.config.id2label == names
    mixture.train().switch("five")
    assert all(module.training for module in mixture.head["classifier"].modules())
    mixture.eval().switch("default")
    mixture.switch("five")  # its head was last seen in training mode: dropout must not come back
    assert torch.equal(tiny.logits(mixture), second)
    detach(mixture)
    assert tiny.same(before, tiny.state(model)) and model.num_labels == 3 and model.config.id2label == names


def test_tasks_start_apart_and_from_seeds():
    def experts(mixture):
        return [p.detach().clone() for _, p in mixture.expert_parameters()]

    mixture = attach(tiny.bert(), Bottleneck(4))
    default = experts(mixture)
    mixture.add_task("a")
    a = experts(mixture)
    mixture.add_task("b")
    assert not torch.equal(default[0], a[0]) and not torch.equal(a[0], experts(mixture)[0])
    again = attach(tiny.bert(), Bottleneck(4))
    again.add_task("a")
    assert all(map(torch.equal, a, experts(again)))
    mixture.switch("default")
    assert all(map(torch.equal, default, experts(mixture)))


def test_task_refusals():
    mixture = attach(tiny.bert(), Bottleneck(4))
    mixture.add_task("sentiment")
    with pytest.raises(ValueError, match="Task 'sentiment' exists already"):
        mixture.add_task("sentiment")
    with pytest.raises(ValueError, match=r"Task 'sentimnet' is not known.*Did you mean 'sentiment'"):
        mixture.switch("sentimnet")
    with pytest.raises(ValueError, match="num_labels = 2, but the model trains no head"):
        attach(tiny.gpt2(), Bottleneck(4)).add_task("a", num_labels=2)


@every_family
def test_tasks_on_every_family(family):
    mixture = tiny.mixed(tiny.FAMILIES[family](), LoRA(2))
    first = tiny.logits(mixture)
    mixture.add_task("more", num_labels=5 if mixture.head_paths else None)
    assert tiny.logits(mixture).shape[-1] == (5 if mixture.head_paths else tiny.VOCABULARY)
    mixture.switch("default")
    assert torch.equal(tiny.logits(mixture), first)
