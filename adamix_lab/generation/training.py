"""Training a decoder on a generation task: `train` with pairs and a smoothed loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from adamix_lab.core.errors import fraction
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import IGNORED, next_token_loss
from adamix_lab.generation.encoding import check_decoder, encode_pairs
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import History
from adamix_lab.training.train import train


def train_generator(
    mixture: MixtureModel,
    task: Task,
    tokenizer: Any,
    recipe: Recipe | None = None,
    folder: str | Path | None = None,
    smoothing: float = 0.0,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> History:
    """`train` on (source, target) pairs: the loss and the consistency count the target's tokens only.

    smoothing: label smoothing of the task loss; the authors take 0.1 on E2E and WebNLG, 0 on DART. Their consistency
    weight is 100 a target token. Raises ValueError for a model that writes no texts, a task of classes, or a
    max_length beyond the model's positions; else as `train`.
    """
    fraction("smoothing", smoothing)
    recipe = recipe or Recipe()
    check_decoder(mixture.model, recipe.max_length)
    loss = partial(smoothed_next_token_loss, smoothing=smoothing) if smoothing else next_token_loss
    return train(mixture, task, tokenizer, recipe, folder, loss, progress, on_step, encode_pairs)


def smoothed_next_token_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """`next_token_loss`, smoothed: logits `[B, T, V]`, unshifted labels `[B, T]` with -100 off the target."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
    )


def one_view(recipe: Recipe) -> Recipe:
    """The recipe without consistency: what a single module and full fine-tuning train with."""
    return replace(recipe, consistency=replace(recipe.consistency, weight=0.0))
