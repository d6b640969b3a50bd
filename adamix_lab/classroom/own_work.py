"""Whether a function written for an exercise is written, or borrowed from the library that it should rebuild."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

LIBRARY = "adamix_lab"


def refuse_library(function: Callable[..., Any], library: str = LIBRARY) -> None:
    """Raises AssertionError where a function, or a function that it calls by name, uses the library.

    What it sees: names, imports inside of functions, and module names in strings. It tells honest mistakes from work
    of one's own; it is no lock against a person who wants to get round it.
    """
    borrowed = next(_borrowed(function, library, set()), None)
    assert borrowed is None, (
        f"{function.__name__} uses {borrowed} of {library}: here you are asked to write it yourself. "
        "The library's function is what your own is compared with in the lesson."
    )


def _borrowed(function: Any, library: str, seen: set[int]) -> Iterator[str]:
    if not isinstance(function, types.FunctionType):
        function = getattr(function, "__func__", getattr(function, "func", None))  # a method, a partial
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    inner = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    known = {**function.__globals__, **{name: cell.cell_contents for name, cell in inner}}
    for name in (*_names(function.__code__), *function.__code__.co_freevars):
        if name.split(".")[0] == library:
            yield name
        value = known.get(name)
        module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if isinstance(module, str) and module.split(".")[0] == library:
            yield name
        yield from _borrowed(value, library, seen)


def _names(code: types.CodeType) -> Iterator[str]:
    # names that the code looks up or imports, and its strings, functions inside of it included
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
        elif isinstance(constant, str) and constant != (code.co_consts[0] if code.co_consts else None):
            yield constant
