"""AdaMix for those who live in `transformers.Trainer`: thin subclasses. docs/trainer.md tells of every argument.

They differ from the Trainer in these: the loss is the objective's, all pieces of a step under the routes of (seed,
step); evaluation is the merge; what decays is what the adaptation declares; only what was trained is saved. Losses of
one's own and label smoothing become the objective's task loss.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Seq2SeqTrainer, Trainer, TrainingArguments
from transformers.utils import ModelOutput

from adamix_lab.core.errors import LabError
from adamix_lab.core.files import read_tensors, write_tensors
from adamix_lab.core.mixture import during
from adamix_lab.core.objective import Objective, TaskLoss, task_loss_of, without_labels
from adamix_lab.core.routing import Router
from adamix_lab.core.views import Batch, logits_of, spans_as_labels
from adamix_lab.fast.blocks import WAYS
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.tasks.batches import Padding, collate, padding_of, positions
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import save
from adamix_lab.training.train import parameter_groups, rest_off_route

WEIGHTS = "trained.safetensors"
# The arguments that a recipe has, too, by their name there.
SHARED = {
    "learning_rate": "lr", "weight_decay": "weight_decay", "adam_epsilon": "eps", "max_grad_norm": "clip",
    "label_smoothing_factor": "label_smoothing", "seed": "seed", "max_steps": "steps", "num_train_epochs": "epochs",
}  # fmt: skip
# What a recipe may ask `train` for.
TRAIN_ALONE = (
    "swa ema patience cache_prefix cached_passes precision head_lr side_rates off_route bucket batch_size".split()
)
TRAIN_ALONE += "accumulate warmup warmup_steps max_length dev_fraction choose_on evaluate_every".split()
# What would train or save something else than it says, and what to do instead.
HUB = "Call adamix_lab.push_to_hub(mixture, NAME) after training: the Trainer would upload other files"
_INSTEAD = {
    "torch_compile": "Call mixture.model.compile() before training",
    "use_liger_kernel": "Leave it out: its fused losses give no logits, which the consistency compares",
    "fsdp deepspeed parallelism_config": "Start one process a GPU with torchrun or accelerate launch (DDP)",
    "bf16_full_eval fp16_full_eval": "Take bf16 or fp16: experts and head stay float32, as training needs them",
    "optim_target_modules": "Leave it out: the layers it names are frozen, and experts are stacked beside them",
    "push_to_hub hub_model_id hub_token hub_private_repo hub_strategy hub_always_push hub_revision": HUB,
    "push_to_hub_model_id push_to_hub_organization push_to_hub_token": HUB,
    "predict_with_generate": "Use AdaMixSeq2SeqTrainer",
    "jit_mode_eval past_index": "Leave it out",
    "save_safetensors": "Leave it out: weights are always safetensors",
}
REFUSED = {name: instead for names, instead in _INSTEAD.items() for name in names.split()}


class AdaMixTrainer(Trainer):
    """Trains a mixture with the Trainer's loop, callbacks and logging; the log has `task_loss` and `consistency`.

    Consistency, routing and what decays come from the recipe, all else from the arguments. A setting that both have
    (rate, decay, epsilon, clipping, seed, steps, epochs) may be set in either.

    Args:
        mixture: from `attach`.
        args: the Trainer's; they are not changed. What cannot be used is refused.
        recipe: settings; None takes the arguments' and the consistency that `attach` was given.
        train_dataset: examples from `encode`, or whatever the Trainer takes.
        task_loss: (logits, labels) to a mean over rows; None takes what fits the head.
        **settings: whatever else the Trainer takes; `processing_class`, the tokenizer, says how batches are padded,
            and a `compute_loss_func` takes the first view's logits.

    Raises:
        ValueError: arguments that cannot be used, settings that differ in recipe and arguments, two losses, several
            GPUs in one process (DataParallel would split the views among them).
    """

    generates = False

    def __init__(
        self,
        mixture: MixtureModel,
        args: TrainingArguments | None = None,
        recipe: Recipe | None = None,
        train_dataset: Any = None,
        task_loss: TaskLoss | None = None,
        **settings: Any,
    ) -> None:
        if mixture is None or settings.get("model_init"):
            raise LabError("model_init would make a model that the recipe does not know: expected a mixture. Give it.")
        args = copy.copy(args) if args is not None else TrainingArguments("tmp_trainer")
        check_arguments(args, self.generates)
        self.mixture, self.task_loss = mixture, task_loss
        self.recipe = agreed_recipe(args, recipe or Recipe(consistency=mixture.mixture.objective), recipe is not None)
        self.router = Router(mixture.space, self.recipe.seed, self.recipe.per)
        self._window = torch.zeros(3)  # since the last log: sums of task loss and consistency, and steps
        if settings.get("data_collator") is None:
            pad, most = self._padding(settings.get("processing_class")), positions(mixture.model)
            settings["data_collator"] = partial(batch_of, pad=pad, most=most)
        super().__init__(mixture, args, train_dataset=train_dataset, **settings)
        self.model_accepts_loss_kwargs = False
        self._check()

    def _padding(self, tokenizer: Any) -> Padding:
        if tokenizer is not None:
            return padding_of(tokenizer, self.mixture.model)
        return Padding(getattr(getattr(self.mixture.model, "config", None), "pad_token_id", None) or 0)

    def _check(self) -> None:
        self._objective(None)  # which refuses what does not fit the head
        if (self.task_loss, self.compute_loss_func, self.recipe.label_smoothing or None).count(None) < 2:
            raise LabError(
                "task_loss, compute_loss_func and label_smoothing_factor: expected one of them. Leave the others out."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.n_gpu > 1:
            raise LabError(
                f"{self.args.n_gpu} GPUs in one process (DataParallel), FSDP or DeepSpeed would split views or experts:"
                " expected one process a GPU. Start it with torchrun or accelerate launch (DDP), or set "
                "CUDA_VISIBLE_DEVICES=0."
            )

    # -- losses -----------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In training the objective's total; in evaluation the task loss of the merged model."""
        batch = spans_as_labels(inputs)
        if batch.get("labels") is None:
            raise LabError(f"A batch of {sorted(batch)} has no labels: expected them. Name their column labels.")
        objective = self._objective(num_items_in_batch)
        if not model.training:
            outputs = model(selection="merge", **without_labels(self.mixture.model, batch))
            loss = objective.task_loss(logits_of(outputs), batch["labels"])
            return (loss, outputs) if return_outputs else loss
        tokens = next((batch[name].shape[1] for name in ("input_ids", "inputs_embeds") if name in batch), 1)
        views, rows = objective.consistency.number, len(batch["labels"])
        routes = self.router.views(self.state.global_step, views, rows, tokens)  # the same for all pieces of the step
        rest_off_route(self.optimizer, self.mixture, routes)
        routes = routes.to(batch["labels"].device)
        # Through `model`, which may be DDP around the mixture: it calls back from inside.
        with during({self.mixture: {"run": partial(objective, routes=routes)}}):
            losses = model(**batch)
        share = 1 / self.current_gradient_accumulation_steps
        task = losses.task if self.compute_loss_func else losses.task * share
        seen = torch.stack([task, losses.consistency * share, torch.full_like(task, share)])
        self._window = self._window.to(seen) + seen
        return (losses.total, ModelOutput(logits=losses.logits)) if return_outputs else losses.total

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, with a span's start and end as labels."""
        return super().prediction_step(model, spans_as_labels(inputs), *args, **kwargs)

    def _objective(self, items: Any) -> Objective:
        """This batch's objective. `items`: what is counted in all pieces of the step, for a compute_loss_func."""
        consistency, task_loss = self.recipe.consistency, self.task_loss
        if self.compute_loss_func is not None:  # it divides by the pieces itself, as the Trainer asks it to
            pieces = getattr(self, "current_gradient_accumulation_steps", 1)
            consistency = replace(consistency, weight=consistency.weight / pieces)
            averaged = items is not None and self.args.average_tokens_across_devices
            task_loss = partial(self._by_function, items=items, scale=self.accelerator.num_processes if averaged else 1)
        elif task_loss is None:
            task_loss = task_loss_of(self.mixture, self.recipe.label_smoothing)
        return Objective(self.mixture, consistency, task_loss, WAYS)

    def _by_function(self, logits: Tensor, labels: Tensor, items: Any, scale: int) -> Tensor:
        assert self.compute_loss_func is not None
        loss: Tensor = self.compute_loss_func(ModelOutput(logits=logits), labels, num_items_in_batch=items)
        return loss * scale

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """With the means of task loss and consistency since the last log."""
        if "loss" in logs and self._window[2]:
            task, agree, steps = self.accelerator.reduce(self._window, "mean").tolist()
            logs |= {"task_loss": task / steps, "consistency": agree / steps}
            self._window = torch.zeros_like(self._window)
        super().log(logs, *args, **kwargs)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """What the adaptation declares to decay, and weights of the head: stacked biases look like matrices."""
        groups = [group for group in parameter_groups(self.mixture, self.recipe) if group["weight_decay"]]
        decaying = {parameter for group in groups for parameter in group["params"]}
        return [name for name, parameter in model.named_parameters() if parameter in decaying]

    # -- files ------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            write_tensors(folder / WEIGHTS, trained_tensors(self.mixture))
            save(self.mixture, folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.mixture, read_tensors(Path(resume_from_checkpoint) / WEIGHTS))

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError."""
        raise LabError(f"The Trainer's push_to_hub was called: expected adamix_lab's. {HUB}.")

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)


class AdaMixSeq2SeqTrainer(AdaMixTrainer, Seq2SeqTrainer):
    """The same for encoder-decoders: evaluation may write texts (`predict_with_generate`)."""

    generates = True


def check_arguments(args: TrainingArguments, generates: bool = False) -> None:
    """Raises ValueError for an argument that cannot be used: its name, what was expected, and what to do."""
    for field in fields(args):
        given = getattr(args, field.name)
        refused = field.name in REFUSED and not (field.name == "predict_with_generate" and generates)
        if refused and (given or None) != (field.default or None):
            raise LabError(f"{field.name} = {given!r}: expected {field.default!r}. {REFUSED[field.name]}.")


def agreed_recipe(args: TrainingArguments, recipe: Recipe, was_given: bool = True) -> Recipe:
    """The recipe with the arguments' values where they share a setting, and the arguments with the recipe's, in place.

    What one of them leaves at its default is the other's. Raises ValueError for a setting that differs in both.
    """
    own = {"batch_size": args.per_device_train_batch_size, "dev_fraction": 0.0}  # what the Trainer does of these
    if asked := [n for n in TRAIN_ALONE if getattr(recipe, n) not in (getattr(Recipe(), n), own.get(n))]:
        raise LabError(
            f"The recipe sets {', '.join(asked)}: expected what the Trainer has. Use train, or its arguments; "
            "optimizers=(make_optimizer(mixture, recipe), None) has a recipe's rates and off_route."
        )
    untouched, usual = ({field.name: field.default for field in fields(kind)} for kind in (args, Recipe))
    agreed: dict[str, Any] = {}
    for name, setting in SHARED.items():
        theirs, ours = getattr(args, name), getattr(recipe, setting)
        if was_given and ours is not None and theirs == untouched[name]:
            setattr(args, name, ours)
        elif was_given and ours not in (theirs, usual[setting]):
            raise LabError(
                f"{name} = {theirs} in the arguments, {setting} = {ours} in the recipe: expected one of them, or "
                "equal values. Leave one at its default."
            )
        else:
            agreed[setting] = theirs
    return replace(recipe, **{name: value for name, value in agreed.items() if name not in ("steps", "epochs")})


def batch_of(examples: Sequence[Mapping[str, Any]], pad: Padding, most: int | None = None) -> Batch:
    """A padded batch of examples: tensors, or numbers and lists of numbers. Columns are named as the Trainer's are.

    Raises ValueError where a row has more tokens than `most`, the model's positions.
    """
    names = {"label": "labels", "label_ids": "labels"}
    batch = collate([{names.get(name, name): torch.as_tensor(row[name]) for name in row} for row in examples], pad)
    if most is not None and "input_ids" in batch and batch["input_ids"].shape[1] > most:
        tokens = batch["input_ids"].shape[1]
        raise LabError(
            f"A row has {tokens} tokens: expected at most {most}, the model's positions. Cut it (max_length)."
        )
    return batch
