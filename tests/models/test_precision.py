"""All that trains is float32, in a base of any dtype, and nothing of it is left when the base is given back."""

import close
import pytest
import tiny
import torch

from adamix_lab.baselines.making import baseline
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.merging import fold, merge
from adamix_lab.models.model import attach, detach
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import parameter_groups

narrow = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
classifiers = pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if name not in ("gpt2", "t5", "llama")])


def trained_dtypes(mixture):
    return {p.dtype for _, p in [*mixture.expert_parameters(), *mixture.head_parameters()]}


@narrow
@classifiers
def test_a_head_trains_in_float32_and_the_base_comes_back(family, dtype):
    model = tiny.FAMILIES[family]().to(dtype)
    before, expected = tiny.state(model), tiny.logits(model)
    mixture = tiny.mixed(model, LoRA(2))
    assert trained_dtypes(mixture) == {torch.float32}
    first = tiny.logits(mixture)
    mixture(**tiny.batch()).logits.square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for _, p in mixture.head_parameters())
    mixture.add_task("more", num_labels=5)
    assert tiny.logits(mixture).shape[-1] == 5 and trained_dtypes(mixture) == {torch.float32}
    mixture.switch("default")
    assert torch.equal(tiny.logits(merge(mixture)), first)
    plain = fold(mixture)
    assert {p.dtype for p in plain.parameters()} == {dtype}
    close.assert_close(tiny.logits(plain).float(), first, close.BFLOAT)
    detach(mixture)
    assert tiny.same(before, tiny.state(model)) and torch.equal(tiny.logits(model), expected)
    assert all(before[name][0].dtype == tensor.dtype for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for one in (model, plain) for module in one.modules())


@pytest.mark.parametrize("cls", ["GPT2ForSequenceClassification", "LlamaForSequenceClassification"])
def test_the_classifiers_of_decoders_too(cls):
    make = tiny.gpt2 if cls.startswith("GPT2") else tiny.llama
    mixture = tiny.mixed(make(cls=cls).half(), LoRA(2))
    assert trained_dtypes(mixture) == {torch.float32} == {tiny.logits(mixture).dtype}


def test_autocast_is_left_as_it_is():
    model = tiny.bert()
    with torch.autocast("cpu", torch.bfloat16):
        expected = tiny.logits(model)
        mixture = attach(model, LoRA(2))  # B starts at zero
        assert torch.equal(tiny.logits(mixture), expected) and expected.dtype == torch.bfloat16


def test_casts_reach_tasks_at_rest_and_leave_what_trains():
    mixture = tiny.mixed(tiny.bert(), Bottleneck(4))
    first = tiny.logits(mixture)
    experts = [p.clone() for _, p in mixture.expert_parameters()]
    mixture.add_task("more", num_labels=5)
    mixture.to(torch.bfloat16)
    assert mixture.model.bert.encoder.layer[0].output.dense.weight.dtype == torch.bfloat16
    assert tiny.logits(mixture).shape[-1] == 5
    mixture.switch("default")
    close.assert_close(tiny.logits(mixture), first, close.BFLOAT)
    assert trained_dtypes(mixture) == {torch.float32}
    assert all(torch.equal(a, p) for a, (_, p) in zip(experts, mixture.expert_parameters(), strict=True))
    mixture.double().switch("more")
    assert trained_dtypes(mixture) == {torch.float64} == {tiny.logits(mixture).dtype}
    mixture.to("meta")
    assert {
        p.device.type
        for task in mixture._tasks.values()
        for m in [*task.experts.values(), *task.head.values()]
        for p in m.parameters()
    } == {"meta"}


def test_a_base_cast_after_attach_comes_back_in_one_dtype():
    for change in (torch.nn.Module.bfloat16, torch.nn.Module.half, torch.nn.Module.double):
        model = detach(change(tiny.mixed(tiny.bert(), LoRA(2))))
        assert len({p.dtype for p in model.parameters()}) == 1 and tiny.logits(model).isfinite().all()
    model = detach(tiny.mixed(tiny.bert().half(), LoRA(2)).float())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_baselines_in_a_narrow_base():
    for name in ("full", "bitfit"):
        with pytest.raises(ValueError, match=r"is torch.bfloat16 and would train: expected float32. Load the base in"):
            baseline(name, tiny.bert().bfloat16())
    for name in ("head", "lora", "ia3", "prefix"):
        made = baseline(name, tiny.bert().bfloat16())
        assert {p.dtype for p in made.parameters() if p.requires_grad} == {torch.float32}
        assert made(**tiny.batch()).logits.dtype == torch.float32


def test_weights_that_were_cast_below_float32_do_not_train():
    mixture = tiny.mixed(tiny.bert(), LoRA(2))
    mixture.model.half()  # past the mixture, which would have kept what trains
    with pytest.raises(ValueError, match=r"weights of the experts are torch\.float16: expected float32"):
        parameter_groups(mixture, Recipe())
    assert parameter_groups(mixture.float(), Recipe())


def test_modules_that_the_files_lack_train_in_float32_inside_a_narrow_base(tmp_path):
    from transformers import BertForSequenceClassification

    tiny.bert(cls="BertForMaskedLM").save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    mixture = tiny.mixed(model, LoRA(2))
    assert set(mixture.head_paths) == {"bert.pooler", "classifier"} and trained_dtypes(mixture) == {torch.float32}
    assert tiny.logits(mixture).isfinite().all()
    assert {p.dtype for p in detach(mixture).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("call", ["resize_token_embeddings", "tie_weights"])
def test_output_embeddings_are_not_changed_under_their_experts(call):
    model = tiny.gpt2()
    mixture = tiny.mixed(model, LoRA(2), targets="lm_head")
    with pytest.raises(RuntimeError, match="expected them before attach"):
        getattr(mixture.model, call)()
    getattr(detach(mixture), call)()
    assert tiny.logits(tiny.mixed(tiny.gpt2(), LoRA(2)).model.resize_token_embeddings(60) and model).isfinite().all()
