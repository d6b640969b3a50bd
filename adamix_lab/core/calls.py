"""What modules do in the present call: which route a layer takes, whether it is on, what a fast way does at a block.

Nothing of it is kept on the modules, which all threads share: each thread has its own, blocks nest, and what one block
set is gone behind it, after an error too. It is a `threading.local`, since `torch.compile` reads that as data (at a
`ContextVar` it breaks the graph): a coroutine that awaits inside a block lets others see what is set there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

States = Mapping[nn.Module, Mapping[str, Any]]

_CALL = threading.local()
_NOTHING: dict[Any, Any] = {}


def states() -> States:
    """All that is set in this thread: values by name, by module."""
    return getattr(_CALL, "states", _NOTHING)


def here(module: nn.Module, name: str, default: Any = None) -> Any:
    """What a name is set to for a module in the present call."""
    return states().get(module, _NOTHING).get(name, default)


@contextmanager
def restored(to: States) -> Iterator[None]:
    """Inside the block exactly these states hold: those of the call that a recomputation belongs to."""
    before = states()
    _CALL.states = to
    try:
        yield
    finally:
        _CALL.states = before


def during(changes: States) -> Any:
    """A context in which these states hold beside those that are set already."""
    before = states()
    return restored({**before, **{module: {**before.get(module, {}), **new} for module, new in changes.items()}})


# -- hooks that act in their own call alone --

_LOCK = threading.Lock()
_HOOKS: dict[tuple[nn.Module, Callable[..., Any]], tuple[int, Any]] = {}  # calls that want it, and its handle


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any], register: Callable[..., Any]) -> Iterator[None]:
    """The hook is on the module inside the block. It must do nothing in a call that has not asked for it (`here`)."""
    key = (module, hook)
    with _LOCK:
        count, handle = _HOOKS[key] if key in _HOOKS else (0, register(hook))
        _HOOKS[key] = count + 1, handle
    try:
        yield
    finally:
        with _LOCK:
            count, handle = _HOOKS.pop(key)
            if count > 1:
                _HOOKS[key] = count - 1, handle
            else:
                handle.remove()


@contextmanager
def noting(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """Gives, by name, the first input of each module's last run in this call inside the block."""
    noted: dict[str, Any] = {}
    with ExitStack() as stack:
        for module in modules.values():
            stack.enter_context(hooked(module, _note, module.register_forward_pre_hook))
        with during({module: {"note": (noted, name)} for name, module in modules.items()}):
            yield noted


def _note(module: nn.Module, args: tuple[Any, ...]) -> None:
    if note := here(module, "note"):
        noted, name = note
        noted[name] = args[0]
