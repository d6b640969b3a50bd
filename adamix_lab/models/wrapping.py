"""Calling a model that holds mixtures: a selection, or AdaMix's training step; what stock libraries ask of it; dtypes.

transformers.Trainer, accelerate and a loop of one's own train it as any model: in training mode, a call is AdaMix.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from adamix_lab.core.errors import LabError
from adamix_lab.core.mixture import Selection, carry_selection, checkpoints_gradients, during, here
from adamix_lab.core.objective import Objective
from adamix_lab.core.routing import Router
from adamix_lab.core.views import Mixture, spans_as_labels

ModelSelection = Tensor | Mapping[str, Mapping[str, Tensor]] | Literal["merge"] | None


class with_columns:
    """A `forward` whose signature names the wrapped model's inputs: Trainer keeps the columns that it names."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self.function
        if torch.compiler.is_compiling():  # it reads no signatures, and knows methods
            return MethodType(self.function, instance)
        bound: Any = functools.partial(self.function, instance)
        bound.__signature__ = columns(type(instance.model).forward)
        return bound


@functools.lru_cache(maxsize=64)
def columns(forward: Callable[..., Any]) -> inspect.Signature:
    """A class's `forward` as it is called, with the keyword `selection`."""
    _, *named = (p for p in inspect.signature(forward).parameters.values() if p.kind is not p.VAR_KEYWORD)
    selection = inspect.Parameter("selection", inspect.Parameter.KEYWORD_ONLY, default=None)
    return inspect.Signature([*named, selection, inspect.Parameter("batch", inspect.Parameter.VAR_KEYWORD)])


def of_the_model(name: str) -> Any:
    """An attribute that is read, and set, on the wrapped model."""
    return property(lambda self: getattr(self.model, name), lambda self, value: setattr(self.model, name, value))


