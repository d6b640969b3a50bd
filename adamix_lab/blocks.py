"""Work block by block, without writing any model again: hooks on the model's own pass.

Three things save work, each exact:

- *fan-out*: what lies below the first site is the same for all K views; it runs once on B rows and the block that
  holds the first site hands on K * B;
- *cut*: the last block's feed-forward part runs only at the position that the head reads;
- *above*: with the frozen prefix cached, a pass starts at the first adapted block.

A family is listed where these were tested; any other model runs plain passes with equal results.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.checkpointing import checkpoints_gradients
from adamix_lab.model import MixtureModel
from adamix_lab.targets import pattern_to_regex


@dataclass(frozen=True)
class Family:
    """How a family's blocks are laid out.

    Attributes:
        blocks: path of the block list inside the base model.
        tail: the site whose output only meets additions and norms before the block ends (it may fan out in place).
        cut: the module whose inputs, cut to the first position, leave the rest of the block to that position.
        heads: endings of model classes whose head accepts more rows than `input_ids` has.
    """

    blocks: str
    tail: str
    cut: str | None
    heads: tuple[str, ...]


_ENCODER = ("ForSequenceClassification", "ForMaskedLM", "ForTokenClassification")
_BERT = Family("encoder.layer", "output.dense", "attention.output", _ENCODER)
_DECODER = ("LMHeadModel", "ForCausalLM")
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT),
    "distilbert": Family("transformer.layer", "ffn.lin2", "sa_layer_norm", _ENCODER),
    "gpt2": Family("h", "mlp.c_proj", None, _DECODER),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), Family("layers", "mlp.down_proj", None, _DECODER)),
}


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of a model and the first one that holds a site."""

    family: Family
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
    family = FAMILIES.get(str(getattr(getattr(model, "config", None), "model_type", "")))
    prefix = getattr(model, "base_model_prefix", "")
    if family is None or not hasattr(model, prefix) or not type(model).__name__.endswith(family.heads):
        return None
    if checkpoints_gradients(model):  # the recomputation would run without our hooks
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
    tail = pattern_to_regex(f"{path}.{first}.{family.tail}")
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
    """Inside the block, a supported classifier's last block computes its feed-forward part only at position 0.

    Works on plain and on wrapped models; elsewhere it changes nothing.
    """
    family = FAMILIES.get(str(getattr(getattr(model, "config", None), "model_type", "")))
    classifier = type(model).__name__.endswith("ForSequenceClassification")
    if family is None or family.cut is None or not classifier or checkpoints_gradients(model):
        yield
        return
    blocks = model.get_submodule(f"{model.base_model_prefix}.{family.blocks}")
    handle = blocks[-1].get_submodule(family.cut).register_forward_pre_hook(_first_position)  # type: ignore[index]
    try:
        yield
    finally:
        handle.remove()


def _first_position(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg[:, :1] if isinstance(arg, Tensor) and arg.dim() >= 3 else arg for arg in args)


# -- the part above the frozen prefix --------------------------------------------------------------------


class _PassThrough(nn.Module):
    """Stands in for the embeddings: the cached states are given as `inputs_embeds`."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Any:
        return next(a for a in (inputs_embeds, *args) if isinstance(a, Tensor) and a.is_floating_point())


class _Skip(nn.Module):
    """Stands in for a block of the cached prefix."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden,) if self.as_tuple else hidden


class _Reached(Exception):
    pass


def prefix_states(mixture: MixtureModel, plan: BlockPlan, batch: dict[str, Tensor]) -> Tensor:
    """The hidden states `[B, T, d]` that enter the first adapted block: evaluation mode, no gradients."""
    kept: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        kept.append(args[0])
        raise _Reached

    handle = plan.blocks[plan.first].register_forward_pre_hook(stop)
    training = {module: module.training for module in mixture.modules()}
    mixture.eval()
    try:
        with torch.no_grad():
            mixture.model(**batch)
    except _Reached:
        pass
    finally:
        handle.remove()
        for part, mode in training.items():
            part.training = mode
    return kept[0]


def above(mixture: MixtureModel) -> tuple[MixtureModel, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    """The mixture from its first adapted block on, sharing every module, and what caches a batch for it.

    The second value turns `input_ids` into `inputs_embeds` (the states entering the first adapted block); the first
    takes those. The prefix runs in evaluation mode: its dropout is off. Raises ValueError for families not supported.
    """
    plan = plan_blocks(mixture)
    if plan is None or plan.family.cut is None:
        known = ", ".join(sorted(name for name, family in FAMILIES.items() if family.cut))
        raise ValueError(
            f"The frozen prefix of {type(mixture.model).__name__} cannot be cached: expected one of {known}, with a "
            "task head, sites in its blocks, and no gradient checkpointing. Train without cache."
        )
    top = _shallow(mixture)
    top.model = _shallow(mixture.model)
    owner: nn.Module = top.model
    for part in (*plan.path.split(".")[:-1],):
        child = _shallow(getattr(owner, part))
        if hasattr(child, "embeddings"):
            child.embeddings = _PassThrough()
        setattr(owner, part, child)
        owner = child
    skipped = [_Skip(_returns_tuple()) for _ in range(plan.first)]
    setattr(owner, plan.path.split(".")[-1], nn.ModuleList([*skipped, *plan.blocks[plan.first :]]))

    def cache(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        kept = {name: value for name, value in batch.items() if name in ("attention_mask", "labels")}
        return {"inputs_embeds": prefix_states(mixture, plan, inputs), **kept}

    return top, cache


def _shallow(module: Any) -> Any:
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    return clone


def _returns_tuple() -> bool:
    # transformers 4 blocks answer with a tuple, transformers 5 ones with the hidden states
    from transformers import __version__

    return int(__version__.split(".")[0]) < 5
