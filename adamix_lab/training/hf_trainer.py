"""AdaMix for those who live in `transformers.Trainer`: a thin subclass.

It differs from the Trainer in four things: the loss is the objective's (two routed views), routes are a function of
(seed, step), the optimiser and its groups are the recipe's, and only what was trained is saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from adamix_lab.core.errors import LabError
from adamix_lab.core.files import read_tensors, write_tensors
from adamix_lab.core.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.core.objective import Objective, TaskLoss
from adamix_lab.core.routing import Router
from adamix_lab.fast.views import WAYS
from adamix_lab.tasks.batches import ZEROS, Batches, Example, collate, length, padding_of
from adamix_lab.training.card import save
from adamix_lab.training.optim import make_optimizer, rest_off_route
from adamix_lab.training.recipe import Recipe

WEIGHTS = "trained.safetensors"


class AdaMixTrainer(Trainer):
    """Trains a mixture with the Trainer's loop, callbacks and logging.

    Rates, decay, consistency, routing and `off_route` come from the recipe; steps, batch sizes, precision, clipping,
    accumulation and the schedule come from the arguments. Evaluation uses the merged model.

    Args:
        mixture: from `attach`.
        args: the Trainer's; `remove_unused_columns` is switched off, as the examples hold no others.
        recipe: settings; None takes the defaults.
        train_dataset: examples from `encode`: batches are bucketed by length, in our loop's order.
        task_loss: (logits, labels) to a mean over rows; None takes what fits the head.
        **settings: whatever else the Trainer takes; `processing_class`, the tokenizer, says how batches are padded.

    Raises:
        ValueError: several GPUs in one process, where DataParallel would split the views among them.
    """

    def __init__(
        self,
        mixture: MixtureModel,
        args: TrainingArguments,
        recipe: Recipe | None = None,
        train_dataset: list[Example] | None = None,
        task_loss: TaskLoss | None = None,
        **settings: Any,
    ) -> None:
        self.mixture = mixture
        self.recipe = recipe or Recipe()
        self.router = Router(mixture.space, self.recipe.seed, self.recipe.per)
        args.remove_unused_columns = False
        args.label_names = ["labels"]  # the objective's own arguments are a batch and routes
        tokenizer = settings.get("processing_class")
        pad = ZEROS if tokenizer is None else padding_of(tokenizer, mixture.model)
        settings.setdefault("data_collator", lambda examples: collate(examples, pad))
        objective = Objective(mixture, self.recipe.consistency, task_loss, WAYS)
        super().__init__(objective, args, train_dataset=train_dataset, **settings)
        if self.args.n_gpu > 1:
            raise LabError(
                f"The Trainer would split views over {self.args.n_gpu} GPUs in one process (DataParallel): expected "
                "one process a GPU. Start it with torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES=0."
            )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In training the objective's total; in evaluation the task loss of the merged model."""
        if not model.training:
            named = {name: value for name, value in inputs.items() if name != "labels"}
            output = self.mixture(selection="merge", **named)
            loss = self.accelerator.unwrap_model(model).task_loss(output.logits, inputs["labels"])
            return (loss, (loss, output.logits)) if return_outputs else loss
        rows, tokens = len(inputs["labels"]), length({"input_ids": next(iter(inputs.values()))[0]})
        step, views = self.state.global_step, self.recipe.consistency.number
        routes = self.router.views(step, views, rows, tokens)
        rest_off_route(self.optimizer, self.mixture, routes)  # all pieces of an accumulated step take the same routes
        losses = model(inputs, routes.to(inputs["labels"].device))
        return (losses.total, losses) if return_outputs else losses.total

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The recipe's optimiser, over experts and head."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.mixture, self.recipe)
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader:
        """Our length-bucketed batches; a data set that is no list of examples goes the Trainer's way."""
        if not isinstance(self.train_dataset, list):
            return super().get_train_dataloader()
        batches = Batches(self.train_dataset, self._train_batch_size, self.recipe.seed, self.recipe.bucket)
        loader: DataLoader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            write_tensors(folder / WEIGHTS, trained_tensors(self.mixture))
            save(self.mixture, folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.mixture, read_tensors(Path(resume_from_checkpoint) / WEIGHTS))

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
