"""AdaMixTrainer, tested as a Trainer: losses of one's own, data, checkpointing, texts, processes."""

import multiprocessing
import os
import socket
from pathlib import Path

import close
import numpy as np
import pytest
import tiny
import tiny_task
import torch
import torch.nn.functional as F

if __name__ != "__main__":
    from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.files import read_tensors, write_tensors
from adamix_lab.core.mixture import here
from adamix_lab.core.objective import Consistency
from adamix_lab.core.routing import Router
from adamix_lab.models.model import attach
from adamix_lab.tasks.batches import encode
from adamix_lab.training.recipe import Recipe

TASK, TOKENIZER = tiny_task.task(32), tiny_task.tokenizer()
ROWS = encode(TASK.train, TASK, TOKENIZER)
BASICS = {
    "max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "report_to": [], "disable_tqdm": True,
    "use_cpu": True, "save_strategy": "no", "dataloader_pin_memory": False, "logging_steps": 1,
}  # fmt: skip


def trainer(folder, mixture=None, dataset=ROWS, recipe=None, kind="AdaMixTrainer", more=None, **arguments):
    import transformers

    from adamix_lab.training import hf_trainer

    args = {"AdaMixTrainer": "TrainingArguments"}.get(kind, "Seq2SeqTrainingArguments")
    made = getattr(transformers, args)(output_dir=str(folder), **(BASICS | arguments))
    mixture = tiny.shake(tiny_task.mixture()) if mixture is None else mixture
    return getattr(hf_trainer, kind)(mixture, made, recipe, dataset, **(more or {}))


def weights(made):
    made.train()
    return tiny_task.weights(made.mixture)


def apart(first, second):
    return tiny_task.apart(first, second)


# -- losses ------------------------------------------------------------------------------------------------


