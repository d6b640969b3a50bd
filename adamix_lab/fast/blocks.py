"""Work block by block, without writing any model again: hooks on the model's own pass.

Four things save work, each exact:

- *fan-out*: what lies below the first site is the same for all K views; it runs once on B rows and the block that
  holds the first site hands on K * B;
- *cut*: the last block's attention asks, and its feed-forward part runs, only at the position that the head reads;
- *absorbed keys and values*: where one position asks, the projections of the others go to the query and to what it
  finds, `q · (W_k x) = (W_k^T q) · x` and `sum a (W_v x) = W_v (sum a x)`: no position's key or value is made.

The table of architectures proposes where; a check against plain passes permits (`models.check`). Any other model runs
plain passes, with equal results.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adamix_lab.core import views as plain
from adamix_lab.core.mixture import checkpoints_gradients, during, here, hooked
from adamix_lab.core.sites import ARCHITECTURES, Architecture, model_type, pattern_to_regex
from adamix_lab.core.views import Batch, Views, Way, logits_of, repeat, rows_of
from adamix_lab.models.check import Inputs, a_call_a_route, call, shorter, two_routes, verdict
from adamix_lab.models.model import MixtureModel

Changes = dict[nn.Module, dict[str, Any]]  # for `during`


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of a model and the first one that holds a site."""

    family: Architecture
    path: str
    blocks: nn.ModuleList
    first: int
    tail_only: bool


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
    found = {site: re.match(re.escape(path) + r"\.(\d+)\.", site) for site in mixture.mixture.sites}
    numbers = {site: int(match[1]) for site, match in found.items() if match}
    if len(numbers) < len(found):
        return None
    first = min(numbers.values())
    assert isinstance(blocks, nn.ModuleList)
    return BlockPlan(family, path, blocks, first, only_at_end(mixture, f"{path}.{first}", family))


def only_at_end(mixture: MixtureModel, block: str, family: Architecture) -> bool:
    """Whether a block's sites all lie at its end, where one frozen output serves several routes."""
    inside = [site for site in mixture.mixture.sites if site.startswith(f"{block}.")]
    end = pattern_to_regex(f"{block}.{family.ffn}")
    return mixture.mixture.adaptation.keeps_input and all(map(end.fullmatch, inside))


@contextmanager
def fan_out(mixture: MixtureModel, plan: BlockPlan, children: int, rows: int) -> Iterator[None]:
    """Inside the block, one pass on `rows` rows gives `children * rows` from the first adapted block on."""
    if children == 1:
        yield
        return
    changes: Changes = {}
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
    return _has_cut(model) and (_longest(batch) == 1 or _permitted(model, "cut", batch, lambda other: {}))


def may_absorb(model: nn.Module, batch: Mapping[str, Any] | None = None) -> bool:
    """Whether a model may be cut and its last attention absorb keys and values: proposed by the table, tried once."""
    proposed = _longest(batch) > 1 and _has_cut(model) and absorption(model)
    return bool(proposed) and _permitted(model, "absorbed", batch, absorption)


def _permitted(
    model: nn.Module, way: str, batch: Mapping[str, Any] | None, changes: Callable[[nn.Module], Changes]
) -> bool:
    def fast(other: nn.Module, few: Inputs) -> Tensor:
        with cut_unchecked(other), during(changes(other)):
            return _answers(other, few)

    return verdict(model, way, batch or {}, fast, _answers).permitted


def _has_cut(model: nn.Module) -> bool:
    family = ARCHITECTURES.get(model_type(model))
    known = family is not None and family.cut is not None and hasattr(model, getattr(model, "base_model_prefix", ""))
    return known and not checkpoints_gradients(model)


def _answers(other: nn.Module, few: Inputs) -> Tensor:
    """With every token and with one less, beside zeros: to be compared by their own size."""
    whole = {**few, **{name: torch.ones_like(few[name]) for name in few.keys() & {"attention_mask"}}}
    answers = torch.cat([call(other, inputs) for inputs in (whole, shorter(whole))])
    return torch.stack([torch.zeros_like(answers), answers])


def _longest(batch: Mapping[str, Any] | None) -> int:
    values = (batch or {}).values()
    return max((value.shape[1] for value in values if isinstance(value, Tensor) and value.dim() > 1), default=2)


def absorption(model: nn.Module) -> Changes:
    """What `during` takes for the last attention to absorb: its query, key and value layers, where they are plain.

    Empty where one holds a site or a hook, or is of another class: it then does more than the product that is left out.
    """
    family = ARCHITECTURES[model_type(model)]
    last = _last_block(model, family)
    paths = [path for path in (family.attention, family.query, family.key, family.value) if path and _has(last, path)]
    if len(paths) < 4:
        return {}
    attention, *layers = map(last.get_submodule, paths)
    plain = all(type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks) for layer in layers)
    return {attention: {"absorbed": tuple(layers)}} if plain else {}


