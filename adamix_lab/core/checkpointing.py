"""Selections under gradient checkpointing: each recomputation sees the route of its own first run.

A checkpointed block runs again in the backward pass, when another view's route may be set, or none, and maybe in a
thread of autograd's own. What is set then would serve every recomputation: wrong gradients, silently. So the checkpoint
function that transformers puts on its blocks is wrapped by one that carries along what was set.
"""

from __future__ import annotations

from typing import Any

from adamix_lab.core.calls import restored, states


class CarrySelection:
    """A checkpoint function whose recomputation sees the selections of its first run, not the last ones set."""

    def __init__(self, checkpoint: Any) -> None:
        self.checkpoint = checkpoint

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Called as torch's checkpoint is: a function and its arguments."""
        first = states()

        def run(*inner: Any, **named: Any) -> Any:
            with restored(first):  # now, and again in the backward pass
                return function(*inner, **named)

        return self.checkpoint(run, *args, **kwargs)


def carry_selection(model: Any) -> None:
    """Wraps the checkpoint functions that transformers has set, once each."""
    for module in model.modules():
        function = getattr(module, "_gradient_checkpointing_func", None)
        if function is None or isinstance(function, CarrySelection):
            continue
        module._gradient_checkpointing_func = CarrySelection(function)  # type: ignore[assignment]
        reentrant = getattr(function, "keywords", {}).get("use_reentrant", True)
        if reentrant and not _asks_for_input_gradients(model):  # it tracks none else, and the embeddings are frozen
            model.enable_input_require_grads()
            model._asked_for_input_gradients = True


def _asks_for_input_gradients(model: Any) -> bool:
    # transformers 5 keeps a list of handles; 4.57 keeps one, also after it was removed.
    handles = getattr(model, "_require_grads_hooks", None) or [getattr(model, "_require_grads_hook", None)]
    return any(handle is not None and handle.id in (handle.hooks_dict_ref() or ()) for handle in handles)


def release_carry(model: Any) -> None:
    """Puts the plain checkpoint functions back."""
    for module in model.modules():
        function = getattr(module, "_gradient_checkpointing_func", None)
        if isinstance(function, CarrySelection):
            module._gradient_checkpointing_func = function.checkpoint
    if model.__dict__.pop("_asked_for_input_gradients", False):
        model.disable_input_require_grads()
