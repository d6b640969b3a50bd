"""All that trains is float32 at least, in a base of any dtype: a head takes its states as they come, and goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from adamix_lab.core.errors import LabError


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
