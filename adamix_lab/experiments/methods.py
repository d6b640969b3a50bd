"""Methods to compare, one word each: functions of (task, backbone, budget), all under the same budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from adamix_lab.baselines.making import BASELINES, Blocks
from adamix_lab.baselines.probe import linear_probe
from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.model import MixtureModel, attach
from adamix_lab.core.objective import Consistency
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import Encoder, encode
from adamix_lab.tasks.prompts import Prompt, load_prompted, prompt_encoder
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.evaluation import Evaluation, evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import parameter_report
from adamix_lab.training.train import train


@dataclass(frozen=True)
class Budget:
    """What every method of a comparison is given.

    Attributes:
        steps: optimiser steps; or `epochs` over the training rows.
        batch_size: rows a step.
        lr: of what is adapted.
        head_lr: of the head.
        max_length: tokens a row.
        top_blocks: adapted blocks, from the top; what lies below is computed once. None adapts all.
        prompt: template and label words, where the backbone's masked-LM head answers; None takes a new head.
        seed: of head, experts, routes, batches and dropout.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    lr: float = 3e-3
    head_lr: float = 1e-2
    max_length: int = 128
    top_blocks: int | None = None
    prompt: Prompt | None = None
    seed: int = 0

    def recipe(self, consistency: Consistency) -> Recipe:
        """The training settings: no dev slice, so the last weights are kept."""
        return Recipe(
            steps=self.steps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            head_lr=self.head_lr,
            max_length=self.max_length,
            consistency=consistency,
            seed=self.seed,
            dev_fraction=0.0,
            cache_prefix=self.top_blocks is not None and self.prompt is None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What a method gave.

    Attributes:
        evaluations: one for each of `task.evaluation_tasks()`, the model as it would be used (merged).
        seconds: of training, encoding included.
        trained: parameters that train, with the head.
        kept: parameters beside the base that answer at the end, with the head.
    """

    evaluations: list[Evaluation]
    seconds: float
    trained: int
    kept: int


Method = Callable[[Task, str, Budget], Outcome]


def probe(task: Task, backbone: str, budget: Budget) -> Outcome:
    """Logistic or ridge regression on the frozen features: no steps are taken, every training row is read once."""
    model, tokenizer = load_backbone(backbone, num_labels=task.num_labels, seed=budget.seed)
    start = time.perf_counter()
    results = [linear_probe(model, part, tokenizer, max_length=budget.max_length) for part in task.evaluation_tasks()]
    outputs = 1 if task.num_labels <= 2 else task.num_labels  # of two classes one is enough
    weights = outputs * (int(model.config.hidden_size) + 1)
    return Outcome(results, time.perf_counter() - start, weights, weights)


def adapted(
    task: Task, backbone: str, budget: Budget, make: Callable[..., MixtureModel], consistency: float = 0.0
) -> Outcome:
    """An adaptation with its head (or with the words of a prompt), trained and judged merged.

    make: (model, seed, blocks) to the mixture, as the makers of `adamix_lab.baselines.making`.
    """
    encoder: Encoder = encode
    model: Any
    if budget.prompt is None:
        model, tokenizer = load_backbone(backbone, num_labels=task.num_labels, seed=budget.seed)
    else:
        model, tokenizer = load_prompted(backbone, budget.prompt, task, budget.seed)
        encoder = prompt_encoder(budget.prompt)
    blocks = None if budget.top_blocks is None else range(-budget.top_blocks, 0)
    mixture = make(model, seed=budget.seed, blocks=blocks)
    kind = "mse" if task.regression else "reference"
    recipe = budget.recipe(Consistency(consistency, kind, views="shared_prefix"))
    start = time.perf_counter()
    train(mixture, task, tokenizer, recipe, progress=False, encoder=encoder)
    seconds = time.perf_counter() - start
    results = [
        evaluate(mixture, part, tokenizer, max_length=budget.max_length, encoder=encoder)[0]
        for part in task.evaluation_tasks()
    ]
    counts = parameter_report(mixture)
    return Outcome(results, seconds, counts.experts + counts.head, counts.merged + counts.head)


def lora(task: Task, backbone: str, budget: Budget) -> Outcome:
    """LoRA of rank 8 on query and value."""

    def make(model: nn.Module, seed: int, blocks: Blocks) -> MixtureModel:
        return attach(model, LoRA(8), experts=1, blocks=blocks, seed=seed)

    return adapted(task, backbone, budget, make)


def bottleneck(task: Task, backbone: str, budget: Budget) -> Outcome:
    """One bottleneck adapter of size 16 a block, one view a step."""
    return adapted(task, backbone, budget, BASELINES["single"].make)


def adamix(task: Task, backbone: str, budget: Budget) -> Outcome:
    """Four bottleneck adapters of size 16 a block, shared up, two routed views a step; merged at the end."""
    return adapted(task, backbone, budget, BASELINES["adamix"].make, consistency=1.0)


METHODS: dict[str, Method] = {
    "linear probe": probe,
    "LoRA": lora,
    "single bottleneck": bottleneck,
    "AdaMix": adamix,
}
