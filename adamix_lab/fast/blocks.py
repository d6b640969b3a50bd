"""Work block by block, without writing any model again: hooks on the model's own pass.

Three things save work, each exact:

- *fan-out*: what lies below the first site is the same for all K views; it runs once on B rows and the block that
  holds the first site hands on K * B;
- *cut*: the last block's attention asks, and its feed-forward part runs, only at the position that the head reads.

The table of architectures proposes where; a check against plain passes permits (`models.check`). Any other model runs
plain passes, with equal results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adamix_lab.core.calls import during, here, hooked
from adamix_lab.core.mixture import checkpoints_gradients
from adamix_lab.core.sites import ARCHITECTURES, Architecture, model_type, pattern_to_regex
from adamix_lab.models.check import Inputs, call, verdict
from adamix_lab.models.model import MixtureModel


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of a model and the first one that holds a site."""

    family: Architecture
    path: str
    blocks: nn.ModuleList
    first: int
    tail_only: bool

    @property
    def cut(self) -> nn.Module | None:
        """The module of the last block whose inputs may be cut, if the family has one."""
        return self.blocks[-1].get_submodule(self.family.cut) if self.family.cut else None


def plan_blocks(mixture: MixtureModel) -> BlockPlan | None:
    """What the table proposes for a model, for a check to permit; None: plain passes serve."""
    model = mixture.model
    family = ARCHITECTURES.get(model_type(model))
    prefix = getattr(model, "base_model_prefix", "")
    if family is None or not family.fans_out or not hasattr(model, prefix):
        return None
    if not mixture.mixture.sites or checkpoints_gradients(model):  # the recomputation would run without our hooks
        return None
    inside = [path for path in mixture.head_paths if path.startswith(f"{prefix}.")]  # parts that the files lacked
    if any(path != f"{prefix}.pooler" for path in inside):  # they may lie below the first site
        return None
    path = f"{prefix}.{family.blocks}"
    blocks = model.get_submodule(path)
    numbers: list[int] = []
    for site in mixture.mixture.sites:
        match = re.match(re.escape(path) + r"\.(\d+)\.", site)
        if match is None:
            return None
        numbers.append(int(match.group(1)))
    first = min(numbers)
    here = [site for site, number in zip(mixture.mixture.sites, numbers, strict=True) if number == first]
    tail = pattern_to_regex(f"{path}.{first}.{family.ffn}")
    tail_only = all(tail.fullmatch(site) for site in here) and mixture.mixture.adaptation.keeps_input
    assert isinstance(blocks, nn.ModuleList)
    return BlockPlan(family, path, blocks, first, tail_only)


@contextmanager
def fan_out(mixture: MixtureModel, plan: BlockPlan, children: int, rows: int) -> Iterator[None]:
    """Inside the block, one pass on `rows` rows gives `children * rows` from the first adapted block on."""
    if children == 1:
        yield
        return
    changes: dict[nn.Module, dict[str, Any]] = {}
    for path, layer in mixture.sites.items():
        inside = plan.tail_only and path.startswith(f"{plan.path}.{plan.first}.")
        changes[layer] = {"fan_out": "here" if inside else "elsewhere"}
    with ExitStack() as stack:
        for block in plan.blocks[plan.first + plan.tail_only :]:
            changes[block] = {"widen": (children, rows)}
            stack.enter_context(hooked(block, _widen, partial(block.register_forward_pre_hook, with_kwargs=True)))
        if plan.tail_only:
            first = plan.blocks[plan.first]
            changes[first] = {"flatten": True}
            stack.enter_context(hooked(first, _flatten, first.register_forward_hook))
        stack.enter_context(during(changes))
        yield


def may_cut(model: nn.Module, batch: Mapping[str, Any] | None = None) -> bool:
    """Whether a model's answers need nothing but position 0 of its last block: proposed by the table, tried once."""
    family = ARCHITECTURES.get(model_type(model))
    known = family is not None and family.cut is not None and hasattr(model, getattr(model, "base_model_prefix", ""))
    if not known or checkpoints_gradients(model):
        return False

    def plain(other: nn.Module, few: Inputs) -> Tensor:
        masks = {name: torch.ones_like(value) for name, value in few.items() if name == "attention_mask"}
        answers = call(other, {**few, **masks})
        return torch.stack([torch.zeros_like(answers), answers])  # to be compared by their own size

    def fast(other: nn.Module, few: Inputs) -> Tensor:
        with cut_unchecked(other):
            return plain(other, few)

    batch = batch or {}
    tokens = [value.shape[1] for value in batch.values() if isinstance(value, Tensor) and value.dim() > 1]
    return max(tokens, default=2) == 1 or verdict(model, "cut", batch, fast, plain).permitted


