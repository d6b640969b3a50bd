from dataclasses import replace

import close
import pytest
import tiny_task
import torch
from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.files import read_tensors
from adamix_lab.core.objective import Consistency
from adamix_lab.models.model import attach
from adamix_lab.models.saving import load
from adamix_lab.tasks.batches import Batches, encode
from adamix_lab.training.train import make_optimizer, train

TASK, TOKENIZER = tiny_task.task(96), tiny_task.tokenizer()
STEPS = 20  # into the second epoch of twelve batches


def trainer(folder, mixture, recipe, dataset=None, optimizers=(None, None), **more):
    from torch.utils.data import SequentialSampler
    from transformers import TrainingArguments

    from adamix_lab.training.hf_trainer import AdaMixTrainer

    class InOrder(AdaMixTrainer):
        def _get_train_sampler(self, *args):
            return SequentialSampler(self.train_dataset)

    values = {
        "output_dir": str(folder), "max_steps": recipe.steps, "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.lr, "warmup_steps": -(-recipe.steps * 6 // 100), "max_grad_norm": recipe.clip,
        "logging_steps": 1, "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
        "seed": recipe.seed, "dataloader_pin_memory": False,
    }  # fmt: skip
    if dataset is None:  # in the order of `train`
        examples = encode(TASK.train, TASK, TOKENIZER)
        batches = Batches(examples, recipe.batch_size, recipe.seed, recipe.bucket)
        dataset = [examples[n] for step in range(recipe.steps or 1) for n in batches.at(step)]
    evaluation = encode(TASK.evaluation, TASK, TOKENIZER)
    args = TrainingArguments(**(values | more))
    return InOrder(mixture, args, recipe, dataset, eval_dataset=evaluation, optimizers=optimizers)


def losses_of(made):
    # not "loss", which transformers 4 rounds to four digits
    return [row["task_loss"] + row["consistency"] for row in made.state.log_history if "loss" in row]


@pytest.mark.parametrize("off_route", ["drift", "freeze"])
def test_the_same_losses_as_our_loop(tmp_path, off_route):
    recipe = tiny_task.recipe(steps=STEPS, log_every=1, lr=1e-3, off_route=off_route, warmup=0.06)
    ours = tiny_task.mixture()
    history = train(ours, TASK, TOKENIZER, recipe, progress=False)
    theirs = tiny_task.mixture()
    optimizers = (make_optimizer(theirs, recipe) if off_route == "freeze" else None, None)
    made = trainer(tmp_path, theirs, replace(recipe, off_route="drift"), optimizers=optimizers)
    made.train()
    close.assert_close(losses_of(made), history.losses)
    assert tiny_task.apart(tiny_task.weights(ours), tiny_task.weights(theirs)) <= close.TRAINED.share


def test_accumulation_keeps_one_route_a_step(tmp_path):
    recipe = tiny_task.recipe(steps=4, batch_size=4, consistency=Consistency(1.0))
    made = trainer(tmp_path, tiny_task.mixture(), recipe, gradient_accumulation_steps=2)
    seen = []
    layers = list(made.mixture.sites.values())
    layers[0].register_forward_pre_hook(lambda layer, _: seen.append(torch.stack([x.selection for x in layers])))
    made.train()
    assert len(seen) == 8 and all(torch.equal(seen[n], seen[n + 1]) for n in range(0, 8, 2))
    assert not torch.equal(seen[0], seen[2])


def test_evaluation_uses_the_merged_model(tmp_path):
    mixture = tiny_task.mixture()
    made = trainer(tmp_path, mixture, tiny_task.recipe())
    made.compute_metrics = lambda output: {
        "accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())
    }
    found = made.evaluate()
    mixture.eval()
    with torch.no_grad():
        logits = [mixture(**TOKENIZER(row["sentence"], return_tensors="pt")).logits[0] for row in TASK.evaluation]
    labels = torch.tensor([row["label"] for row in TASK.evaluation])
    expected = torch.nn.functional.cross_entropy(torch.stack(logits), labels)
    close.assert_close(found["eval_loss"], float(expected))
    assert found["eval_accuracy"] == pytest.approx(float((torch.stack(logits).argmax(-1) == labels).float().mean()))


def test_saving_writes_the_trained_tensors_only(tmp_path):
    import tiny

    mixture = tiny_task.mixture()
    made = trainer(tmp_path, mixture, tiny_task.recipe())
    made.save_model()
    assert sum(t.numel() for t in read_tensors(tmp_path / "trained.safetensors").values()) == sum(
        p.numel() for p in mixture.parameters() if p.requires_grad
    )
    assert not (tmp_path / "model.safetensors").exists()
    again = load(tiny.bert(), tmp_path)
    assert tiny_task.apart(tiny_task.weights(mixture), tiny_task.weights(again)) == 0


def test_resuming_and_the_best_model(tmp_path):
    recipe = tiny_task.recipe(steps=12, lr=1e-2)
    settings = {"save_strategy": "steps", "save_steps": 6, "eval_strategy": "steps", "eval_steps": 6}
    whole = tiny_task.mixture()
    trainer(tmp_path, whole, recipe, **settings).train()
    resumed = tiny_task.mixture()
    trainer(tmp_path, resumed, recipe, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert tiny_task.apart(tiny_task.weights(whole), tiny_task.weights(resumed)) <= close.TRAINED.share
    best = tiny_task.mixture()
    made = trainer(tmp_path / "best", best, recipe, load_best_model_at_end=True, **settings)
    made.train()
    folder = made.state.best_model_checkpoint
    assert tiny_task.apart(tiny_task.weights(best), read_tensors(f"{folder}/trained.safetensors")) == 0


def test_the_wrapped_model_cannot_be_saved_by_the_base_library(tmp_path):
    import tiny

    from adamix_lab.core.adaptations import Bottleneck

    model = tiny.bert()
    attach(model, Bottleneck(4), experts=2)
    with pytest.raises(RuntimeError, match=r"adamix_lab.save"):
        model.save_pretrained(tmp_path)
