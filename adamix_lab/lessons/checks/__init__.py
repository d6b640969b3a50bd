"""What all checks share: calling a learner's function safely, and saying what is wrong in words."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
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
    except (Exception, SystemExit) as error:
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


def alike(found: Any, expected: Any, tolerance: float = BY_HAND) -> bool:
    """Whether two answers are the same: numbers up to a share `tolerance`, tensors up to float32's rounding."""
    if isinstance(expected, Tensor):
        comparable = isinstance(found, Tensor) and found.shape == expected.shape
        return comparable and relative_difference(found, expected) <= REORDERED[torch.float32]
    if isinstance(expected, list):
        return bool(found == expected)
    return relative_difference(found, expected) <= tolerance


def judge(
    check: str,
    what: str,
    right: Any,
    came: Any,
    known: Mapping[str, Any],
    rule: str = "",
    other: str = "",
    tolerance: float = BY_HAND,
    **words: Any,
) -> None:
    """Passes where an answer is right: a number, a list of numbers, or a tensor.

    Else it raises AssertionError, with the cause where the answer is a known wrong one.

    Args:
        check: the part of causes.yaml that has a sentence for each name in `known`.
        what: was asked.
        right, came: the answers that are compared.
        known: wrong answers by name.
        rule: what stands in the message for a right tensor.
        other: the name of what is said of a wrong answer that is not known.
        tolerance: of numbers.
        words: what the sentences name.
    """
    came = tensor(came, what, right.shape) if isinstance(right, Tensor) else came
    came = number(came, what) if isinstance(right, int | float) else came
    if alike(came, right, tolerance):
        return
    name = next((name for name, value in known.items() if alike(came, value, tolerance)), other)
    cause = _causes()[check][name].format(**words) if name else ""
    if isinstance(right, Tensor) and not cause and came.shape != right.shape:
        wrong(what, f"a tensor {list(right.shape)}", list(came.shape), "Which axis is averaged, which is kept?")
    expected, found = (rule, "another") if isinstance(right, Tensor) else (right, came)
    wrong(what, expected, found, cause)


@lru_cache
def _causes() -> dict[str, dict[str, str]]:
    return dict(yaml.safe_load(Path(__file__).with_name("causes.yaml").read_text(encoding="utf-8")))


def tensor(value: Any, what: str, shape: Sequence[int]) -> Tensor:
    """A tensor from a tensor, a number or a list of them. Raises AssertionError for anything else."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        wrong(what, f"a tensor {list(shape)}", type(value).__name__)


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


def refuse_library(function: Callable[..., Any]) -> None:
    """Raises AssertionError where a function, or a function that it calls by name, uses the library.

    What it sees: names, imports inside of functions, and module names in strings. It tells honest mistakes from work
    of one's own; it is no lock against a person who wants to get round it.
    """
    borrowed = next(_borrowed(function, set()), None)
    assert borrowed is None, (
        f"{_name(function)} uses {borrowed} of adamix_lab: here you are asked to write it yourself. "
        "The library's function is what your own is compared with in the lesson."
    )


def _borrowed(value: Any, seen: set[int], name: str = "") -> Iterator[str]:
    while isinstance(value, types.MethodType | partial):  # by its kind: a plain function may bear such names, too
        value = value.__func__ if isinstance(value, types.MethodType) else value.func
    module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    if "adamix_lab" in (place.split(".")[0] for place in (name, module) if isinstance(place, str)):
        yield name or _name(value)
    if not isinstance(value, types.FunctionType) or id(value) in seen:
        return
    seen.add(id(value))
    inner = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    known = {**value.__globals__, **{name: cell.cell_contents for name, cell in inner}}
    for name in (*_names(value.__code__), *value.__code__.co_freevars):
        yield from _borrowed(known.get(name), seen, name)


def _names(code: types.CodeType) -> Iterator[str]:
    # names that the code looks up or imports, and its strings, functions inside of it included
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
        elif isinstance(constant, str) and constant != (code.co_consts[0] if code.co_consts else None):
            yield constant
