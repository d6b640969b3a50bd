"""Checks that ask the model itself: is every site called, and does a short-cut give what plain calls give?

They run on a copy that shares the frozen weights, with two random experts at every site: routes differ there whatever
training has done. The model, its flags and buffers and the random generators stay as they are.
"""

from __future__ import annotations

import copy
import inspect
import random
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.core.views import by_row, repeat
from adamix_lab.models.wrapping import cast_inputs

Inputs = dict[str, Any]
Ask = Callable[[Any, Inputs], Tensor]  # (a copy of a mixture, inputs) to answers [K, ...]


class Verdict(NamedTuple):
    """Whether a way may be taken, and why not."""

    permitted: bool
    reason: str = ""


_KNOWN: dict[Any, Verdict] = {}  # so that a sweep pays once
_OPTIONS = {bool, int, str, FunctionType, MethodType}  # attributes that tell modules of one class apart


def identity(model: nn.Module) -> tuple[Any, ...]:
    """What a verdict depends on: build, configuration, sites. A model without a configuration stands for itself."""

    def build(module: nn.Module) -> tuple[Any, ...]:
        own: list[Any] = [module.__class__]
        for name, value in module.__dict__.items():
            if name == "adaptation":
                own.append(repr(value))
            elif type(value) in _OPTIONS and name[0] != "_" and name != "training":
                own += name, getattr(value, "__code__", value)
        return (*own, *[build(child) for child in module._modules.values() if child is not None])

    config, first = getattr(model, "config", None), next(model.parameters())
    settings = repr(getattr(config, "__dict__", config)) if config else weakref.ref(model)
    return build(model), settings, first.dtype, first.device.type


@torch.compiler.disable
def verdict(mixture: Any, way: str, batch: Mapping[str, Any], fast: Ask, plain: Ask) -> Verdict:
    """Whether a way equals plain calls, tried once: on the two longest rows of a batch, else on an input made up.

    Where plain calls fail, too, nothing is said about the way, nor remembered: weights on `meta`, inputs of no use.
    """
    key = (way, identity(plain_model(mixture)))
    if key in _KNOWN:
        return _KNOWN[key]
    with undisturbed(mixture):
        try:
            other = rehearsal(mixture)
            few, expected = plainly(other, batch, plain)
        except Exception as error:
            return Verdict(False, f"it could not be tried: {error}")
        try:
            _KNOWN[key] = compare(fast(other, few), expected, mixture)
        except Exception as error:
            _KNOWN[key] = Verdict(False, str(error))
    return _KNOWN[key]


def plain_model(mixture: Any) -> nn.Module:
    """What a mixture wraps; a plain model itself."""
    return mixture.model if hasattr(mixture, "mixture") else mixture  # type: ignore[no-any-return]


def plainly(other: Any, batch: Mapping[str, Any], plain: Ask) -> tuple[Inputs, Tensor]:
    """The first inputs that plain calls take, of the batch or made up, and what they answer."""
    if batch:
        with suppress(Exception):
            return (few := longest_rows(batch)), plain(other, few)
    for inputs in made_up(plain_model(other)):
        with suppress(Exception):
            return inputs, plain(other, inputs)
    raise LabError("plain calls take neither the batch nor an input made up")


def compare(found: Tensor, expected: Tensor, model: nn.Module) -> Verdict:
    """Equal within roundings, where the first axis tells apart what should differ: else equality would say nothing."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    bound = max(torch.finfo(dtype).eps for dtype in dtypes) ** 0.5
    apart = float((expected - expected[:1]).abs().max())
    if found.shape != expected.shape:
        return Verdict(False, f"its answers are {list(found.shape)} where {list(expected.shape)} are expected")
    if not apart > bound * float(expected.abs().max()):
        return Verdict(False, "routes make no difference there")
    share = float((found - expected).abs().max()) / apart
    return Verdict(share <= bound, f"answers differ from plain calls' by {share:.2g} of what routes differ by")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Without gradients and autocast; every random generator is as before afterwards."""
    device, python, numpy = next(model.parameters()).device, random.getstate(), np.random.get_state()
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, torch.no_grad(), torch.autocast("cuda" if device.type == "cuda" else "cpu", enabled=False):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def rehearsal(mixture: Any) -> Any:
    """A copy of a mixture, or of a plain model, in evaluation mode."""
    if plain_model(mixture) is mixture:
        return twin(mixture).eval()
    made = copy.copy(mixture)
    made._modules = {**mixture._modules, "model": twin(mixture.model)}
    return made.eval()


