"""Every route of a mixture at once, by walking the tree of routes block by block.

Routes with a common beginning share its computation. With one site at the end of each of L blocks and M routes through
it, a block runs for (M^L - 1) / (M - 1) nodes instead of L M^L times, and the last block computes only the position
that the head reads. Sites inside a block (LoRA on query and value) share what lies below the block.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.mixture import during, evaluating
from adamix_lab.core.routing import RouteSpace
from adamix_lab.core.sites import pattern_to_regex
from adamix_lab.core.views import Batch, routed_logits, rows_of
from adamix_lab.fast.blocks import BlockPlan, cut_last_block, may_cut, plan_blocks
from adamix_lab.fast.prefix import Reached, returns_tuple, with_blocks
from adamix_lab.models.check import Inputs, call, verdict
from adamix_lab.models.model import MixtureModel

LIMIT = 4096


def tree_logits(mixture: MixtureModel, batch: Batch, limit: int = LIMIT, memory: int | None = None) -> Tensor:
    """The logits of every route: `[B, S, C]`, S in the order of `mixture.space.enumerate`.

    Deterministic: evaluation mode, no gradients. A model whose blocks are not known, or whose head reads all
    positions, runs plain passes with equal results, and a warning says so.

    Args:
        mixture: a mixture, or what `cached_prefix` made of one.
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
        if replay is None or not walks(mixture, batch):
            return _by_plain_passes(mixture, batch, limit, memory)
        with cut_last_block(mixture.model, batch):
            return _Walk.of(replay, memory).run()


def walks(mixture: MixtureModel, batch: Batch) -> bool:
    """Whether the tree's logits are those of a call a route: tried once."""

    def plain(other: Any, few: Inputs) -> Tensor:
        for layer in list(other.sites.values())[1:-1]:  # few routes: two experts in the first site and the last
            layer.experts = nn.ParameterDict({name: nn.Parameter(p[:1], False) for name, p in layer.experts.items()})
        return torch.stack([call(other, few, route) for route in other.space.enumerate()])

    def fast(other: Any, few: Inputs) -> Tensor:
        replay = capture(other, few, mixture.model)
        assert replay is not None
        with cut_last_block(other.model, few, mixture.model):
            return _Walk.of(replay, None).run().transpose(0, 1)

    return verdict(mixture, "tree", batch, fast, plain).permitted


