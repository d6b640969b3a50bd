"""AdaMix as a method of peft, by stock peft and the stock Trainer."""

import json

import close
import pytest
import tiny
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

peft = pytest.importorskip("peft")
from adamix_lab.core.adaptations import LoRA  # noqa: E402
from adamix_lab.core.objective import Consistency, Objective  # noqa: E402
from adamix_lab.core.routing import Router  # noqa: E402
from adamix_lab.interop.peft_tuner import AdaMixConfig, Experts  # noqa: E402
from adamix_lab.models.model import attach  # noqa: E402
from adamix_lab.tasks.batches import collate, encode  # noqa: E402


def settings(**more):
    return {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "num_experts": 3, "share": None, **more}


def tuned(base=None, shaken=True, **more):
    base = tiny.bert() if base is None else base
    model = peft.get_peft_model(base, AdaMixConfig(**settings(**more)))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for experts in factors(model) if shaken else ():
            experts.experts.add_(torch.randn(experts.experts.shape, generator=generator) * 0.3)
    return model


def factors(model):
    return [module for module in model.modules() if isinstance(module, Experts)]


def twin(model):
    """A mixture with the tuner's experts."""
    mixture = attach(tiny.bert(), LoRA(4, 8), experts=3, targets=["*query", "*value"])
    for layer, (a, b) in zip(mixture.sites.values(), model.base_model._factors, strict=True):
        layer.experts["A"].data, layer.experts["B"].data = a.experts.detach().clone(), b.experts.detach().clone()
    return mixture


BATCH = {**tiny.batch(), "labels": tiny.labels()}


def test_a_training_call_is_adamix():
    model = tuned().train()
    mixture = twin(model).train()
    for step in range(2):  # routes of (seed, step)
        found = model(**BATCH)
        expected = Objective(mixture, Consistency(1.0))(BATCH, Router(mixture.space).views(step))
        close.assert_close(found.loss, expected.total)
        close.assert_close(found.logits, expected.logits)
    found.loss.backward()
    expected.total.backward()
    for layer, pair in zip(mixture.sites.values(), model.base_model._factors, strict=True):
        for name, experts in zip("AB", pair, strict=True):
            close.assert_close(experts.experts.grad, layer.experts[name].grad)
            assert len({float(g.abs().sum()) for g in experts.experts.grad}) > 1


def test_evaluation_is_the_merge_and_folding_equals_it():
    model = tuned().eval()
    inputs = tiny.batch()
    with torch.no_grad():
        merged = model(**inputs).logits
        close.assert_close(merged, twin(model)(**inputs).logits)
        plain = model.merge_and_unload()
        close.assert_close(plain(**inputs).logits, merged)
    assert not factors(plain)


@pytest.mark.parametrize("share", ["A", "B", None])
def test_saved_and_loaded_by_peft(tmp_path, share):
    model = tuned(share=share)
    model.train()(**BATCH).loss.backward()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "ADAMIX"
    again = peft.PeftModel.from_pretrained(tiny.bert(), str(tmp_path), is_trainable=True)
    for one, other in zip(factors(model), factors(again), strict=True):
        assert torch.equal(one.experts, other.experts) and int(other.trained_calls) == 1
    with torch.no_grad():
        assert torch.equal(model.eval()(**tiny.batch()).logits, again.eval()(**tiny.batch()).logits)
    assert torch.equal(model.train()(**BATCH).loss, again.train()(**BATCH).loss)  # and the next route is the same


def trainer(folder, model, **more):
    from transformers import Trainer, TrainingArguments

    values = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2,
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    task, tokenizer = tiny_task.task(), tiny_task.tokenizer()
    args = TrainingArguments(**(values | more))
    return Trainer(model, args, data_collator=collate, train_dataset=encode(task.train, task, tokenizer))


def test_the_stock_trainer_trains_and_resumes_it(tmp_path):
    whole = tuned(shaken=False)
    trainer(tmp_path, whole, save_strategy="steps", save_steps=3).train()
    assert len({float(expert.detach().abs().sum()) for expert in factors(whole)[0].experts}) == 3
    resumed = tuned(shaken=False)
    trainer(tmp_path, resumed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for one, other in zip(factors(whole), factors(resumed), strict=True):
        close.assert_close(one.experts, other.experts, close.TRAINED)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    found = []
    for on in (False, True):
        model = tuned().train()
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**BATCH).loss.backward()
        found.append(torch.cat([experts.experts.grad.flatten() for experts in factors(model)]))
    close.assert_close(found[1], found[0])


def test_accumulated_losses_are_divided_by_the_trainers_count():
    model = tuned(tiny.gpt2(), task_type="CAUSAL_LM").train()
    ids = tiny.batch(pad=False)["input_ids"]
    whole = model(input_ids=ids, labels=ids).loss
    for experts in factors(model):
        experts.trained_calls.zero_()
    part = model(input_ids=ids, labels=ids, num_items_in_batch=2 * ids[:, 1:].numel()).loss
    close.assert_close(part, whole / 2)


def test_refusals():
    with pytest.raises(ValueError, match="task_type = None"):
        AdaMixConfig()
    with pytest.raises(ValueError, match="use_dora = True: expected False"):
        AdaMixConfig(**settings(use_dora=True))
    with pytest.raises(ValueError, match="'C' is not known"):
        AdaMixConfig(**settings(share="C"))
    with pytest.raises(ValueError, match="expected a linear layer"):
        tuned(target_modules=["word_embeddings"])
    model = tuned().train()
    with pytest.raises(ValueError, match="past the routes"):
        model.get_base_model()(**tiny.batch())
