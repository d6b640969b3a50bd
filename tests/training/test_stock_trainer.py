"""A wrapped model under the stock Trainer and in a loop of one's own: training mode is AdaMix, as `train` does it."""

import copy

import close
import pytest
import tiny
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core import views
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.fast.blocks import WAYS
from adamix_lab.models.model import attach
from adamix_lab.tasks.batches import Batches, collate, encode
from adamix_lab.training.train import make_optimizer, set_rate, train

TASK, TOKENIZER, STEPS = tiny_task.task(), tiny_task.tokenizer(), 50
RECIPE = tiny_task.recipe(
    steps=STEPS, seed=1, lr=1e-3, weight_decay=0.0, consistency=Consistency(views="independent"), log_every=1
)
EXAMPLES = encode(TASK.train, TASK, TOKENIZER)
ORDER = [n for step in range(STEPS) for n in Batches(EXAMPLES, RECIPE.batch_size, RECIPE.seed, RECIPE.bucket).at(step)]


def trained():
    mixture = tiny_task.mixture()
    history = train(mixture, TASK, TOKENIZER, RECIPE, progress=False)
    return mixture, history.losses


def stock(folder, mixture, rows=ORDER, **settings):
    """The stock Trainer on rows in a given order."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *args):
            return SequentialSampler(self.train_dataset)

    values = {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": RECIPE.batch_size,
        "learning_rate": RECIPE.lr, "warmup_steps": 3, "max_grad_norm": RECIPE.clip, "optim": "adamw_torch",
        "logging_steps": 1, "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
        "dataloader_pin_memory": False,
    }  # fmt: skip
    return InOrder(
        mixture, TrainingArguments(**(values | settings)), collate, train_dataset=[EXAMPLES[n] for n in rows]
    )


@pytest.mark.parametrize("cut", [True, False])
def test_a_loop_of_ones_own_is_train_bit_for_bit(monkeypatch, cut):
    """Fifty steps: weights and losses; where `train` cuts the last block, up to roundings."""
    if not cut:
        monkeypatch.setitem(WAYS, "independent", views.independent)
    expected, losses = trained()
    mixture, found = tiny_task.mixture().train(), []
    optimizer = make_optimizer(mixture, RECIPE)
    for step in range(STEPS):
        batch = collate([EXAMPLES[n] for n in ORDER[step * RECIPE.batch_size :][: RECIPE.batch_size]])
        set_rate(optimizer, RECIPE.rate(step, STEPS))
        loss = mixture(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mixture.parameters(), RECIPE.clip)
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    apart = tiny_task.apart(tiny_task.weights(mixture), tiny_task.weights(expected))
    print(f"\nafter {STEPS} steps: a loop of one's own and train are {apart} apart")
    assert int(mixture.draws) == STEPS and int(expected.draws) == 0
    if cut:
        assert apart <= 1e-5
        close.assert_close(found, losses, close.ROUNDED)
    else:
        assert apart == 0 and found == losses


def test_the_stock_trainer_is_train(tmp_path):
    expected, losses = trained()
    mixture = tiny_task.mixture()
    made = stock(tmp_path, mixture)
    made.train()
    apart = tiny_task.apart(tiny_task.weights(mixture), tiny_task.weights(expected))
    print(f"\nafter {STEPS} steps: the stock Trainer and train are {apart:.2g} apart")
    assert apart <= 1e-5
    logged = [row["loss"] for row in made.state.log_history if "loss" in row]
    close.assert_close(logged, losses, close.REORDERED)
    untrained = tiny_task.weights(tiny_task.mixture())
    assert tiny_task.apart(untrained, tiny_task.weights(expected)) > 1e-2  # there is something to compare


def test_the_stock_trainer_resumes_with_the_next_route(tmp_path):
    whole = tiny_task.mixture()
    stock(tmp_path, whole, max_steps=20, save_strategy="steps", save_steps=10).train()
    resumed = tiny_task.mixture()
    again = stock(tmp_path, resumed, max_steps=20, save_strategy="steps", save_steps=10)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert int(resumed.draws) == int(whole.draws) == 20
    assert tiny_task.apart(tiny_task.weights(resumed), tiny_task.weights(whole)) <= close.TRAINED.share


def test_pieces_of_a_step(tmp_path, monkeypatch):
    """`train` gives all pieces of a step the same routes; plain `forward` draws anew at each call."""
    seen = []
    forward = Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda self, b, r: seen.append(r.clone()) or forward(self, b, r))
    recipe = tiny_task.recipe(steps=3, seed=1, batch_size=8, accumulate=2)
    mixture = tiny_task.mixture()
    train(mixture, TASK, TOKENIZER, recipe, progress=False)
    expected = [Router(mixture.space, 1).views(step) for step in range(3) for _ in range(2)]
    assert len(seen) == 6 and all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    seen.clear()
    other = tiny_task.mixture()
    stock(tmp_path, other, max_steps=3, gradient_accumulation_steps=2, per_device_train_batch_size=4).train()
    expected = [Router(other.space, 1).views(call) for call in range(6)]
    assert len(seen) == 6 and all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_accumulation_divides_the_loss(tmp_path):
    """`forward` takes any keyword, and yet no `num_items_in_batch`: Trainer must divide by the pieces itself."""
    made = stock(tmp_path, tiny_task.mixture(), max_steps=2, gradient_accumulation_steps=2)
    assert made.model_accepts_loss_kwargs is False
    made.train()
    losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    alone = stock(tmp_path, tiny_task.mixture(), max_steps=2)
    alone.train()
    first = next(row["loss"] for row in alone.state.log_history if "loss" in row)
    assert 0.5 * first < losses[0] < 1.5 * first


def test_columns_labels_and_evaluation(tmp_path):
    """The stock Trainer keeps the columns that the wrapped model reads, finds the labels, and evaluates the merge."""
    datasets = pytest.importorskip("datasets")
    from transformers import DataCollatorWithPadding

    rows = [{name: value.tolist() for name, value in example.items()} for example in EXAMPLES[:24]]
    data = datasets.Dataset.from_list([{**row, "sentence": "?"} for row in rows])
    mixture = tiny_task.mixture()
    made = stock(tmp_path, mixture, max_steps=2)
    made.train_dataset, made.data_collator = data, DataCollatorWithPadding(TOKENIZER)
    assert made.label_names == ["labels"]
    made.train()
    assert int(mixture.draws) == 2
    found = made.evaluate(data)["eval_loss"]
    with torch.no_grad():
        expected = mixture.eval()(**collate(EXAMPLES[:24])).loss
    close.assert_close(found, float(expected), close.REORDERED)
    assert int(mixture.draws) == 2


@pytest.mark.parametrize("settings", [{"label_smoothing_factor": 0.1}, {"gradient_checkpointing": True}])
def test_settings_that_change_the_call(tmp_path, settings):
    mixture = tiny_task.mixture()
    if "label_smoothing_factor" in settings:
        with pytest.warns(UserWarning, match="came without labels"):
            stock(tmp_path, mixture, max_steps=2, **settings).train()
        return
    expected = tiny_task.mixture()
    for each, more in ((mixture, settings), (expected, {})):
        stock(tmp_path, each, max_steps=4, **more).train()
    assert tiny_task.apart(tiny_task.weights(mixture), tiny_task.weights(expected)) <= close.TRAINED.share


def test_a_language_model_with_tied_weights_is_saved_and_resumed(tmp_path):
    """safetensors refuses weights under two names; label smoothing shifts the labels of language models by name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    def writer():
        return attach(tiny.gpt2(), Bottleneck(4), experts=3, seed=1)

    rows = [{"input_ids": ids, "labels": ids} for ids in tiny.batch(24, 8, pad=False)["input_ids"]]
    whole, resumed = writer(), writer()
    for each, more in ((whole, None), (resumed, str(tmp_path / "checkpoint-2"))):
        made = stock(tmp_path, each, max_steps=4, save_strategy="steps", save_steps=2, per_device_train_batch_size=4)
        made.train_dataset, made.data_collator = rows, _stacked
        made.train(resume_from_checkpoint=more)
    assert tiny_task.apart(tiny_task.weights(resumed), tiny_task.weights(whole)) <= close.TRAINED.share
    assert whole._get_name() in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    state = copy.deepcopy(whole.state_dict())
    fresh = writer()
    assert fresh.load_state_dict(state) and torch.equal(fresh.model.lm_head.weight, whole.model.lm_head.weight)


def _stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def test_data_parallel_is_refused():
    with pytest.raises(ValueError, match=r"DataParallel.*one process a GPU"):
        tiny_task.mixture()._replicate_for_data_parallel()
