"""The part above the frozen prefix: what lies below the first site is computed once and cached.

Where the first adapted block has one site, at its end, and the adaptation reads nothing but the frozen output
(bottleneck, bias), what is cached reaches up to that output; elsewhere up to the block. The model's own code runs in
both cases, with stand-ins for the parts that are cached.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError
from adamix_lab.core.mixture import evaluating, noting
from adamix_lab.core.sites import ARCHITECTURES, Architecture
from adamix_lab.fast.blocks import BlockPlan, plan_blocks
from adamix_lab.models.check import Inputs, Verdict, a_call_a_route, verdict
from adamix_lab.models.model import MixtureModel

Cache = Callable[..., dict[str, Tensor]]


def cached_prefix(mixture: MixtureModel) -> tuple[MixtureModel, Cache]:
    """The mixture from its first site on, sharing every weight, and what caches a batch for it.

    The second value turns `input_ids` into `inputs_embeds` (the cached states); the first takes those. The prefix runs
    in evaluation mode, its dropout off; with `dropout=True` each call of the second value draws masks anew, as a
    training step does. Raises ValueError for families not supported, and where a check fails.
    """
    permitted, reason = may_cache(mixture)
    if not permitted:
        known = ", ".join(sorted(name for name, family in ARCHITECTURES.items() if family.cut))
        raise LabError(
            f"The frozen prefix of {type(mixture.model).__name__} cannot be cached: expected one of {known}, with a "
            f"task head, sites in its blocks, and no gradient checkpointing ({reason}). Train without a cache: "
            "cache_prefix=False (--no-cache-prefix)."
        )
    return above_prefix(mixture)


def may_cache(mixture: MixtureModel) -> Verdict:
    """Whether the prefix may be cached: proposed by the table, tried once on an input made up."""
    plan = plan_blocks(mixture)
    if plan is None or plan.family.cut is None:
        return Verdict(False, "its blocks are not known")

    def fast(other: Any, few: Inputs) -> Tensor:
        top, cache = above_prefix(other)
        return a_call_a_route(top, cache(few))

    return verdict(mixture, "cached prefix", {}, fast, a_call_a_route)


def above_prefix(mixture: MixtureModel) -> tuple[MixtureModel, Cache]:
    """As `cached_prefix`, without a question."""
    plan = plan_blocks(mixture)
    assert plan is not None
    end = block_end(mixture, plan)
    top = shallow_copy(mixture)
    blocks = [*(StandIn() for _ in range(plan.first)), *plan.blocks[plan.first :]]
    if end is not None:
        blocks[plan.first] = BlockEnd(plan.family, end)
    top.model = owner = with_module(mixture.model, plan.path, nn.ModuleList(blocks))
    for part in plan.path.split(".")[:-1]:
        owner = getattr(owner, part)
        if hasattr(owner, "embeddings"):
            owner.embeddings = PassThrough()

    def cache(batch: dict[str, Tensor], dropout: bool = False) -> dict[str, Tensor]:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        kept = {name: value for name, value in batch.items() if name in ("attention_mask", "labels")}
        return {"inputs_embeds": prefix_states(mixture, plan, inputs, dropout), **kept}

    return top, cache


def with_module(model: Any, path: str, module: nn.Module) -> Any:
    """The model with another module at a path, in a shallow copy that shares every other module."""
    top = owner = shallow_copy(model)
    *parts, last = path.split(".")
    for part in parts:
        setattr(owner, part, shallow_copy(getattr(owner, part)))
        owner = getattr(owner, part)
    setattr(owner, last, module)
    return top


def block_end(mixture: MixtureModel, plan: BlockPlan) -> nn.Module | None:
    """The module that ends the first adapted block, where the cache may reach up to the site's frozen output."""
    if plan.family.end is None or not plan.tail_only or mixture.mixture.adaptation.reads_input:
        return None
    return plan.blocks[plan.first].get_submodule(plan.family.end)


def prefix_states(mixture: MixtureModel, plan: BlockPlan, batch: dict[str, Tensor], dropout: bool = False) -> Tensor:
    """The states below the first site, without gradients: in evaluation mode, or as in training, with dropout.

    `[B, T, d]` entering the first adapted block, or `[B, T, 2d]`: the site's frozen output beside the residual.
    """
    end = block_end(mixture, plan)
    place = end if end is not None else plan.blocks[plan.first]
    with torch.no_grad(), evaluating(mixture):
        mixture.train(dropout)
        with noting({"place": place}, last=place) as noted:
            mixture.model(**batch)
        (states, *rest), _ = noted["place"]
        if end is None:
            return states
        site = end.get_submodule(_tail_name(plan.family))
        return torch.cat([site.base(states), rest[0]], -1)  # type: ignore[operator]


class PassThrough(nn.Module):
    """Stands in for the embeddings: the cached states are given as `inputs_embeds`."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Any:
        """The states as they are."""
        return next(a for a in (inputs_embeds, *args) if isinstance(a, Tensor) and a.is_floating_point())


class StandIn(nn.Module):
    """Stands in for a block: answers with the states that it is called with, or with others, as blocks do."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The states."""
        return as_blocks_answer(hidden if self.answer is None else self.answer)


class BlockEnd(nn.Module):
    """Stands in for the first adapted block: only its end runs, on the site's cached frozen output and the residual."""

    def __init__(self, family: Architecture, end: nn.Module) -> None:
        super().__init__()
        assert family.end is not None
        copied = shallow_copy(end)
        site = shallow_copy(end.get_submodule(_tail_name(family)))
        site.base = nn.Identity()
        copied.set_submodule(_tail_name(family), site)
        self.add_module(family.end, copied)
        self.end = family.end

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The block's output from `[B, T, 2d]`."""
        frozen, residual = states.chunk(2, -1)
        return as_blocks_answer(self.get_submodule(self.end)(frozen, residual))


def shallow_copy(module: Any) -> Any:
    """A copy of a module that shares its parameters and children but can be given others."""
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    return clone


def _tail_name(family: Architecture) -> str:
    return family.ffn.removeprefix(f"{family.end}.")


_AS_TUPLE = int(version("transformers").split(".")[0]) < 5


def as_blocks_answer(states: Tensor) -> Any:
    """The states as blocks answer with them: in a tuple (transformers 4), or alone (5)."""
    return (states,) if _AS_TUPLE else states
