"""Training a decoder on a generation task: `train` with pairs and a smoothed loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import fraction
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import next_token_loss
from adamix_lab.generation.encoding import check_decoder, encode_pairs
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.presets import smoothed_next_token_loss
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


def one_view(recipe: Recipe) -> Recipe:
    """The recipe without consistency: what a single module and full fine-tuning train with."""
    return replace(recipe, consistency=replace(recipe.consistency, weight=0.0))
