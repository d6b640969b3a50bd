"""Every field of `TrainingArguments`: used, refused, or warned about, as docs/trainer.md says."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import tiny_task
import torch
import trainer_arguments
import transformers
from tiny_task import one_thread  # noqa: F401
from transformers import Trainer, TrainingArguments

from adamix_lab.tasks.batches import encode
from adamix_lab.training.hf_trainer import REFUSED, AdaMixTrainer
from adamix_lab.training.recipe import Recipe

TASK, TOKENIZER = tiny_task.task(24), tiny_task.tokenizer()
ROWS = encode(TASK.train, TASK, TOKENIZER)
HERE = [field.name for field in dataclasses.fields(TrainingArguments)]
VERDICTS = {name: verdict for name, (verdict, _) in trainer_arguments.FIELDS.items()}


def trained(folder, recipe=None, **more):
    values = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    made = AdaMixTrainer(tiny_task.mixture(), TrainingArguments(**(values | more)), recipe, ROWS)
    made.train()
    return torch.cat([tensor.flatten() for tensor in tiny_task.weights(made.mixture).values()])


def test_the_page_names_every_field_of_this_version():
    assert [name for name in HERE if name not in VERDICTS] == []
    assert trainer_arguments.PAGE.read_text("utf-8") == trainer_arguments.page()


def test_what_is_refused_is_refused_by_name():
    named = {name for name, verdict in VERDICTS.items() if verdict == "refused"}
    # these switch on, or mean nothing without, one that is refused
    by_another = """torch_compile_backend torch_compile_mode torchdynamo liger_kernel_config fsdp_config
    fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap _n_gpu""".split()
    assert named == {*REFUSED, *by_another}


# What sets the field, as the Trainer's own check of arguments allows it on this machine.
VALUES = {
    "torch_compile": True, "torch_compile_backend": "eager", "use_liger_kernel": True, "bf16_full_eval": True,
    "optim_target_modules": ["query"], "push_to_hub": True, "hub_model_id": "me/mine", "hub_strategy": "end",
    "save_safetensors": False, "past_index": 0, "jit_mode_eval": True,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in VALUES if name in HERE])
def test_refusals(name, tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    setattr(args, name, VALUES[name])
    if name == "torch_compile_backend":
        args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], torch_compile_backend="eager")
    with pytest.raises(ValueError, match=f"{name.removesuffix('_backend')} = .*: expected"):
        AdaMixTrainer(tiny_task.mixture(), args, train_dataset=ROWS)


def test_the_trainers_own_code_reads_what_is_used():
    # and AdaMixTrainer replaces none of the methods that do, but those that call the Trainer's
    root = Path(transformers.__file__).parent
    replaced = {"compute_loss", "_save", "_load_from_checkpoint", "_load_best_model"}
    tree = ast.parse(inspect.getsource(Trainer))
    tree.body[0].body = [part for part in tree.body[0].body if getattr(part, "name", "") not in replaced]
    files = [path for path in root.glob("trainer*.py") if path.name != "trainer.py"]
    files += [root / "training_args.py", *root.glob("integrations/*.py")]
    text = ast.unparse(tree) + "\n".join(path.read_text("utf-8") for path in files)
    read = set(re.findall(r"\b(?:args|self)\.(?!args\b)(\w+)", text))
    alias = {"gradient_checkpointing_kwargs"}  # of activation_checkpointing_kwargs, from transformers 5
    scripts = {name for name, (_, what) in trainer_arguments.FIELDS.items() if what.startswith("by scripts")}
    used = {name for name in HERE if VERDICTS[name] == "used"}
    assert sorted(used - read - scripts - alias) == []


# Those of learning, on data and of losses, which meet our own code: each changes what is learned.
CHANGES = {
    "learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 2, "optim": "sgd", "weight_decay": 0.5,
    "adam_beta1": 0.5, "adam_beta2": 0.5, "adam_epsilon": 1e-2, "max_grad_norm": 0.01, "label_smoothing_factor": 0.2,
    "neftune_noise_alpha": 5.0, "data_seed": 7, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "max_steps": 2, "bf16": True, "seed": 1, "train_sampling_strategy": "sequential", "group_by_length": True,
}  # fmt: skip


def test_what_changes_learning(tmp_path):
    first = trained(tmp_path)
    assert torch.equal(first, trained(tmp_path))
    changed = {name: trained(tmp_path, **{name: value}) for name, value in CHANGES.items() if name in HERE}
    assert [name for name, weights in changed.items() if torch.equal(weights, first)] == []


def test_a_setting_of_both_may_be_set_in_either(tmp_path):
    by_recipe = trained(tmp_path, Recipe(lr=1e-3, weight_decay=0.3, seed=5, label_smoothing=0.1), learning_rate=5e-5)
    settings = {"learning_rate": 1e-3, "weight_decay": 0.3, "seed": 5, "label_smoothing_factor": 0.1}
    assert torch.equal(by_recipe, trained(tmp_path, **settings))
    with pytest.raises(ValueError, match=r"learning_rate = 0.01 in the arguments, lr = 0.001 in the recipe"):
        trained(tmp_path, Recipe(lr=1e-3))
    with pytest.raises(ValueError, match="The recipe sets ema, patience: expected what the Trainer has"):
        trained(tmp_path, Recipe(ema=0.9, patience=2))
    with pytest.raises(ValueError, match="The recipe sets bucket: expected what the Trainer has"):
        trained(tmp_path, Recipe(bucket=1))  # rows come in the Trainer's order
    ignored = {"batch_size": 5, "accumulate": 2, "warmup": 0.5, "warmup_steps": 3, "max_length": 7, "dev_fraction": 0.3}
    for name, value in {**ignored, "choose_on": "evaluation", "evaluate_every": 2}.items():
        with pytest.raises(ValueError, match=f"The recipe sets {name}: expected what the Trainer has"):
            trained(tmp_path, Recipe(**{name: value}))
    with pytest.raises(ValueError, match=r"sets head_lr, off_route: .*optimizers=\(make_optimizer\(mixture, recipe\)"):
        trained(tmp_path, Recipe(head_lr=1e-4, off_route="freeze"))
