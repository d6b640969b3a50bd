"""What modules do in the present call: which route a layer takes, whether it is on, what a fast way does at a block.

Nothing of it is kept on the modules, which all threads share: each thread has its own, blocks nest, and what one block
set is gone behind it, after an error too. It is a `threading.local`, since `torch.compile` reads that as data (at a
`ContextVar` it breaks the graph): a coroutine that awaits inside a block lets others see what is set there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