class Wrapping(Mixture):
    """What a call of a `MixtureModel` does. Its parts (`sites`, `space`, tasks) are that class's."""

    draws: Tensor

    # -- a call -------------------------------------------------------------------------------------
    @with_columns
    def forward(
        self, *inputs: Any, labels: Tensor | None = None, selection: ModelSelection = None, **batch: Any
    ) -> Any:
        """The base model's own output, at a selection: "merge" (Eq. 6), a route, a mixture point, or weights by site.

        Without one, that of the `select` around the call holds. Where there is none either, training is AdaMix: in
        training mode and with gradients, routes are drawn from (seed, `draws`) at each call; with labels all views run,
        the output's `loss` is the objective's (Eq. 5) and its other values are the first view's; without labels one
        drawn route serves, and consistency is off. Else (evaluation mode, no gradients, one expert) it is the merge.

        Raises ValueError for a selection that does not fit, and for several routes where they cannot share a call.
        """
        if labels is not None:
            batch["labels"] = labels
        if run := here(self, "run"):  # a trainer's objective: called in here, it is inside what wraps us (DDP)
            with during({self: {"run": None, "inside": True}}):
                return run({**self._named(inputs), **batch})
        chosen = here(self, "selection") if selection is None else selection
        if chosen is None and self.model.training and torch.is_grad_enabled() and self.space.experts > 1:
            return self._training_call({**self._named(inputs), **batch})
        self._check_groups(chosen, inputs, batch)
        with self.select(selection):
            output = self.model(*inputs, **batch)
        here(self, "outputs", []).append(output)
        return output

    def __call__(self, *inputs: Any, **batch: Any) -> Any:
        """`forward`; the views of a call go past what is around it: accelerate's autocast cannot be entered twice."""
        if here(self, "inside"):
            return Wrapping.forward(self, *inputs, **batch)
        return super().__call__(*inputs, **batch)

    def _training_call(self, batch: dict[str, Any]) -> Any:
        batch = spans_as_labels(batch)
        objective, learns = self.mixture.objective, batch.get("labels") is not None
        routes = Router(self.space, self.mixture.seed).views(int(self.draws), objective.number if learns else 1)
        self.draws += 1
        if not learns:
            self._say_consistency_is_off()
            with during({self: {"inside": True}}):
                return self(selection=routes[0], **batch)
        as_tuple = batch.pop("return_dict", None) is False
        tensors_first = sorted(batch.items(), key=lambda item: not isinstance(item[1], Tensor))
        outputs: list[Any] = []
        with during({self: {"outputs": outputs, "inside": True}}):
            losses = Objective(self, objective)({n: value for n, value in tensors_first if value is not None}, routes)
        values = {name: _first_rows(value, len(losses.logits)) for name, value in outputs[0].items()}
        output = type(outputs[0])(**{**values, "loss": losses.total})
        return output.to_tuple() if as_tuple else output

    def _named(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(inspect.signature(self.model.forward).parameters, inputs, strict=False)) if inputs else {}

    def _check_groups(self, selection: ModelSelection, inputs: tuple[Any, ...], batch: dict[str, Any]) -> None:
        # groups of rows with routes of their own: only where rows come first at every site
        groups = 1
        if isinstance(selection, Tensor):
            groups = len(selection) if selection.dim() > 2 + selection.is_floating_point() else 1
        elif isinstance(selection, Mapping):
            with self.select(selection):
                groups = max((layer.groups() for layer in self.sites.values()), default=1)
        if groups > 1 and not (known := self.takes_groups({**self._named(inputs), **batch})).permitted:
            raise LabError(
                f"{type(self.model).__name__} does not take {groups} routes in one call ({known.reason}): expected one "
                "route, [sites, sides]. routed_logits calls it for each view, or example, by itself; tokens cannot."
            )

    def _say_consistency_is_off(self) -> None:
        if self.mixture.objective.weight and not getattr(self, "_said_it", False):
            warnings.warn(
                "A call in training mode came without labels: one route was drawn, and no second view is held to it. "
                "transformers.Trainer takes labels away for label smoothing and for a loss of its own: use "
                'adamix_lab.training.hf_trainer.AdaMixTrainer, or give labels. selection="merge" asks for the merge.',
                stacklevel=6,  # the caller's line, above torch's `__call__`
            )
        self._said_it = True

    @contextmanager
    def select(self, selection: ModelSelection) -> Iterator[None]:
        """Every site applies the selection inside the block, in this thread: see `forward`; None changes nothing.

        Raises ValueError for a route that does not fit.
        """
        if torch.is_grad_enabled() and checkpoints_gradients(self.model):
            carry_selection(self.model)
        if selection is None:
            yield
            return
        parts = zip(self.sites.values(), self.selections(selection), strict=True)
        with during({self: {"selection": selection}, **{layer: {"selection": part} for layer, part in parts}}):
            yield

    def selections(self, selection: ModelSelection) -> list[Selection]:
        """Each site's part of a selection, None for the merge. Raises ValueError for one that does not fit."""
        if isinstance(selection, Tensor):
            route = not selection.is_floating_point()
            _ = self.space.check(selection) if route else self.space.check_point(selection)
            parts = selection.unbind(-2 if route else -3)
            devices = [next(layer.parameters()).device for layer in self.sites.values()]
            return [part.to(device) for part, device in zip(parts, devices, strict=True)]
        if selection in (None, "merge"):
            return [None] * len(self.sites)
        if not isinstance(selection, Mapping):
            raise LabError(f'selection = {selection!r}: expected "merge", a route [sites, sides], or a mixture point.')
        if missing := [path for path in self.sites if path not in selection]:
            raise LabError(f"Weights are missing for site {missing[0]!r}: expected a mapping with every site.")
        return [selection[path] for path in self.sites]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The adaptation switched off inside the block: the frozen layers alone (the head stays)."""
        off = {layer: {"enabled": False} for layer in self.sites.values()}
        with during({self: {"selection": "merge"}, **off}):  # no routes are drawn
            yield

    def generate(self, *args: Any, selection: ModelSelection = None, **settings: Any) -> Tensor:
        """The base model's `generate` under one selection for the whole sequence; without one, the merge."""
        self._check_groups(here(self, "selection") if selection is None else selection, args, settings)
        with self.select(selection):
            return self.model.generate(*args, **settings)  # type: ignore[no-any-return]

    # -- what stock libraries ask -------------------------------------------------------------------
    accepts_loss_kwargs = False  # Trainer then divides the loss among the pieces of an accumulated step

    config, generation_config, loss_type, main_input_name, device, dtype = map(
        of_the_model, ("config", "generation_config", "loss_type", "main_input_name", "device", "dtype")
    )
    can_generate, get_input_embeddings, get_output_embeddings, prepare_decoder_input_ids_from_labels = map(
        of_the_model,
        ("can_generate", "get_input_embeddings", "get_output_embeddings", "prepare_decoder_input_ids_from_labels"),
    )
    gradient_checkpointing_enable, gradient_checkpointing_disable, is_gradient_checkpointing = map(
        of_the_model, ("gradient_checkpointing_enable", "gradient_checkpointing_disable", "is_gradient_checkpointing")
    )
    activation_checkpointing_enable, activation_checkpointing_disable = map(  # their later names
        of_the_model, ("activation_checkpointing_enable", "activation_checkpointing_disable")
    )

    def print_trainable_parameters(self) -> None:
        """Prints how much trains, in peft's words; M experts count M times."""
        parameters = list(self.parameters())
        trains, every = sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
        print(f"trainable params: {trains:,d} || all params: {every:,d} || trainable%: {100 * trains / every:.4f}")

    def _get_name(self) -> str:
        # Trainer asks by name whether labels are shifted (label smoothing)
        return self.model._get_name() if hasattr(self, "model") else super()._get_name()

    def _replicate_for_data_parallel(self) -> Any:
        raise LabError(
            "DataParallel would copy the model to several GPUs in one process and split the views among them: expected "
            "one process a GPU. Start it with torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES=0."
        )

    # -- state: tied weights once, as files hold them -----------------------------------------------
    def _tied(self) -> dict[str, str]:
        first: dict[int, str] = {}
        named = self.named_parameters(remove_duplicate=False)
        return {name: kept for name, p in named if (kept := first.setdefault(id(p), name)) != name}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """The state, without the further names of tied weights."""
        state = super().state_dict(*args, **kwargs)
        for name in self._tied():
            state.pop(f"{kwargs.get('prefix', '')}{name}", None)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}draws", torch.zeros_like(self.draws))  # of an earlier version
        for name, kept in self._tied().items():
            if prefix + kept in state_dict:
                state_dict.setdefault(prefix + name, state_dict[prefix + kept])
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _first_rows(value: Any, rows: int) -> Any:
    # of a model's output for several views: the first one's, of tensors with a row axis and tuples of them
    if isinstance(value, tuple):
        return tuple(_first_rows(part, rows) for part in value)
    if isinstance(value, Tensor):
        return value[:rows] if value.dim() else value
    return None