@contextmanager
def cut_last_block(
    model: nn.Module, batch: Mapping[str, Any] | None = None, asked: nn.Module | None = None
) -> Iterator[None]:
    """Inside the block, a classifier's last block computes only what position 0 needs, where that is all it reads.

    Works on plain and on wrapped models; elsewhere it changes nothing. Keys and values are those of all positions. They
    are absorbed where they are frozen, in float32 or float64.

    batch: what the model is about to be called with, for the check; None makes an input up. asked: the model that the
    check tries, where this one is made of it.
    """
    tried = model if asked is None else asked
    absorbs = may_absorb(tried, batch)
    cut = cut_unchecked(model) if absorbs or may_cut(tried, batch) else nullcontext()
    with cut, during(absorption(model) if absorbs else {}):
        yield


@contextmanager
def cut_unchecked(model: nn.Module) -> Iterator[None]:
    """As `cut_last_block`, without a question."""
    family = ARCHITECTURES[model_type(model)]
    assert family.cut is not None
    last = _last_block(model, family)
    # A cached last block has only its end left: its own input is cut then.
    whole = _has(last, family.cut)
    place = last.get_submodule(family.cut) if whole else last
    changes: Changes = {place: {"cut": True}}
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


# -- several views in one call --


def independent(mixture: MixtureModel, batch: Batch, routes: Tensor) -> Tensor:
    """The core's way, its last block cut: each view has masks of its own everywhere, at the positions that are left.

    A route a token is asked for at every token: then nothing is cut.
    """
    with nullcontext() if routes.dim() > 4 else cut_last_block(mixture.model, batch):
        return plain.independent(mixture, batch, routes)


def shared_prefix(mixture: MixtureModel, batch: Batch, routes: Tensor) -> Tensor:
    """One pass that fans out at the first adapted block: what lies below runs once, and its dropout masks are shared.

    `independent` serves models that are not supported, and baselines without sites.
    """
    if not mixture.mixture.sites or routes.dim() != 3 or not fans_out(mixture, batch):
        return independent(mixture, batch, routes)
    return fanned_logits(mixture, batch, routes, len(routes), mixture.model)


def fans_out(mixture: MixtureModel, batch: Batch) -> bool:
    """Whether the views may share what lies below the first site: proposed by the table, tried once."""
    if plan_blocks(mixture) is None:
        return False

    def fast(other: Any, few: Inputs) -> Tensor:
        return fanned_logits(other, few, two_routes(other), 2, mixture.model)

    permitted, reason = verdict(mixture, "shared prefix", batch, fast, a_call_a_route)
    if not permitted:
        name = type(mixture.model).__name__
        warnings.warn(f"Views of {name} share no work, with equal results: {reason}.", stacklevel=5)
    return permitted


def fanned_logits(mixture: MixtureModel, batch: Batch, points: Any, number: int, asked: nn.Module) -> Tensor:
    """Logits `[K, B, ...]` at K routes, or points of a mapping, in one pass that fans out, where `fans_out` permits.

    asked: the model that the check of the cut tries.
    """
    plan = plan_blocks(mixture)
    assert plan is not None
    with (
        cut_last_block(mixture.model, batch, asked),
        fan_out(mixture, plan, number, rows_of(batch)),
        mixture.select(points),
    ):
        return logits_of(mixture.model(**batch)).unflatten(0, (number, -1))


WAYS: dict[str, Way] = {**plain.WAYS, "independent": independent, "shared_prefix": shared_prefix}


def routed_logits(mixture: MixtureModel, batch: Batch, routes: Tensor, views: Views = "independent") -> Tensor:
    """Logits `[K, B, ...]` of a batch (without labels) under K routes `[K, sites, sides]`, in any of the three ways.

    Raises ValueError for routes that do not fit, a single one without the leading axis included.

    >>> routes = Router(mixture.space, seed=0).views(0, 2)
    >>> routed_logits(mixture, batch, routes).shape[0]
    2
    """
    return plain.routed_logits(mixture, batch, routes, views, WAYS)


# -- the last attention, for one query --


