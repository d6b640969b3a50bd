"""Inference strategies on the same trained experts (Table 7): merged, fixed, random, ensemble.

A strategy is a function of a model and a batch that gives log-probabilities `[B, C]`; `STRATEGIES` names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from adamix_lab.blocks import cut_last_block
from adamix_lab.errors import unknown
from adamix_lab.model import MixtureModel
from adamix_lab.routing import generator_for
from adamix_lab.views import Batch, rows_of, shared_prefix

Strategy = Callable[[MixtureModel, Batch, Generator], Tensor]


def merged(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """Averaged weights, one pass (Eq. 6)."""
    return mixture(**batch).logits.log_softmax(-1)


def fixed(expert: int) -> Strategy:
    """One expert everywhere, one pass."""

    def strategy(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
        return mixture(selection=mixture.space.fixed(expert), **batch).logits.log_softmax(-1)

    return strategy


def random_batch(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """One random route for the whole batch."""
    return mixture(selection=mixture.space.draw(generator), **batch).logits.log_softmax(-1)


def random_example(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """A random route an example (the reference's sentence-level routing)."""
    route = mixture.space.draw(generator, (rows_of(batch),))
    return mixture(selection=route, **batch).logits.log_softmax(-1)


def random_token(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """A random route a token (the reference's token-level routing)."""
    states = batch.get("inputs_embeds", batch.get("input_ids"))
    assert states is not None
    route = mixture.space.draw(generator, (states.shape[0], states.shape[1]))
    # routes are drawn a position; the last block must see them all, so nothing is cut here
    return mixture(selection=route, **batch).logits.log_softmax(-1)


def ensemble(passes: int = 4, average: str = "logits") -> Strategy:
    """K random routes, their logits averaged (the paper's ensemble), or their probabilities (Eq. 7)."""
    if average not in ("logits", "probabilities"):
        raise unknown("average", average, ("logits", "probabilities"))

    def strategy(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
        logits = shared_prefix(mixture, batch, mixture.space.draw(generator, (passes,)))
        if average == "logits":
            return logits.mean(0).log_softmax(-1)
        return logits.log_softmax(-1).logsumexp(0) - math.log(passes)

    return strategy


STRATEGIES: dict[str, tuple[Strategy, int]] = {  # name: strategy, passes
    "merged": (merged, 1),
    "fixed": (fixed(0), 1),
    "random": (random_batch, 1),
    "random-example": (random_example, 1),
    "random-token": (random_token, 1),
    "ensemble": (ensemble(4), 4),
    "ensemble-probabilities": (ensemble(4, "probabilities"), 4),
}


@dataclass(frozen=True)
class Evaluation:
    """One strategy's result on a task.

    Attributes:
        accuracy: share of right answers.
        loss: mean negative log-likelihood in nats.
        log_probabilities: `[rows, C]`, in the order of the rows.
    """

    strategy: str
    accuracy: float
    loss: float
    passes: int
    rows: int
    log_probabilities: Tensor
    labels: Tensor

    def row(self) -> dict[str, Any]:
        """The figures, for a table."""
        return {"strategy": self.strategy, "accuracy": self.accuracy, "loss": self.loss, "passes": self.passes, "rows": self.rows}


@torch.no_grad()
def evaluate(
    mixture: MixtureModel, batches: Iterable[Batch], strategies: Sequence[str] = ("merged",), seed: int = 0
) -> list[Evaluation]:
    """Strategies side by side on the same batches (each a dict with `labels`), in evaluation mode.

    Raises ValueError for an unknown strategy; near misses are named.
    """
    for name in strategies:
        if name not in STRATEGIES:
            raise unknown("Strategy", name, STRATEGIES)
    batches = list(batches)
    training = mixture.training
    mixture.eval()
    try:
        return [_evaluate(mixture, batches, name, seed) for name in strategies]
    finally:
        mixture.train(training)


def _evaluate(mixture: MixtureModel, batches: list[Batch], name: str, seed: int) -> Evaluation:
    strategy, passes = STRATEGIES[name]
    device = next(mixture.parameters()).device
    parts, labels = [], []
    for n, batch in enumerate(batches):
        inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
        if name == "random-token":
            parts.append(strategy(mixture, inputs, generator_for(seed, n)).cpu())
        else:
            with cut_last_block(mixture.model):
                parts.append(strategy(mixture, inputs, generator_for(seed, n)).cpu())
        labels.append(batch["labels"].cpu())
    log_p, gold = torch.cat(parts).float(), torch.cat(labels)
    accuracy = float((log_p.argmax(-1) == gold).float().mean())
    return Evaluation(name, accuracy, float(F.nll_loss(log_p, gold)), passes, len(gold), log_p, gold)


@torch.no_grad()
def predict(
    mixture: MixtureModel, tokenizer: Any, texts: Sequence[str] | Sequence[tuple[str, str]], strategy: str = "merged", seed: int = 0
) -> Tensor:
    """Probabilities `[texts, C]` for sentences, or for pairs of sentences.

    Raises ValueError for an empty list, an unknown strategy, or a text that is no string.
    """
    if strategy not in STRATEGIES:
        raise unknown("Strategy", strategy, STRATEGIES)
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts = {texts!r}: expected a list of sentences (or of pairs), at least one.")
    pairs = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    for pair in pairs:
        if not all(isinstance(part, str) for part in pair) or len(pair) > 2:
            raise ValueError(f"{pair!r} is no sentence and no pair of sentences: expected strings.")
    columns = [list(column) for column in zip(*pairs, strict=True)]
    device = next(mixture.parameters()).device
    batch = dict(tokenizer(*columns, padding=True, truncation=True, return_tensors="pt").to(device))
    training = mixture.training
    mixture.eval()
    try:
        return STRATEGIES[strategy][0](mixture, batch, generator_for(seed)).exp().cpu()
    finally:
        mixture.train(training)