# -- all that trains is float32 at least, in a base of any dtype: a head takes its states as they come, and goes back --


def widen(module: nn.Module) -> None:
    """Makes a head train in float32 at least. Raises ValueError for one that holds no floats."""
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point() or parameter.element_size() < 2:
            raise LabError(
                f"The head's {name!r} is {parameter.dtype} and would train: expected floats. Leave the head out of the "
                "quantisation (llm_int8_skip_modules of bitsandbytes), or keep it frozen (train_head=False)."
            )
    if any(parameter.element_size() < 4 for parameter in module.parameters()):
        module._apply(lambda t: t.to(torch.promote_types(t.dtype, torch.float32)) if t.is_floating_point() else t)
        follow(module)


def follow(module: nn.Module) -> None:
    """Lets a head take inputs of any dtype."""
    if cast_inputs not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(cast_inputs, with_kwargs=True)


def cast_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """A hook: the inputs in the dtype of the weights; autocast does that by itself."""
    weight = next(module.parameters())
    if torch.is_autocast_enabled(weight.device.type):
        return args, kwargs
    return tree_map_only(Tensor, lambda t: t.to(weight.dtype) if t.is_floating_point() else t, (args, kwargs))


def keep_wide(change: Callable[[Tensor], Tensor], modules: Iterable[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The change of a tensor (a cast, a move), but what these modules hold is not narrowed below float32."""
    own = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    wide = {id(t) for held in own for t in (held, held.grad)}

    def kept(t: Tensor) -> Tensor:
        changed = change(t)
        return t.to(changed.device) if id(t) in wide and changed.element_size() < min(4, t.element_size()) else changed

    return kept


def restore_head(model: nn.Module, first: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Takes the hooks off and gives a head the narrower dtypes that it had (first: its first states by path)."""
    for path, states in first.items():
        module = model.get_submodule(path)
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is cast_inputs]:
            del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]
        for name, tensor in module.state_dict(keep_vars=True).items():
            if states[name].element_size() < tensor.element_size():
                tensor.data, tensor.grad = tensor.data.to(states[name].dtype), None