class FirstQuery(TorchFunctionMode):
    """While entered, attention is computed for the first query and handed on for all: the rest is cut off later.

    It sees PyTorch's fused attention; another implementation (eager, flash) computes every query as ever.

    absorbed: the query, key and value layers of an attention that absorbs.
    """

    def __init__(self, absorbed: tuple[nn.Linear, ...] = ()) -> None:
        super().__init__()
        self.absorbed = absorbed
        self.states: Tensor | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.absorbed and function is F.linear and any(args[1] is layer.weight for layer in self.absorbed):
            self.states = args[0]  # and NaN for queries, keys and values, which no other use of them could hide
            return args[0].new_full((), torch.nan).expand(*args[0].shape[:-1], len(args[1]))
        if self.absorbed and function is Tensor.contiguous:  # what is handed on for all positions is not written out
            return args[0]
        if function is not F.scaled_dot_product_attention or kwargs.get("is_causal") or len(args) != 3:
            return function(*args, **kwargs)
        query, mask = args[0], kwargs.get("attn_mask")
        if mask is not None and mask.shape[-2] > 1:
            kwargs["attn_mask"] = mask[..., :1, :]
        attend = function if self.states is None else self._attend
        out: Tensor = attend(query[..., :1, :], *args[1:], **kwargs)
        return out.expand(*query.shape[:-1], out.shape[-1])

    def _attend(
        self,
        query: Tensor,
        *made: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        scale: float | None = None,
        **more: Any,
    ) -> Tensor:
        """What attention gives to the first position, `[B, H, 1, D]`, from the states `[B, T, d]` themselves.

        The key's bias adds the same to every position's score, which softmax does not see; the value's counts by the
        sum of the weights, which is not 1 under dropout.
        """
        assert self.states is not None
        to_query, to_key, to_value = self.absorbed
        heads = (query.shape[1], query.shape[-1])  # H, D
        asked = to_query(self.states[:, 0]).unflatten(-1, heads)
        asked = torch.einsum("bhi,hid->bhd", asked, to_key.weight.unflatten(0, heads))
        scores = asked @ self.states.mT * (heads[1] ** -0.5 if scale is None else scale)  # [B, H, T]
        mask = None if attn_mask is None else attn_mask.squeeze(-2)
        if mask is None or mask.dtype != torch.bool:
            weights = (scores if mask is None else scores + mask).softmax(-1)
        else:  # a row without any token gets zeros, as in the fused attention
            weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~mask, 0.0)
        weights = F.dropout(weights, dropout_p)
        out = torch.einsum("bhd,hid->bhi", weights @ self.states, to_value.weight.unflatten(0, heads))
        if to_value.bias is not None:
            out = out + weights.sum(-1, keepdim=True) * to_value.bias.unflatten(0, heads)
        return out.contiguous().unsqueeze(2)


_ONE_QUERY = FirstQuery()  # one for all passes that absorb nothing: compiled code knows it again


# -- hooks, on a module once for all threads; each asks whether the present call means it --


def _widen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    # torch leaves kwargs out while another thread takes the hook off; this call then has not asked for it
    children, rows = here(module, "widen", (1, 0))
    if children == 1 or kwargs is None:
        return None
    return widened(args, children, rows), widened(kwargs, children, rows)


def widened(value: Any, times: int, rows: int) -> Any:
    """What a block is called with, its tensors of so many rows repeated."""
    if isinstance(value, Tensor) and value.dim() > 1 and len(value) == rows:
        return repeat(value, times)
    if isinstance(value, tuple):
        return tuple(widened(part, times, rows) for part in value)
    return {name: widened(part, times, rows) for name, part in value.items()} if type(value) is dict else value


def _flatten(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if not here(module, "flatten"):
        return None
    if isinstance(output, tuple):
        return (output[0].flatten(0, 1), *output[1:])
    return output.flatten(0, 1)


def _enter(module: nn.Module, args: Any) -> None:
    if not here(module, "one_query"):
        return
    layers = here(module, "absorbed", ())
    absorb = layers and not torch.compiler.is_compiling() and all(_is_constant(layer) for layer in layers[1:])
    (FirstQuery(layers) if absorb else _ONE_QUERY).__enter__()


def _is_constant(layer: nn.Linear) -> bool:
    """Whether a layer is frozen, or no gradients are asked, and computes in the digits that its weight has."""
    trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in layer.parameters())
    exact = layer.weight.dtype in (torch.float32, torch.float64)
    return exact and not trains and not torch.is_autocast_enabled(layer.weight.device.type)


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    if here(module, "one_query"):
        _ONE_QUERY.__exit__(None, None, None)


def _first_position(module: nn.Module, args: tuple[Any, ...]) -> Any:
    if not here(module, "cut"):
        return None
    # not as strided views, for which a product of matrices is one a row
    return tuple(arg[:, :1].contiguous() if isinstance(arg, Tensor) and arg.dim() >= 3 else arg for arg in args)


def _last_block(model: Any, family: Architecture) -> Any:
    return model.get_submodule(f"{model.base_model_prefix}.{family.blocks}")[-1]


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
