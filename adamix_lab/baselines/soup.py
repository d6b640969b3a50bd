"""The control of averaging without AdaMix: M single adapters trained apart, then souped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from adamix_lab.baselines.making import EXPERTS, Blocks, baseline
from adamix_lab.core.merging import side_by_side
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.saving import load_trained, trained_tensors
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.evaluation import Evaluation, evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train

Loader = Callable[[], tuple[Any, Any]]


def train_apart(
    load: Loader,
    task: Task,
    recipe: Recipe,
    experts: int = EXPERTS,
    size: int = 16,
    seed: int = 0,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
    blocks: Blocks = None,
    folder: Path | None = None,
) -> tuple[MixtureModel, list[Evaluation]]:
    """M single adapters trained one by one, each with its own start, batches and dropout, side by side in one mixture.

    The merge of the mixture is their soup: adapters and heads averaged, uniformly.

    Args:
        load: gives the backbone, with one and the same head, and its tokenizer, afresh at each call.
        task: what all of them learn.
        recipe: of each of them; its seed is replaced.
        experts: M.
        size: of each bottleneck.
        seed: run n takes `experts * seed + n`.
        progress: show bars.
        on_step: as in `train`.
        blocks: layer numbers to adapt; None adapts all.
        folder: for logs and checkpoints, in `adapter0`, `adapter1`, ...; a killed run goes on from them.

    Returns:
        The mixture, and the evaluation of each adapter alone, with the head that it was trained with.
    """
    parts: list[dict[str, torch.Tensor]] = []
    alone: list[Evaluation] = []
    for n in range(experts * seed, experts * (seed + 1)):
        model, tokenizer = load()
        one = baseline("single", model, seed=n, size=size, blocks=blocks)
        place = None if folder is None else folder / f"adapter{len(parts)}"
        train(one, task, tokenizer, replace(recipe, seed=n), place, progress=progress, on_step=on_step)
        alone += evaluate(one, task, tokenizer, max_length=recipe.max_length)
        parts.append({name: tensor.clone() for name, tensor in trained_tensors(one).items()})
    model, _ = load()
    soup = baseline("apart-soup", model, seed=seed, size=size, experts=experts, blocks=blocks)
    load_trained(soup, side_by_side(parts))
    return soup.eval(), alone


def ensemble(alone: list[Evaluation]) -> Evaluation:
    """The ensemble of runs on the same rows: their log-probabilities averaged and normalised (as logits are)."""
    log_p = torch.stack([result.log_probabilities for result in alone]).mean(0).log_softmax(-1)
    return _evaluation("ensemble", log_p, alone)


def _evaluation(name: str, log_p: torch.Tensor, alone: list[Evaluation]) -> Evaluation:
    labels = alone[0].labels
    accuracy = float((log_p.argmax(-1) == labels).double().mean())
    loss = float(torch.nn.functional.nll_loss(log_p, labels))
    return Evaluation(name, accuracy, loss, len(alone), log_p, labels)