def twin(model: nn.Module) -> nn.Module:
    """A copy that shares parameters, not buffers; its sites take notes and hold two random experts."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise LabError("some weights are on the meta device")
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        memo |= {id(config): config for config in [getattr(module, "config", None)] if config is not None}
        for hooks in (module._forward_pre_hooks, module._forward_hooks):  # an observer's hooks stay with the model
            memo[id(hooks)] = OrderedDict(item for item in list(hooks.items()) if item[1] is cast_inputs)
    made, generator = copy.deepcopy(model, memo), torch.Generator().manual_seed(0)

    def drawn(stacked: Tensor) -> nn.Parameter:
        shape = stacked.shape[1:]
        width = shape[-1] if len(shape) > 1 else 1  # so that states keep their size
        return nn.Parameter((torch.randn(2, *shape, generator=generator) / width**0.5).to(stacked), False)

    for layer in sites_of(made).values():
        layer.__class__, layer.notes, layer.rows = Watched, {}, []
        layer.experts = nn.ParameterDict({name: drawn(stacked) for name, stacked in layer.experts.items()})
    return made


class Watched(MixtureLayer):
    """A site of a copy. It notes, by mode (training or not), whether it is "called" and its frozen weight "read"."""

    notes: dict[bool, set[str]]
    rows: list[int]  # of its calls

    def forward(self, x: Tensor) -> Tensor:
        """As the site itself."""
        self.rows.append(len(x))
        self.notes.setdefault(self.training, set()).add("called")
        return super().forward(x)

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """The frozen layer's weight."""
        self.notes.setdefault(self.training, set()).add("read")
        return self.base.weight


