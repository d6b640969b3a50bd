"""Work block by block, without writing any model again: hooks on the model's own pass.

Three things save work, each exact:

- *fan-out*: what lies below the first site is the same for all K views; it runs once on B rows and the block that
  holds the first site hands on K * B;
- *cut*: the last block's attention asks, and its feed-forward part runs, only at the position that the head reads.

A family is listed where these were tested; any other model runs plain passes with equal results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adamix_lab.core.mixture import checkpoints_gradients
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.sites import ARCHITECTURES, Architecture, model_type, pattern_to_regex


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
    """The plan of a supported model, else None: then plain passes serve."""
    model = mixture.model
    family = ARCHITECTURES.get(model_type(model))
    prefix = getattr(model, "base_model_prefix", "")
    if family is None or not hasattr(model, prefix) or not type(model).__name__.endswith(family.heads):
        return None
    if not mixture.mixture.sites or checkpoints_gradients(model):  # the recomputation would run without our hooks
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

    def repeat(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == rows:
            return value.repeat(children, *([1] * (value.dim() - 1)))
        if isinstance(value, tuple):
            return tuple(repeat(part) for part in value)
        return value

    def widen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return repeat(args), {name: repeat(value) for name, value in kwargs.items()}

    def flatten(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0].flatten(0, 1), *output[1:])
        return output.flatten(0, 1)

    if children == 1:
        yield
        return
    with ExitStack() as stack:
        for path, layer in mixture.sites.items():
            here = plan.tail_only and path.startswith(f"{plan.path}.{plan.first}.")
            stack.callback(setattr, layer, "fan_out", layer.fan_out)
            layer.fan_out = "here" if here else "elsewhere"
        widened = plan.blocks[plan.first :]
        if plan.tail_only:
            widened = plan.blocks[plan.first + 1 :]
            first = plan.blocks[plan.first]
            stack.callback(first.register_forward_hook(flatten).remove)
        for block in widened:
            stack.callback(block.register_forward_pre_hook(widen, with_kwargs=True).remove)
        yield


@contextmanager
def cut_last_block(model: nn.Module) -> Iterator[None]:
    """Inside the block, a supported classifier's last block computes only what position 0 needs.

    Works on plain and on wrapped models; elsewhere it changes nothing. Keys and values are those of all positions.
    """
    family = ARCHITECTURES.get(model_type(model))
    classifier = type(model).__name__.endswith("ForSequenceClassification")
    if family is None or family.cut is None or not classifier or checkpoints_gradients(model):
        yield
        return
    blocks = model.get_submodule(f"{model.base_model_prefix}.{family.blocks}")
    last = blocks[-1]  # type: ignore[index]
    # A cached last block has only its end left: its own input is cut then.
    whole = _has(last, family.cut)
    place = last.get_submodule(family.cut) if whole else last
    with ExitStack() as stack:
        stack.callback(place.register_forward_pre_hook(_first_position).remove)
        if whole and family.attention is not None:
            attention = last.get_submodule(family.attention)
            stack.callback(attention.register_forward_pre_hook(_enter).remove)
            stack.callback(attention.register_forward_hook(_leave).remove)
        before = _ONE_QUERY.entered
        try:
            yield
        except BaseException:  # only then: another thread may be inside its own attention
            _leave_all(before)
            raise


class FirstQuery(TorchFunctionMode):
    """While entered, attention is computed for the first query and handed on for all: the rest is cut off later.

    It sees PyTorch's fused attention; another implementation (eager, flash) computes every query as ever.
    """

    entered = 0  # times, by hooks

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


def _enter(module: nn.Module, args: Any) -> None:
    _ONE_QUERY.__enter__()
    _ONE_QUERY.entered += 1


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _ONE_QUERY.__exit__(None, None, None)
    _ONE_QUERY.entered -= 1


def _leave_all(before: int) -> None:
    # an attention that raised has not left (a hook that is always called would: compiled code compiles it each time)
    while _ONE_QUERY.entered > before:
        _ONE_QUERY.__exit__(None, None, None)
        _ONE_QUERY.entered -= 1


def _first_position(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg[:, :1] if isinstance(arg, Tensor) and arg.dim() >= 3 else arg for arg in args)


def _has(module: nn.Module, path: str) -> bool:
    return path in dict(module.named_modules())
