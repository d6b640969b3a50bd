"""Several answers to the same rows: the samples that everything Bayesian here is computed from.

Where they come from is another matter: every route (exact), routes drawn at random (Monte-Carlo, Eq. 7), the merge
(one sample), dropout left on, or models trained apart. The sample axis is the second: `[rows, samples, classes]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.errors import positive
from adamix_lab.core.model import MixtureModel, evaluating
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.fast.tree import LIMIT, free_memory, group_bytes, tree_logits
from adamix_lab.fast.views import routed_logits
from adamix_lab.tasks.batches import encode, sequential
from adamix_lab.tasks.rows import Row
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.evaluation import Indexed, above_prefix


@dataclass(frozen=True)
class Samples:
    """Answers to the same rows.

    Attributes:
        logits: `[rows, samples, classes]`, float32, on the CPU.
        labels: `[rows]`; -1 where a row has none.
        source: what the samples are, for tables.
        exact: the samples are all routes there are, once each.
        routes: `[samples, sites, sides]` of samples that are routes.
    """

    logits: Tensor
    labels: Tensor
    source: str
    exact: bool = False
    routes: Tensor | None = None

    @property
    def log_probabilities(self) -> Tensor:
        """`[rows, samples, classes]`."""
        return self.logits.log_softmax(-1)

    def __len__(self) -> int:
        return self.logits.shape[1]


@dataclass(frozen=True)
class FixedBatches:
    """Rows that stay the same for whatever is asked of a model: its batches, and the frozen prefix computed once.

    Attributes:
        mixture: the whole model.
        batches: (the rows' numbers, inputs without labels), longest rows first.
        labels: `[rows]`.
        top: what lies above the frozen prefix, where that can be cached; else the whole model.
        cached: the batches as `top` takes them.
    """

    mixture: MixtureModel
    batches: list[Indexed]
    labels: Tensor
    top: MixtureModel
    cached: list[Indexed]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, answer: Callable[[MixtureModel, Batch, int], Tensor], whole: bool = False) -> Tensor:
        """`answer(model, inputs, batch number)` `[B, ...]` over all batches, in the rows' order: `[rows, ...]`.

        In evaluation mode, without gradients. whole: ask the whole model rather than what lies above the prefix.
        """
        model, batches = (self.mixture, self.batches) if whole else (self.top, self.cached)
        with torch.no_grad(), evaluating(model):
            parts = [answer(model, batch, n).float().cpu() for n, (_, batch) in enumerate(batches)]
        order = torch.tensor([row for rows, _ in batches for row in rows])
        return torch.cat(parts)[order.argsort()]


def fix_batches(
    mixture: MixtureModel,
    task: Task,
    tokenizer: Any,
    rows: Sequence[Row] | None = None,
    batch_size: int = 16,
    max_length: int = 128,
) -> FixedBatches:
    """Batches of rows (None: the task's evaluation rows) on the model's device.

    Raises ValueError where there are no rows, or the task is a regression.
    """
    if task.regression:
        raise ValueError(f"Task {task.name!r} is a regression: expected classes, which probabilities need.")
    examples = encode(task.evaluation if rows is None else rows, task, tokenizer, max_length)
    labels = torch.tensor([int(example.pop("labels", torch.tensor(-1))) for example in examples])
    device = next(mixture.parameters()).device
    batches = [
        (numbers, {name: value.to(device) for name, value in batch.items()})
        for numbers, batch in sequential(examples, batch_size, tokenizer.pad_token_id or 0)
    ]
    with torch.no_grad(), evaluating(mixture):
        top, cached = above_prefix(mixture, batches)
    return FixedBatches(mixture, batches, labels, top, cached)


# -- where samples come from -------------------------------------------------------------------------------


def every_route(fixed: FixedBatches, limit: int = LIMIT, memory: int | None = None) -> Samples:
    """All routes, by the tree. Raises ValueError where there are more than the limit, with what to do instead."""
    logits = fixed.gather(lambda model, batch, n: tree_logits(model, batch, limit, memory))
    return Samples(logits, fixed.labels, "routes", exact=True, routes=fixed.mixture.space.enumerate(limit))


def drawn_routes(fixed: FixedBatches, draws: int, seed: int = 0, memory: int | None = None) -> Samples:
    """Uniform routes, drawn with replacement, each the same for all rows (Monte-Carlo).

    Raises ValueError for draws below 1.
    """
    positive("draws (T)", draws)
    routes = fixed.mixture.space.draw(generator_for(seed), (draws,))
    return Samples(_under(fixed, routes, memory), fixed.labels, "routes", routes=routes)


def merged_sample(fixed: FixedBatches) -> Samples:
    """The merge (Eq. 6), as one sample."""

    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        with cut_last_block(model.model):
            return model(**batch).logits.unsqueeze(1)

    return Samples(fixed.gather(answer), fixed.labels, "merged")


def token_samples(fixed: FixedBatches, draws: int, seed: int = 0) -> Samples:
    """A route drawn anew for every token, so many times. Raises ValueError for draws below 1."""
    positive("draws (T)", draws)

    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        states = next(batch[name] for name in ("inputs_embeds", "input_ids") if name in batch)
        lead = (states.shape[0], states.shape[1])
        routes = [model.space.draw(generator_for(seed, n, draw), lead) for draw in range(draws)]
        return torch.stack([model(selection=route, **batch).logits for route in routes], 1)

    return Samples(fixed.gather(answer), fixed.labels, "random-token")


def dropout_samples(fixed: FixedBatches, draws: int, seed: int = 0) -> Samples:
    """The merge with the backbone's own dropout left on (Gal and Ghahramani, 2016), in the whole model.

    Raises ValueError for draws below 1, and for a model without dropout.
    """
    positive("draws (T)", draws)
    if not any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in fixed.mixture.modules()):
        raise ValueError(
            "The model has no dropout to sample: expected a backbone with a rate above 0. Leave dropout out of the "
            "comparison, or load the backbone with dropout."
        )

    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        with _dropping(model, seed * 1_000_003 + n):
            return torch.stack([model(**batch).logits for _ in range(draws)], 1)

    return Samples(fixed.gather(answer, whole=True), fixed.labels, "dropout")


def member_samples(members: Sequence[FixedBatches]) -> Samples:
    """Models trained apart (each merged, each with a head of its own), one sample each, on the same rows.

    Raises ValueError where the members are none, or their rows differ.
    """
    if not members:
        raise ValueError("No members were given: expected at least one model trained apart.")
    for member in members[1:]:
        if not torch.equal(member.labels, members[0].labels):
            raise ValueError("The members' rows differ: expected the same rows for each (fix_batches).")
    logits = torch.cat([merged_sample(member).logits for member in members], 1)
    return Samples(logits, members[0].labels, "apart")


def _under(fixed: FixedBatches, routes: Tensor, memory: int | None) -> Tensor:
    def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
        available = free_memory(next(model.parameters()).device) if memory is None else memory
        at_once = max(1, available // group_bytes(model, batch))
        passes = [routed_logits(model, batch, part, "shared_prefix") for part in routes.split(at_once)]
        return torch.cat(passes).transpose(0, 1)

    return fixed.gather(answer)


@contextmanager
def _dropping(mixture: MixtureModel, seed: int) -> Iterator[None]:
    device = next(mixture.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        mixture.train()
        try:
            yield
        finally:
            mixture.eval()