def sites_of(model: nn.Module) -> dict[str, Any]:
    """The mixture layers by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, MixtureLayer)}


# -- several routes in one call ------------------------------------------------------------------------------


def takes_groups(mixture: Any, batch: Mapping[str, Any]) -> Verdict:
    """Whether K groups of rows may have K routes in one call: not where a site sees tokens, or one row, first."""

    def fast(other: Any, few: Inputs) -> Tensor:
        doubled, routes = by_row(few, lambda value: repeat(value, 2)), two_routes(other)
        seen = [rows_seen(other, inputs, routes[0]) for inputs in (few, doubled)]
        for path, rows in seen[0].items():
            if seen[1][path] != [2 * number for number in rows]:
                raise LabError(f"what site {path!r} sees has no row axis first")
        padded = rows_seen(other, shorter(few), routes[0])
        if path := next((path for path in padded if padded[path] != seen[0][path]), ""):
            raise LabError(f"what site {path!r} sees leaves padding out: its rows are of unequal length")
        return call(other, doubled, routes).unflatten(0, (2, -1))

    return verdict(mixture, "groups", batch, fast, a_call_a_route) if mixture.sites else Verdict(True)


def rows_seen(other: Any, inputs: Inputs, route: Tensor) -> dict[str, list[int]]:
    """The first axis of what each site sees, call by call."""
    for layer in other.sites.values():
        layer.rows.clear()
    call(other, inputs, route)
    return {path: list(layer.rows) for path, layer in other.sites.items()}


def shorter(few: Inputs) -> Inputs:
    """The inputs with the end of the last row masked, where there is a mask: as in a batch with padding."""
    mask = few.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask[-1].sum() < 2:
        return few
    mask = mask.clone()
    mask[-1, mask[-1].nonzero()[-1]] = 0
    return {**few, "attention_mask": mask}


def a_call_a_route(other: Any, few: Inputs) -> Tensor:
    """Answers `[2, B, ...]` of two routes in plain calls."""
    return torch.stack([call(other, few, route) for route in two_routes(other)])


def two_routes(other: Any) -> Tensor:
    """Expert 0 everywhere and expert 1 everywhere, `[2, sites, sides]`."""
    return torch.stack([other.space.fixed(0), other.space.fixed(1)])


def call(other: Any, inputs: Inputs, selection: Any = None) -> Tensor:
    """The logits, or the first of the outputs, of a mixture at a selection, or of a plain model."""
    if plain_model(other) is not other:
        with other.select(selection):
            return call(other.model, inputs)
    output = other(**inputs)
    found = output if isinstance(output, Tensor) else getattr(output, "logits", getattr(output, "start_logits", None))
    return output[0] if found is None else found


def longest_rows(batch: Mapping[str, Any]) -> Inputs:
    """Two rows of a batch, those with the least padding; without objects, such as a cache that a call fills."""
    batch = {name: v for name, v in batch.items() if v is None or isinstance(v, Tensor | int | float | str)}
    mask = batch.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return by_row(batch, lambda value: value[:2])
    order = mask.sum(1).argsort(descending=True, stable=True)[:2]
    return by_row(batch, lambda value: value[order.to(value.device)])


# -- is every site called? -----------------------------------------------------------------------------------


def check_called(model: nn.Module) -> None:
    """Runs a copy in evaluation and in training mode on an input made up, and its parts where that reaches no site.

    Raises ValueError where a site's weight is read and the site is not called (`nn.MultiheadAttention`, fused layers):
    its experts would have no effect. Warns where that is not known.
    """
    key = ("called", identity(model))
    if key in _KNOWN:
        return
    name, why, ran, sites = type(model).__name__, "no input made up reaches it", list[nn.Module](), dict[str, Any]()
    with undisturbed(model):
        try:
            made = twin(model)
            sites, ran = sites_of(made), reach(made)
        except Exception as error:
            why = str(error)
    for path, layer in sites.items():
        if (mode := next((mode for mode, notes in layer.notes.items() if notes == {"read"}), None)) is not None:
            owner = model.get_submodule(path.rpartition(".")[0])
            fused = "torch.backends.mha.set_fastpath_enabled(False) before attach, or "
            raise LabError(
                f"Site {path!r} cannot be adapted: in {'training' if mode else 'evaluation'} mode its weight is read "
                f"by {type(owner).__name__}, which does not call it; experts would have no effect. Expected layers "
                f"that are called: {fused if isinstance(owner, nn.TransformerEncoderLayer) else ''}targets= without it."
            )
    missed = [path for path, layer in sites.items() if not layer.notes]
    if sites and len(missed) == len(sites) and made.get_submodule(missed[0].rpartition(".")[0]) in ran:
        raise LabError(f"{name} calls none of the sites ({missed[0]!r}): expected layers that it calls. Give others.")
    if missed or not sites:
        warnings.warn(
            f"Whether {name} calls {repr(missed[0]) if missed else 'its sites'} is not known: {why}. Right where not "
            "every input goes (a router's expert); elsewhere experts have no effect: look whether they get gradients.",
            stacklevel=3,
        )
    else:
        _KNOWN[key] = Verdict(True)


def reach(module: nn.Module) -> list[nn.Module]:
    """Runs a module, and then its parts, until every site is called: those that took an input made up."""
    if isinstance(module, MixtureLayer) or all(layer.notes for layer in sites_of(module).values()):
        return []
    ran = [module] if run(module) else []
    return ran + [one for part in module.children() for one in reach(part)]


def run(module: nn.Module) -> bool:
    """Runs a module in both modes on the first input made up that it takes in evaluation mode; False: it takes none."""
    layers = sites_of(module).values()

    def noted(training: bool, inputs: Inputs) -> bool:
        before = [{mode: set(notes) for mode, notes in layer.notes.items()} for layer in layers]
        try:
            module.train(training)(**inputs)
            return True
        except Exception:  # what a pass that fails has noted half-way is no evidence
            for layer, notes in zip(layers, before, strict=True):
                layer.notes = notes
            return False

    taken = next((inputs for inputs in made_up(module) if noted(False, inputs)), None)
    if taken is not None:
        noted(True, taken)  # it may fail: batch norm wants two rows
    return taken is not None


def made_up(model: nn.Module) -> Iterator[Inputs]:
    """Small inputs by the names that `forward` takes: tokens, and for what else it needs tokens or states."""
    names = inspect.signature(model.forward).parameters
    config, first = getattr(model, "config", None), next(model.parameters())
    end, size = (getattr(config, name, None) for name in ("eos_token_id", "vocab_size"))
    ids = torch.tensor([[3, 4, 5, end if isinstance(end, int) else 2]], device=first.device) % (size or 6)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} if "input_ids" in names else {}
    text |= {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
    if "pixel_values" in names and isinstance(side := getattr(config, "image_size", None), int):
        text["pixel_values"] = torch.randn(1, getattr(config, "num_channels", 3), side, side).to(first)
    needed = [name for name, p in names.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    linear: Any = next((module for module in model.modules() if isinstance(module, nn.Linear)), nn.Linear(4, 4))
    states = torch.randn(1, 4, linear.in_features).to(first)
    for value in (ids, states, states[0]):
        yield dict.fromkeys(needed, value) | {name: value for name, value in text.items() if name in names}
