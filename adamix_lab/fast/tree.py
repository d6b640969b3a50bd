"""Every route of a mixture at once, by walking the tree of routes block by block.

Routes with a common beginning share its computation. With one site at the end of each of L blocks and M routes through
it, a block runs for (M^L - 1) / (M - 1) nodes instead of L M^L times, and the last block computes only the position
that the head reads. Sites inside a block (LoRA on query and value) share what lies below the block.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.mixture import during, evaluating, noting
from adamix_lab.core.routing import RouteSpace
from adamix_lab.core.views import Batch, repeat, routed_logits, rows_of
from adamix_lab.fast.blocks import BlockPlan, cut_last_block, may_cut, only_at_end, plan_blocks, widened
from adamix_lab.fast.prefix import StandIn, with_module
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
            return _by_plain_passes(mixture, batch, limit)
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
        self._grow(0, self.replay.states, torch.zeros(1, dtype=torch.long), torch.arange(len(self.routes[0])))
        assert self.logits is not None
        return self.logits

    def _grow(self, level: int, states: Tensor, nodes: Tensor, through: Tensor) -> None:
        """Grows N nodes by some routes of a block, in parts that fit, and goes on from there, depth first.

        states: `[N * B, T, d]`; nodes: the numbers `[N]` of the routes so far, in lexicographic order; through: the
        numbers of this block's routes.
        """
        children = min(len(through), self.groups)
        at_once, rows = max(1, self.groups // children), rows_of(self.replay.batch)
        parts = zip(states.split(at_once * rows), nodes.split(at_once), strict=True)
        for (part, numbers), some in itertools.product(parts, through.split(children)):
            self._grow_at_once(level, part, numbers, some)

    def _grow_at_once(self, level: int, states: Tensor, nodes: Tensor, through: Tensor) -> None:
        if len(nodes) * len(through) > self.groups:  # memory ran out in a part before this one
            return self._grow(level, states, nodes, through)
        try:
            grown = self.replay.block(level, states, self.routes[level][through])
            answers = self.replay.head(grown) if level == self.replay.levels - 1 else None
        except torch.OutOfMemoryError:
            grown = None
        if grown is None:  # outside of the except clause, which keeps the failed pass's tensors alive
            self._shrink(len(nodes) * len(through))
            return self._grow(level, states, nodes, through)
        numbers = (nodes * len(self.routes[level]) + through.unsqueeze(1)).flatten()
        if answers is None:
            return self._grow(level + 1, grown, numbers, torch.arange(len(self.routes[level + 1])))
        if self.logits is None:
            number = self.replay.mixture.space.number
            self.logits = answers.new_empty(answers.shape[1], number, *answers.shape[2:])
        self.logits[:, numbers.to(answers.device)] = answers.transpose(0, 1)

    def _shrink(self, groups: int) -> None:
        if groups == 1:
            raise torch.OutOfMemoryError(
                f"Out of memory with a single group of {rows_of(self.replay.batch)} rows: expected room for one. Use "
                "smaller batches (batch_size)."
            )
        self.groups = groups // 2
        torch.cuda.empty_cache()
        warnings.warn(f"Out of memory: going on with {self.groups} groups of rows at once.", stacklevel=2)


def _by_plain_passes(mixture: MixtureModel, batch: Batch, limit: int) -> Tensor:
    warnings.warn(
        f"The blocks of {type(mixture.model).__name__} are not known, or its head reads every position: each of the "
        f"{mixture.space.number:,} routes takes a pass of its own, with equal results.",
        stacklevel=3,
    )
    passes = [routed_logits(mixture, batch, routes) for routes in mixture.space.enumerate(limit).split(8)]
    return torch.cat(passes).transpose(0, 1)


# -- blocks replayed one by one: their arguments are captured in one pass of the model's own code --
#
# Nothing of a model is written again. Stand-ins take the place of the adapted blocks in a shallow copy; what each is
# called with is noted. The blocks are then called with that, on other states, and the head answers through a copy whose
# only block hands in the states it is given. The model itself is not changed.


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
        number = self.plan.first + level
        layers = [self.mixture.sites[self.mixture.mixture.sites[n]] for n in self.sites(level)]
        shared = bool(layers) and only_at_end(self.mixture, f"{self.plan.path}.{number}", self.plan.family)
        if layers and not shared:
            states = repeat(states, len(routes))
        rows = rows_of(self.batch)
        args, kwargs = widened(self.calls[level], len(states) // rows, rows)
        fan_out, routes = "here" if shared else "elsewhere", routes.to(states.device)
        with during({layer: {"fan_out": fan_out, "selection": routes[:, n]} for n, layer in enumerate(layers)}):
            out = self.plan.blocks[number](states, *args, **kwargs)
        out = out[0] if isinstance(out, tuple) else out
        return out.flatten(0, 1) if shared else out

    def head(self, states: Tensor) -> Tensor:
        """Logits `[N, B, C]` of the last block's output `[N * B, T', d]`: the head reads position 0."""
        copies = len(states) // rows_of(self.batch)
        first = {name: repeat(value[:, :1], copies) for name, value in self.batch.items()}
        model = with_module(self.mixture.model, self.plan.path, nn.ModuleList([StandIn(states[:, :1])]))
        logits: Tensor = model(**first).logits
        return logits.unflatten(0, (copies, -1))


def capture(mixture: MixtureModel, batch: Batch, asked: nn.Module | None = None) -> Replay | None:
    """A batch (without labels) ready to be replayed; None where the model's blocks or its head are not known.

    asked: the model that the check of the cut tries, if not this one.

    What lies below the first adapted block runs here, once. Call it without gradients and in evaluation mode.
    """
    plan = plan_blocks(mixture)
    if plan is None or plan.family.cut is None:
        return None
    if not may_cut(mixture.model if asked is None else asked, batch):
        return None
    adapted = [StandIn() for _ in plan.blocks[plan.first :]]
    with noting(dict(enumerate(adapted)), last=adapted[-1]) as noted:
        with_module(mixture.model, plan.path, plan.blocks[: plan.first].extend(adapted))(**batch)
    calls = [(args[1:], kwargs) for args, kwargs in noted.values()]
    return Replay(mixture, plan, batch, noted[0][0][0], calls)


def group_bytes(mixture: MixtureModel, batch: Batch) -> int:
    """Bytes that a batch's activations take inside a block, at their largest: 16 widths (the inner layer has 4)."""
    rows, tokens = next(iter(batch.values())).shape[:2]
    return int(rows * tokens * getattr(mixture.model.config, "hidden_size", 1024) * 4 * 16)  # type: ignore[union-attr]


def free_memory(device: torch.device) -> int:
    """What an analysis may take for its activations, in bytes: half of what a GPU has free, 256 MB on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return 256_000_000