@contextmanager
def cut_last_block(
    model: nn.Module, batch: Mapping[str, Any] | None = None, asked: nn.Module | None = None
) -> Iterator[None]:
    """Inside the block, a classifier's last block computes only what position 0 needs, where that is all it reads.

    Works on plain and on wrapped models; elsewhere it changes nothing. Keys and values are those of all positions.

    batch: what the model is about to be called with, for the check; None makes an input up. asked: the model that the
    check tries, where this one is made of it.
    """
    with cut_unchecked(model) if may_cut(model if asked is None else asked, batch) else nullcontext():
        yield


@contextmanager
def cut_unchecked(model: nn.Module) -> Iterator[None]:
    """As `cut_last_block`, without a question."""
    family = ARCHITECTURES[model_type(model)]
    assert family.cut is not None
    blocks = model.get_submodule(f"{model.base_model_prefix}.{family.blocks}")
    last = blocks[-1]  # type: ignore[index]
    # A cached last block has only its end left: its own input is cut then.
    whole = _has(last, family.cut)
    place = last.get_submodule(family.cut) if whole else last
    changes: dict[nn.Module, dict[str, Any]] = {place: {"cut": True}}
    with ExitStack() as stack:
        stack.enter_context(hooked(place, _first_position, place.register_forward_pre_hook))
        if whole and family.attention is not None:
            attention = last.get_submodule(family.attention)
            changes[attention] = {"one_query": True}
            stack.enter_context(hooked(attention, _enter, attention.register_forward_pre_hook))
            stack.enter_context(hooked(attention, _leave, attention.register_forward_hook))
        stack.enter_context(during(changes))
        before = torch._C._len_torch_function_stack()  # each thread has its own
        try:
            yield
        except BaseException:
            # an attention that raised has not left (a hook that is always called would: compiled code compiles it
            # each time)
            while torch._C._len_torch_function_stack() > before:
                _ONE_QUERY.__exit__(None, None, None)
            raise


class FirstQuery(TorchFunctionMode):
    """While entered, attention is computed for the first query and handed on for all: the rest is cut off later.

    It sees PyTorch's fused attention; another implementation (eager, flash) computes every query as ever.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is not F.scaled_dot_product_attention or kwargs.get("is_causal") or len(args) != 3:
            return function(*args, **kwargs)
        query, mask = args[0], kwargs.get("attn_mask")
        if mask is not None and mask.shape[-2] > 1:
            kwargs["attn_mask"] = mask[..., :1, :]
        out: Tensor = function(query[..., :1, :], *args[1:], **kwargs)
        return out.expand(*query.shape[:-1], out.shape[-1])


_ONE_QUERY = FirstQuery()  # one for all passes: compiled code knows it again


# -- hooks, on a module once for all threads; each asks whether the present call means it --


def _widen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    # torch leaves kwargs out while another thread takes the hook off; this call then has not asked for it
    children, rows = here(module, "widen", (1, 0))
    if children == 1 or kwargs is None:
        return None
    return _repeat(args, children, rows), {name: _repeat(value, children, rows) for name, value in kwargs.items()}


def _repeat(value: Any, children: int, rows: int) -> Any:
    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == rows:
        return value.repeat(children, *([1] * (value.dim() - 1)))
    if isinstance(value, tuple):
        return tuple(_repeat(part, children, rows) for part in value)
    return value


def _flatten(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if not here(module, "flatten"):
        return None
    if isinstance(output, tuple):
        return (output[0].flatten(0, 1), *output[1:])
    return output.flatten(0, 1)


def _enter(module: nn.Module, args: Any) -> None:
    if here(module, "one_query"):
        _ONE_QUERY.__enter__()


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    if here(module, "one_query"):
        _ONE_QUERY.__exit__(None, None, None)


def _first_position(module: nn.Module, args: tuple[Any, ...]) -> Any:
    if not here(module, "cut"):
        return None
    return tuple(arg[:, :1] if isinstance(arg, Tensor) and arg.dim() >= 3 else arg for arg in args)


def _has(module: nn.Module, path: str) -> bool:
    return path in dict(module.named_modules())