def check_budget(space: RouteSpace, limit: int = LIMIT) -> None:
    """Raises ValueError where there are more routes than the limit: says how many, and what to do instead."""
    positive("limit", limit)
    if space.number > limit:
        raise LabError(
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
            self._shrink(len(nodes) * children)
            return self._grow(level, states, nodes, first, last)
        numbers = (nodes * len(self.routes[level]) + torch.arange(first, last).unsqueeze(1)).flatten()
        if answers is None:
            self._grow(level + 1, grown, numbers, 0, len(self.routes[level + 1]))
        else:
            self._store(answers, numbers)

    def _halve(self, level: int, states: Tensor, nodes: Tensor, first: int, last: int) -> None:
        middle = (first + last) // 2
        self._grow(level, states, nodes, first, middle)
        self._grow(level, states, nodes, middle, last)

    def _shrink(self, groups: int) -> None:
        if groups == 1:
            raise torch.OutOfMemoryError(
                f"Out of memory with a single group of {rows_of(self.replay.batch)} rows: expected room for one. Use "
                "smaller batches (batch_size)."
            )
        self.groups = groups // 2
        torch.cuda.empty_cache()
        warnings.warn(f"Out of memory: going on with {self.groups} groups of rows at once.", stacklevel=2)

    def _store(self, answers: Tensor, numbers: Tensor) -> None:
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


# -- blocks replayed one by one: their arguments are captured in one pass of the model's own code --
#
# Nothing of a model is written again. Stand-ins take the place of the adapted blocks in a shallow copy and note what
# each is called with; the blocks are then called with that, on other states, and the head answers through a copy whose
# only block hands in the states it is given. The model itself is not changed.


class StandIn(nn.Module):
    """Stands in for a block: notes what it is called with, and answers its input or the states it was given.

    last: raises `Reached` once it has noted: what comes behind the blocks is not wanted.
    """

    def __init__(self, answer: Tensor | None = None, last: bool = False) -> None:
        super().__init__()
        self.answer, self.last = answer, last
        self.states: Tensor | None = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The states, in the form that blocks answer with."""
        self.states, self.args, self.kwargs = hidden, args, kwargs
        if self.last:
            raise Reached
        answer = hidden if self.answer is None else self.answer
        return (answer,) if returns_tuple() else answer


@dataclass(frozen=True)
class Replay:
    """A batch's way through the adapted blocks.

    Attributes:
        mixture: the model, in evaluation mode.
        plan: its blocks.
        batch: the inputs, without labels.
        states: what enters the first adapted block: `[B, T, d]`, or `[B, T, 2d]` where `cached_prefix` caches up to
            its end.
        calls: what each block from the first adapted one on is called with besides the states.
    """

    mixture: MixtureModel
    plan: BlockPlan
    batch: Batch
    states: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]

    @property
    def levels(self) -> int:
        """The number of blocks from the first adapted one on."""
        return len(self.calls)

    def sites(self, level: int) -> list[int]:
        """The numbers of the sites in a block."""
        start = f"{self.plan.path}.{self.plan.first + level}."
        return [n for n, site in enumerate(self.mixture.mixture.sites) if site.startswith(start)]

    def block(self, level: int, states: Tensor, routes: Tensor) -> Tensor:
        """One block's output for N groups of rows under each of c routes through its own sites.

        A block whose only site ends it is computed once for all c; one with sites inside runs on c times the rows.

        Args:
            level: of the block, counted from the first adapted one.
            states: `[N * B, T, d]`.
            routes: `[c, sites of this block, sides]`.

        Returns:
            `[c * N * B, T', d]`, route after route; T' is 1 behind a last block that is cut.
        """
        block = self.plan.blocks[self.plan.first + level]
        layers = [self.mixture.sites[self.mixture.mixture.sites[n]] for n in self.sites(level)]
        shared = bool(layers) and self._ends_block(level)
        if layers and not shared:
            states = _repeat(states, len(routes))
        copies = len(states) // rows_of(self.batch)
        args, kwargs = self.calls[level]
        args = tuple(self._widen(value, copies) for value in args)
        kwargs = {name: self._widen(value, copies) for name, value in kwargs.items()}
        fan_out, routes = "here" if shared else "elsewhere", routes.to(states.device)
        with during({layer: {"fan_out": fan_out, "selection": routes[:, n]} for n, layer in enumerate(layers)}):
            out = block(states, *args, **kwargs)
        out = out[0] if isinstance(out, tuple) else out
        return out.flatten(0, 1) if shared else out

    def head(self, states: Tensor) -> Tensor:
        """Logits `[N, B, C]` of the last block's output `[N * B, T', d]`: the head reads position 0."""
        copies = len(states) // rows_of(self.batch)
        first = {name: _repeat(value[:, :1], copies) for name, value in self.batch.items()}
        model = with_blocks(self.mixture.model, self.plan, [StandIn(states[:, :1])])
        logits: Tensor = model(**first).logits
        return logits.unflatten(0, (copies, -1))

    def _ends_block(self, level: int) -> bool:
        tail = pattern_to_regex(f"{self.plan.path}.{self.plan.first + level}.{self.plan.family.ffn}")
        sites = [self.mixture.mixture.sites[n] for n in self.sites(level)]
        return self.mixture.mixture.adaptation.keeps_input and all(tail.fullmatch(site) for site in sites)

    def _widen(self, value: Any, copies: int) -> Any:
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == rows_of(self.batch):
            return _repeat(value, copies)
        if isinstance(value, tuple):
            return tuple(self._widen(part, copies) for part in value)
        return value


def capture(mixture: MixtureModel, batch: Batch, asked: nn.Module | None = None) -> Replay | None:
    """A batch (without labels) ready to be replayed; None where the model's blocks or its head are not known.

    asked: the model that the check of the cut tries, if not this one.

    What lies below the first adapted block runs here, once. Call it without gradients and in evaluation mode.
    """
    plan = plan_blocks(mixture)
    if plan is None or plan.family.cut is None or not _in_order(mixture, plan):
        return None
    if not may_cut(mixture.model if asked is None else asked, batch):
        return None
    adapted = len(plan.blocks) - plan.first
    stand_ins = [StandIn(last=n == adapted - 1) for n in range(adapted)]
    with suppress(Reached):
        with_blocks(mixture.model, plan, [*plan.blocks[: plan.first], *stand_ins])(**batch)
    states = stand_ins[0].states
    assert states is not None
    return Replay(mixture, plan, batch, states, [(s.args, s.kwargs) for s in stand_ins])


def _in_order(mixture: MixtureModel, plan: BlockPlan) -> bool:
    numbers = [re.match(re.escape(plan.path) + r"\.(\d+)\.", site) for site in mixture.mixture.sites]
    found = [int(match[1]) for match in numbers if match]
    return found == sorted(found)


def _repeat(value: Tensor, copies: int) -> Tensor:
    return value if copies == 1 else value.repeat(copies, *([1] * (value.dim() - 1)))


def group_bytes(mixture: MixtureModel, batch: Batch) -> int:
    """Bytes that a batch's activations take inside a block, at their largest: 16 widths (the inner layer has 4)."""
    rows, tokens = next(iter(batch.values())).shape[:2]
    return int(rows * tokens * getattr(mixture.model.config, "hidden_size", 1024) * 4 * 16)  # type: ignore[union-attr]


def free_memory(device: torch.device) -> int:
    """What an analysis may take for its activations, in bytes: half of what a GPU has free, 256 MB on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return 256_000_000
