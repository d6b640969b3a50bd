"""Inference strategies on the same trained experts (Table 7): merged, fixed, random, ensemble.

A strategy is a function of a model and a batch that gives log-probabilities `[B, C]`, or the numbers `[B, 1]` of a
regression; `STRATEGIES` names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Generator, Tensor

from adamix_lab.core.errors import unknown
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.views import Batch, rows_of, shared_prefix

Strategy = Callable[[MixtureModel, Batch, Generator], Tensor]


def answers(logits: Tensor) -> Tensor:
    """Log-probabilities `[..., C]`; the one number of a regression `[..., 1]` stays as it is."""
    return logits if logits.shape[-1] == 1 else logits.log_softmax(-1)


def merged(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """Averaged weights, one pass (Eq. 6)."""
    return answers(mixture(**batch).logits)


def fixed(expert: int) -> Strategy:
    """One expert everywhere, one pass."""

    def strategy(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
        return answers(mixture(selection=mixture.space.fixed(expert), **batch).logits)

    return strategy


def random_batch(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """One random route for the whole batch."""
    return answers(mixture(selection=mixture.space.draw(generator), **batch).logits)


def random_example(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """A random route an example (the reference's sentence-level routing)."""
    route = mixture.space.draw(generator, (rows_of(batch),))
    return answers(mixture(selection=route, **batch).logits)


def random_token(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """A random route a token (the reference's token-level routing)."""
    states = batch.get("inputs_embeds", batch.get("input_ids"))
    assert states is not None
    route = mixture.space.draw(generator, (states.shape[0], states.shape[1]))
    # routes are drawn a position; the last block must see them all, so nothing is cut here
    return answers(mixture(selection=route, **batch).logits)


def ensemble(passes: int = 4, average: str = "logits") -> Strategy:
    """K random routes, their logits averaged (the paper's ensemble), or their probabilities (Eq. 7)."""
    if average not in ("logits", "probabilities"):
        raise unknown("average", average, ("logits", "probabilities"))

    def strategy(mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
        logits = shared_prefix(mixture, batch, mixture.space.draw(generator, (passes,)))
        if average == "logits" or logits.shape[-1] == 1:
            return answers(logits.mean(0))
        return logits.log_softmax(-1).logsumexp(0) - math.log(passes)

    return strategy


STRATEGIES: dict[str, tuple[Strategy, int]] = {  # name: strategy, passes
    "merged": (merged, 1),
    "fixed": (fixed(0), 1),
    **{f"fixed-{expert}": (fixed(expert), 1) for expert in range(8)},
    "random": (random_batch, 1),
    "random-example": (random_example, 1),
    "random-token": (random_token, 1),
    "ensemble": (ensemble(4), 4),
    "ensemble-probabilities": (ensemble(4, "probabilities"), 4),
}
