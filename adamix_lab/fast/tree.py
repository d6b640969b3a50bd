"""Every route of a mixture at once, by walking the tree of routes block by block.

Routes with a common beginning share its computation. With one site at the end of each of L blocks and M routes through
it, a block runs for (M^L - 1) / (M - 1) nodes instead of L M^L times, and the last block computes only the position
that the head reads. Sites inside a block (LoRA on query and value) share what lies below the block.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from adamix_lab.core.errors import positive
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.routing import RouteSpace
from adamix_lab.core.views import Batch, routed_logits, rows_of
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.fast.replay import Replay, capture, free_memory, group_bytes
from adamix_lab.training.evaluation import evaluating

LIMIT = 4096


def tree_logits(mixture: MixtureModel, batch: Batch, limit: int = LIMIT, memory: int | None = None) -> Tensor:
    """The logits of every route: `[B, S, C]`, S in the order of `mixture.space.enumerate`.

    Deterministic: evaluation mode, no gradients. A model whose blocks are not known, or whose head reads all
    positions, runs plain passes with equal results, and a warning says so.

    Args:
        mixture: a mixture, or what `prefix.above` made of one.
        batch: inputs without labels.
        limit: the most routes that may be enumerated.
        memory: bytes for activations; None takes half of a GPU's free memory, or 256 MB on a CPU. Where a GPU runs out
            of it all the same, the chunk is halved and a warning says so.

    Raises:
        ValueError: more routes than the limit.
        torch.OutOfMemoryError: not even one group of rows fits.
    """
    check_budget(mixture.space, limit)
    with torch.no_grad(), evaluating(mixture):
        replay = capture(mixture, batch)
        if replay is None:
            return _by_plain_passes(mixture, batch, limit, memory)
        with cut_last_block(mixture.model):
            return _Walk.of(replay, memory).run()


def check_budget(space: RouteSpace, limit: int = LIMIT) -> None:
    """Raises ValueError where there are more routes than the limit: says how many, and what to do instead."""
    positive("limit", limit)
    if space.number > limit:
        raise ValueError(
            f"The mixture has {space.number:,} routes: expected at most {limit:,} to go through them all (limit). Draw "
            "some of them instead (Monte-Carlo: drawn_routes, or --routes N), share a side, or raise the limit."
        )


@dataclass
class _Walk:
    replay: Replay
    routes: list[Tensor]  # by level: the routes through that block's sites, [m, sites, sides]
    groups: int  # groups of B rows at once
    logits: Tensor | None = None

    @classmethod
    def of(cls, replay: Replay, memory: int | None) -> _Walk:
        space, routes = replay.mixture.space, []
        for level in range(replay.levels):
            counts = tuple(space.counts[n] for n in replay.sites(level))
            through = RouteSpace(counts, space.tied).enumerate(space.number) if counts else torch.zeros(1, 0, 0).long()
            routes.append(through)
        group = group_bytes(replay.mixture, replay.batch)
        available = free_memory(replay.states.device) if memory is None else memory
        return cls(replay, routes, max(1, available // group))

    def run(self) -> Tensor:
        self._grow(0, self.replay.states, torch.zeros(1, dtype=torch.long), 0, len(self.routes[0]))
        assert self.logits is not None
        return self.logits

    def _grow(self, level: int, states: Tensor, nodes: Tensor, first: int, last: int) -> None:
        """Grows N nodes by the routes first..last of a block and goes on from there, depth first.

        states: `[N * B, T, d]`; nodes: the numbers `[N]` of the routes so far, in lexicographic order.
        """
        children, rows = last - first, rows_of(self.replay.batch)
        if len(nodes) > (at_once := max(1, self.groups // children)):
            for part, numbers in zip(states.split(at_once * rows), nodes.split(at_once), strict=True):
                self._grow(level, part, numbers, first, last)
            return
        if children > self.groups and children > 1:
            return self._halve(level, states, nodes, first, last)
        try:
            grown = self.replay.block(level, states, self.routes[level][first:last])
            answers = self.replay.head(grown) if level == self.replay.levels - 1 else None
        except torch.OutOfMemoryError:
            grown = None
        if grown is None:  # outside of the except clause, which keeps the failed pass's tensors alive
            self._make_do(len(nodes) * children)
            return self._grow(level, states, nodes, first, last)
        numbers = (nodes * len(self.routes[level]) + torch.arange(first, last).unsqueeze(1)).flatten()
        if answers is None:
            self._grow(level + 1, grown, numbers, 0, len(self.routes[level + 1]))
        else:
            self._keep(answers, numbers)

    def _halve(self, level: int, states: Tensor, nodes: Tensor, first: int, last: int) -> None:
        middle = (first + last) // 2
        self._grow(level, states, nodes, first, middle)
        self._grow(level, states, nodes, middle, last)

    def _make_do(self, groups: int) -> None:
        if groups == 1:
            raise torch.OutOfMemoryError(
                f"Out of memory with a single group of {rows_of(self.replay.batch)} rows: expected room for one. Use "
                "smaller batches (batch_size)."
            )
        self.groups = groups // 2
        torch.cuda.empty_cache()
        warnings.warn(f"Out of memory: going on with {self.groups} groups of rows at once.", stacklevel=2)

    def _keep(self, answers: Tensor, numbers: Tensor) -> None:
        if self.logits is None:
            number = self.replay.mixture.space.number
            self.logits = answers.new_empty(answers.shape[1], number, *answers.shape[2:])
        self.logits[:, numbers.to(answers.device)] = answers.transpose(0, 1)


def _by_plain_passes(mixture: MixtureModel, batch: Batch, limit: int, memory: int | None) -> Tensor:
    warnings.warn(
        f"The blocks of {type(mixture.model).__name__} are not known, or its head reads every position: each of the "
        f"{mixture.space.number:,} routes takes a pass of its own, with equal results.",
        stacklevel=3,
    )
    passes = [routed_logits(mixture, batch, routes) for routes in mixture.space.enumerate(limit).split(8)]
    return torch.cat(passes).transpose(0, 1)
