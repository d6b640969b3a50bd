"""What stock libraries ask of a model: `transformers.Trainer`, accelerate, and who is used to peft.

A `MixtureModel` is no `PreTrainedModel`: what it holds is written by `save`. It answers as the model that it wraps
where others look: configuration, devices, checkpointing of gradients, the names of the inputs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from adamix_lab.core.errors import LabError


def of_the_model(name: str) -> Any:
    """An attribute that is read, and set, on the wrapped model."""
    return property(
        lambda self: getattr(self.model, name), lambda self, value: setattr(self.model, name, value), doc="`model`'s."
    )


class Signed(functools.partial):  # type: ignore[type-arg]
    """A bound `forward` whose signature names the wrapped model's inputs: Trainer keeps the columns that it names."""

    @property
    def __signature__(self) -> inspect.Signature:
        own, wrapped = (inspect.signature(f).parameters for f in (self.func, self.args[0].model.forward))
        names = {name: p for name, p in wrapped.items() if p.kind is not p.VAR_KEYWORD}
        names |= {name: p for name, p in own.items() if p.kind is p.KEYWORD_ONLY and name not in names}
        rest = [p for p in own.values() if p.kind is p.VAR_KEYWORD]
        return inspect.Signature([*sorted(names.values(), key=lambda p: p.kind), *rest])


class signed:
    """Makes a method `Signed` where it is looked up on an instance."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Callable[..., Any]:
        if torch.compiler.is_compiling() and instance is not None:  # compiled code calls it, and asks no names
            return MethodType(self.function, instance)
        return self.function if instance is None else Signed(self.function, instance)


class Wrapping(nn.Module):
    """A model around another, `model`."""

    model: Any
    accepts_loss_kwargs = False  # Trainer then divides the loss among the pieces of an accumulated step

    config = of_the_model("config")
    generation_config = of_the_model("generation_config")
    device = of_the_model("device")
    dtype = of_the_model("dtype")
    loss_type = of_the_model("loss_type")
    main_input_name = of_the_model("main_input_name")
    can_generate = of_the_model("can_generate")
    get_input_embeddings = of_the_model("get_input_embeddings")
    get_output_embeddings = of_the_model("get_output_embeddings")
    prepare_decoder_input_ids_from_labels = of_the_model("prepare_decoder_input_ids_from_labels")
    gradient_checkpointing_enable = of_the_model("gradient_checkpointing_enable")
    gradient_checkpointing_disable = of_the_model("gradient_checkpointing_disable")
    activation_checkpointing_enable = of_the_model("activation_checkpointing_enable")  # since transformers 5.2x
    activation_checkpointing_disable = of_the_model("activation_checkpointing_disable")
    is_gradient_checkpointing = of_the_model("is_gradient_checkpointing")

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(what trains, all): M experts count M times."""
        sizes = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Prints what trains, in peft's words."""
        trains, all_param = self.get_nb_trainable_parameters()
        share = 100 * trains / all_param
        print(f"trainable params: {trains:,d} || all params: {all_param:,d} || trainable%: {share:.4f}")

    def _get_name(self) -> str:
        # Trainer asks by name whether labels are shifted (label smoothing)
        return self.model._get_name() if hasattr(self, "model") else super()._get_name()

    def _replicate_for_data_parallel(self) -> Any:
        raise LabError(
            "DataParallel would copy the model to several GPUs in one process and split the views among them: expected "
            "one process a GPU. Start it with torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES=0."
        )

    # -- state: tied weights appear once, as files must have it --

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
        for name, kept in self._tied().items():
            if prefix + kept in state_dict:
                state_dict.setdefault(prefix + name, state_dict[prefix + kept])
        super()._load_from_state_dict(state_dict, prefix, *rest)
