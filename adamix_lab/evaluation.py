"""Looking at a trained mixture: strategies side by side on a task, and predictions for sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adamix_lab.batches import encode, sequential
from adamix_lab.blocks import cut_last_block, plan_blocks
from adamix_lab.errors import unknown
from adamix_lab.model import MixtureModel
from adamix_lab.prefix import above
from adamix_lab.routing import generator_for
from adamix_lab.strategies import STRATEGIES
from adamix_lab.tasks import Task
from adamix_lab.views import Batch

Indexed = tuple[list[int], Batch]


@dataclass(frozen=True)
class Evaluation:
    """One strategy's result on a task.

    Attributes:
        accuracy: share of right answers.
        loss: mean negative log-likelihood in nats.
        passes: forward passes an answer takes.
        log_probabilities: `[rows, C]`, in the order of the task's evaluation rows.
        labels: `[rows]`.
    """

    strategy: str
    accuracy: float
    loss: float
    passes: int
    log_probabilities: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        """Whether each row is answered rightly, `[rows]`."""
        return self.log_probabilities.argmax(-1) == self.labels

    def row(self) -> dict[str, Any]:
        """The figures, for a table."""
        return {"strategy": self.strategy, "accuracy": self.accuracy, "loss": self.loss, "passes": self.passes}


def evaluate(
    mixture: MixtureModel,
    task: Task,
    tokenizer: Any,
    strategies: Sequence[str] = ("merged",),
    seed: int = 0,
    batch_size: int = 64,
    max_length: int = 128,
) -> list[Evaluation]:
    """Strategies side by side on the task's evaluation rows, the same batches for each, in evaluation mode.

    What lies below the first adapted block is computed once for all of them where the model allows it.

    Raises ValueError for an unknown strategy (near misses are named) and for a regression.
    """
    for name in strategies:
        if name not in STRATEGIES:
            raise unknown("Strategy", name, STRATEGIES)
    if task.regression:
        raise ValueError(
            f"Task {task.name!r} is a regression: expected classes, which accuracy and log-likelihood need."
        )
    examples = encode(task.evaluation, task, tokenizer, max_length)
    device = next(mixture.parameters()).device
    batches = [
        (rows, {name: value.to(device) for name, value in batch.items()})
        for rows, batch in sequential(examples, batch_size, tokenizer.pad_token_id or 0)
    ]
    with evaluating(mixture):
        served, batches = above_prefix(mixture, batches) if len(strategies) > 1 else (mixture, batches)
        return [evaluate_batches(served, batches, name, seed) for name in strategies]


def evaluate_batches(mixture: MixtureModel, batches: Sequence[Indexed], strategy: str, seed: int = 0) -> Evaluation:
    """One strategy on batches with labels, each given with its rows' original numbers."""
    function, passes = STRATEGIES[strategy]
    order: list[int] = []
    answers, labels = [], []
    with torch.no_grad(), evaluating(mixture):
        for n, (rows, batch) in enumerate(batches):
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            # A route a token needs every token at every site: then nothing is cut.
            with nullcontext() if strategy == "random-token" else cut_last_block(mixture.model):
                answers.append(function(mixture, inputs, generator_for(seed, n)).float().cpu())
            labels.append(batch["labels"].cpu())
            order += rows
    back = torch.tensor(order).argsort()
    log_p, gold = torch.cat(answers)[back], torch.cat(labels)[back]
    accuracy = float((log_p.argmax(-1) == gold).double().mean())
    return Evaluation(strategy, accuracy, float(F.nll_loss(log_p, gold)), passes, log_p, gold)


def predict(
    mixture: MixtureModel,
    tokenizer: Any,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    strategy: str = "merged",
    seed: int = 0,
    batch_size: int = 64,
    max_length: int = 128,
) -> Tensor:
    """Probabilities `[texts, C]` for sentences, or for pairs of sentences.

    Raises ValueError for an empty list, an unknown strategy, or what is no sentence.
    """
    if strategy not in STRATEGIES:
        raise unknown("Strategy", strategy, STRATEGIES)
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts = {texts!r}: expected a list of sentences (or of pairs), at least one.")
    pairs = [tuple(text) if isinstance(text, tuple | list) else (text,) for text in texts]
    for pair in pairs:
        if len(pair) != len(pairs[0]) or len(pair) > 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"{pair!r} does not fit: expected strings, all of them sentences or all of them pairs.")
    device = next(mixture.parameters()).device
    answers = []
    with torch.no_grad(), evaluating(mixture):
        for start in range(0, len(pairs), batch_size):
            columns = [list(column) for column in zip(*pairs[start : start + batch_size], strict=True)]
            batch = tokenizer(*columns, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            inputs = {name: value.to(device) for name, value in batch.items()}
            answers.append(STRATEGIES[strategy][0](mixture, inputs, generator_for(seed, start)).exp().cpu())
    return torch.cat(answers)


@contextmanager
def evaluating(mixture: MixtureModel) -> Iterator[None]:
    """Evaluation mode inside the block; the mode that was comes back."""
    training = mixture.training
    mixture.eval()
    try:
        yield
    finally:
        mixture.train(training)


def above_prefix(mixture: MixtureModel, batches: list[Indexed]) -> tuple[MixtureModel, list[Indexed]]:
    """(what lies above the frozen prefix, batches of its cached states); both as they are where it cannot be cached."""
    plan = plan_blocks(mixture)
    if plan is None or plan.family.cut is None or plan.first == 0:
        return mixture, batches
    top, cache = above(mixture)
    return top.eval(), [(rows, cache(batch)) for rows, batch in batches]


def wilson(right: float, rows: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson interval of an accuracy on so many rows."""
    middle = (right + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(right * (1 - right) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return middle - half, middle + half


def paired_difference(first: Tensor, second: Tensor, z: float = 1.96) -> tuple[float, float]:
    """(difference, half width of its 95 % interval) of two accuracies on the same rows.

    first, second: whether each row is answered rightly, `[rows]`.
    """
    difference = first.double() - second.double()
    return float(difference.mean()), z * float(difference.std()) / math.sqrt(len(difference))