def by_items(output, labels, num_items_in_batch=None):
    total = F.cross_entropy(output.logits, labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def plain(logits, labels):
    return F.cross_entropy(logits, labels)


@pytest.mark.parametrize("more", [{"compute_loss_func": by_items}, {"task_loss": plain}])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_loss_of_ones_own_is_the_task_loss(tmp_path, more, pieces):
    settings = {"per_device_train_batch_size": 8 // pieces, "gradient_accumulation_steps": pieces, **sequential()}
    own, usual = (trainer(tmp_path, more=given, **settings) for given in (more, {}))
    assert apart(weights(own), weights(usual)) <= close.TRAINED.share
    for a, b in zip(logs(own), logs(usual), strict=True):
        close.assert_close([a["task_loss"], a["consistency"]], [b["task_loss"], b["consistency"]], close.TRAINED)


def strategy():
    from transformers import TrainingArguments

    return "train_sampling_strategy" in TrainingArguments.__dataclass_fields__


def logs(made):
    return [row for row in made.state.log_history if "loss" in row]


def test_the_log_is_of_the_whole_window(tmp_path):
    often, seldom = trainer(tmp_path, max_steps=4), trainer(tmp_path, max_steps=4, logging_steps=4)
    often.train()
    seldom.train()
    (last,) = logs(seldom)
    for name in ("task_loss", "consistency"):
        close.assert_close(last[name], float(np.mean([row[name] for row in logs(often)])))
    assert last["loss"] == pytest.approx(last["task_loss"] + last["consistency"], abs=1e-4)
    assert last["consistency"] > 1e-3


def test_smoothing_is_that_of_train_and_of_the_recipe(tmp_path):
    by_args = trainer(tmp_path, label_smoothing_factor=0.3)
    by_recipe = trainer(tmp_path, recipe=Recipe(lr=1e-3, weight_decay=0.0, seed=42, label_smoothing=0.3))
    assert apart(weights(by_args), weights(by_recipe)) == 0
    by_args.eval_dataset = ROWS
    merged = by_args.predict(ROWS)
    expected = F.cross_entropy(torch.tensor(merged.predictions), torch.tensor(merged.label_ids), label_smoothing=0.3)
    assert by_args.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_two_losses_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of them"):
        trainer(tmp_path, more={"task_loss": plain, "compute_loss_func": by_items})
    with pytest.raises(ValueError, match="expected one of them"):
        trainer(tmp_path, more={"task_loss": plain}, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing = 0.1 for numbers"):
        trainer(tmp_path, attach(tiny.bert(num_labels=1), LoRA(2), experts=2), label_smoothing_factor=0.1)
    unlabelled = [{n: v for n, v in row.items() if n != "labels"} for row in ROWS]
    with pytest.raises(ValueError, match="has no labels: expected them"):
        trainer(tmp_path, dataset=unlabelled).train()


# -- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_learns_the_same(tmp_path, reentrant):
    settings = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    plain = {"optim": "sgd", "learning_rate": 0.1}  # AdamW makes steps of gradients that are rounding alone
    first, second = weights(trainer(tmp_path, **plain, **settings)), weights(trainer(tmp_path, **plain))
    assert apart(first, second) <= close.TRAINED.share


# -- data --------------------------------------------------------------------------------------------------


def test_a_dataset_with_stock_collators_or_none(tmp_path):
    datasets = pytest.importorskip("datasets")
    from transformers import DataCollatorWithPadding

    rows = datasets.Dataset.from_list(TASK.train).map(lambda row: TOKENIZER(row["sentence"]))
    rows = rows.rename_column("label", "labels")
    found = [
        weights(trainer(tmp_path, dataset=rows, more=more, remove_unused_columns=True))
        for more in ({"data_collator": DataCollatorWithPadding(TOKENIZER)}, {"processing_class": TOKENIZER}, {})
    ]
    assert apart(found[0], found[1]) == apart(found[0], found[2]) == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_as_the_tokenizer_pads(tmp_path, side):
    tokenizer = tiny_task.tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = "w39", side
    model = tiny.llama(cls="LlamaForSequenceClassification")
    model.config.pad_token_id = tokenizer.pad_token_id
    made = trainer(tmp_path, attach(model, LoRA(2), experts=2), more={"processing_class": tokenizer})
    batch = next(iter(made.get_train_dataloader()))
    outside = batch["attention_mask"] == 0
    assert outside.any() and set(batch["input_ids"][outside].tolist()) == {tokenizer.pad_token_id}
    assert outside[:, 0 if side == "left" else -1].any()


def test_a_head_that_would_read_padding_is_refused(tmp_path):
    model = tiny.gpt2(cls="GPT2ForSequenceClassification", num_labels=3)
    tokenizer = tiny_task.tokenizer()
    tokenizer.pad_token = "w3"
    with pytest.raises(ValueError, match="pad_token_id = 0: expected the tokenizer's, 7"):
        trainer(tmp_path, attach(model, LoRA(2), experts=2), more={"processing_class": tokenizer})


def test_classes_a_token_and_spans(tmp_path):
    rng = torch.Generator().manual_seed(0)
    tokens, spans = [], []
    for n in range(16):
        ids = torch.randint(4, 40, (3 + n % 4,), generator=rng)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        tokens.append({**inputs, "labels": torch.randint(0, 3, ids.shape, generator=rng)})
        spans.append({**inputs, "start_positions": 0, "end_positions": len(ids) - 1})
    made = trainer(tmp_path, attach(tiny.bert(cls="BertForTokenClassification"), LoRA(2), experts=2), tokens)
    made.train()
    found = made.predict(tokens)
    assert found.predictions.shape == (16, 6, 3) and (found.label_ids == -100).any()
    rows = torch.tensor(found.predictions), torch.tensor(found.label_ids)
    assert found.metrics["test_loss"] == pytest.approx(
        float(F.cross_entropy(rows[0].flatten(0, 1), rows[1].flatten())), rel=0.1
    )  # the Trainer averages over batches
    made = trainer(tmp_path, attach(tiny.bert(cls="BertForQuestionAnswering", num_labels=2), LoRA(2), experts=2), spans)
    made.train()
    assert made.evaluate(spans)["eval_loss"] > 0


# -- the Trainer's own ---------------------------------------------------------------------------------------


def test_callbacks_and_an_optimizer_of_ones_own(tmp_path):
    from transformers import TrainerCallback

    class Seen(TrainerCallback):
        models = ()

        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.models += (model,)

    mixture, seen = tiny_task.mixture(), Seen()
    before = tiny_task.weights(mixture)
    optimizer = torch.optim.SGD([p for p in mixture.parameters() if p.requires_grad], lr=0.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    made = trainer(tmp_path, mixture, more={"optimizers": (optimizer, schedule), "callbacks": [seen]})
    assert apart(weights(made), before) == 0 and list(seen.models) == [mixture] * 3


def test_a_mixture_is_given_not_made(tmp_path):
    with pytest.raises(ValueError, match=r"model_init .*: expected a mixture"):
        trainer(tmp_path, more={"model_init": tiny_task.mixture})


def test_compiled_as_the_refusal_says(tmp_path):
    mixture = tiny.shake(tiny_task.mixture())
    mixture.model.compile(backend="eager")
    assert apart(weights(trainer(tmp_path, mixture)), weights(trainer(tmp_path))) <= close.TRAINED.share


def test_texts_are_written_by_the_merge(tmp_path):
    rng = torch.Generator().manual_seed(0)
    rows = [{name: torch.randint(2, 50, (5,), generator=rng) for name in ("input_ids", "labels")} for _ in range(8)]
    mixture = tiny.shake(attach(tiny.t5(), LoRA(2), experts=2))
    settings = {"predict_with_generate": True, "generation_max_length": 6}
    made = trainer(tmp_path, mixture, rows, kind="AdaMixSeq2SeqTrainer", **settings)
    made.train()
    found = made.predict(rows)
    with torch.no_grad():
        ids = torch.stack([row["input_ids"] for row in rows])
        texts = mixture.eval().generate(input_ids=ids, max_length=6, selection="merge")
    assert found.predictions[:, : texts.shape[1]].tolist() == texts.tolist() and found.metrics["test_loss"] > 0
    from transformers import Seq2SeqTrainingArguments

    from adamix_lab.training.hf_trainer import AdaMixTrainer

    args = Seq2SeqTrainingArguments(str(tmp_path), predict_with_generate=True, use_cpu=True, report_to=[])
    with pytest.raises(ValueError, match=r"predict_with_generate = True: expected False. Use AdaMixSeq2SeqTrainer"):
        AdaMixTrainer(mixture, args, train_dataset=rows)


# -- processes ---------------------------------------------------------------------------------------------


def routes_taken(mixture):
    """A list to which each call of the first site adds the routes of all sites."""
    seen, layers = [], list(mixture.sites.values())
    layers[0].register_forward_pre_hook(lambda *_: seen.append(torch.stack([here(x, "selection") for x in layers], 1)))
    return seen


def process(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    made = trainer(folder, per_device_train_batch_size=4, **sequential())
    seen = routes_taken(made.mixture)
    made.train()
    own = {"routes": torch.stack(seen), "losses": torch.tensor([row["task_loss"] for row in logs(made)])}
    write_tensors(folder / f"end{rank}.safetensors", {**tiny_task.weights(made.mixture), **own})
    torch.distributed.destroy_process_group()


def sequential():
    return {"train_sampling_strategy": "sequential"} if strategy() else {}


@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.skipif(not strategy(), reason="transformers 4 has no order that does not depend on the processes")
def test_two_processes_take_the_same_routes_and_learn_as_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    processes = [context.Process(target=process, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0, 0]
    first, second = (read_tensors(tmp_path / f"end{rank}.safetensors") for rank in (0, 1))
    routes, losses = first.pop("routes"), first.pop("losses")
    assert torch.equal(routes, second.pop("routes")) and torch.equal(losses, second.pop("losses"))
    made = trainer(tmp_path, **sequential())
    assert torch.equal(routes, torch.stack([Router(made.mixture.space, 42).views(step) for step in range(3)]))
    assert apart(first, second) == 0 and apart(weights(made), first) <= close.TRAINED.share
    close.assert_close(losses, torch.tensor([row["task_loss"] for row in logs(made)]), close.TRAINED)


def test_the_weight_of_the_consistency_is_the_mixtures(tmp_path):
    mixture = attach(tiny.bert(), LoRA(2), experts=2, objective=Consistency(3.0, "symmetric"))
    assert trainer(tmp_path, mixture).recipe.consistency == Consistency(3.0, "symmetric")
