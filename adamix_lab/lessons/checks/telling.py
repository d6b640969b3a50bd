"""What all checks share: calling a learner's function safely, and saying what is wrong in words."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from adamix_lab.core.files import write_text
from adamix_lab.core.merging import REORDERED, relative_difference


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's answer; the global random state is as before. Raises AssertionError, in words, if it fails."""
    if not callable(function):
        raise AssertionError(f"Expected a function, but {function!r} came. Pass the function itself, without brackets.")
    try:
        with torch.random.fork_rng(devices=[]):
            answer = function(*arguments)
    except NotImplementedError:
        raise AssertionError("The function is not written yet: replace `raise NotImplementedError`.") from None
    except Exception as error:
        shown = ", ".join(_short(argument) for argument in arguments)
        raise AssertionError(
            f"{_name(function)}({shown}) stopped with {type(error).__name__}: {error}. Call it yourself with these "
            "arguments to see where."
        ) from error
    if answer is None:
        raise AssertionError(f"{_name(function)} gave None: expected a value. Is the `return` missing?")
    return answer


def wrong(what: str, expected: object, came: object, cause: str = "") -> NoReturn:
    """Raises AssertionError: what was expected, what came, the likely cause."""
    raise AssertionError(f"{what}: expected {_short(expected)}, but {_short(came)} came. {cause}".strip())


def number(value: Any, what: str) -> float:
    """One number from a float, an int or a tensor of one element. Raises AssertionError for anything else."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            wrong(what, "one number", f"a tensor of shape {list(value.shape)}", "Is a mean or a sum missing?")
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong(what, "one number", type(value).__name__)
    return float(value)


# A number that a learner computes another way, in float32, perhaps from rounded constants: ten times REORDERED.
BY_HAND = 1e-4


def close(found: float, expected: float, tolerance: float = BY_HAND) -> bool:
    """Whether a number is the expected one, up to a share `tolerance` of it (of 1 where 0 is expected)."""
    return relative_difference(found, expected) <= tolerance


def same(found: Tensor, expected: Tensor) -> bool:
    """Whether a tensor has the expected shape, and its values up to float32's rounding of the largest."""
    return found.shape == expected.shape and relative_difference(found, expected) <= REORDERED[torch.float32]


def compare(what: str, expected: float, came: float, mistakes: Mapping[str, float], tolerance: float = BY_HAND) -> None:
    """Passes where the numbers agree; else names the mistake whose number came."""
    if close(came, expected, tolerance):
        return
    cause = next((name for name, value in mistakes.items() if close(came, value, tolerance)), "")
    wrong(what, expected, came, cause)


def match(what: str, rule: str, expected: Tensor, came: Tensor, mistakes: Mapping[str, Tensor]) -> None:
    """Passes where the tensors agree; else says the rule, and the mistake whose tensor came."""
    if not same(came, expected):
        wrong(what, rule, "another", likely(came, mistakes))


def likely(came: Tensor, mistakes: Mapping[str, Tensor]) -> str:
    """The mistake whose tensor came; empty where it is none of them."""
    return next((cause for cause, value in mistakes.items() if same(came, value)), "")


def several(answer: Any, count: int, what: str) -> Sequence[Any]:
    """An answer of so many parts, described by `what`. Raises AssertionError for anything else."""
    if not isinstance(answer, tuple | list) or len(answer) != count:
        wrong("The answer", what, answer)
    return answer


def attempt(check: Callable[..., None], *answers: Any) -> None:
    """Runs a check and prints what it says, instead of stopping the notebook; marks are given by the check itself."""
    try:
        check(*answers)
    except AssertionError as error:
        print(f"Not yet. {error}")


def passed(name: str) -> None:
    """One line that says so; it is noted beside the lessons, where they are in the working folder."""
    print(f"{name}: right.")
    if name not in (noted := checks_passed()) and any(Path.cwd().glob("[0-9][0-9]_*.ipynb")):
        with suppress(OSError):  # a folder that cannot be written to remembers nothing
            write_text(Path.cwd() / NOTED, json.dumps([*noted, name]) + "\n")


NOTED = "my_progress.json"


def checks_passed() -> list[str]:
    """The names of the checks that were passed in the working folder; none where the note cannot be read."""
    try:
        noted = json.loads((Path.cwd() / NOTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in noted if isinstance(name, str)] if isinstance(noted, list) else []


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "The function")


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


# -- whether a function written for an exercise is written, or borrowed from the library that it should rebuild


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
