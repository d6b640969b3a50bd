"""Messages that name the value, what was expected, and what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any


class LabError(ValueError):
    """A mistake in what was given: the message names the value, what was expected, and the remedy.

    >>> try:
    ...     attach(model, Bottleneck(16), share="upp")
    ... except LabError as error:
    ...     print(error)
    Side to share for bottleneck 'upp' is not known; expected one of down, up. Did you mean 'up'?
    """


def near_misses(given: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names closest to ``given``, best first; capitals do not matter."""
    names = {name.lower(): name for name in known}
    return [names[name] for name in difflib.get_close_matches(given.lower(), list(names), n=most, cutoff=0.4)]


def unknown(what: str, given: object, known: Iterable[str]) -> LabError:
    """The error for a name that is none of the known ones; near misses are named."""
    names = sorted({*map(str, known)})
    close = near_misses(str(given), names)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return LabError(f"{what} {given!r} is not known; expected one of {', '.join(names)}.{hint}")


MOST_EXPERTS = 1024  # what asks for more is refused before anything is allocated
SEEDS = 2**32 - 1  # the last one: numpy's generator takes no more


def whole(what: str, value: Any, least: int = 0, most: int | None = None) -> None:
    """Refuses what is no whole number from `least` to `most` (None: without end)."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= (value if most is None else most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        raise LabError(f"{what} = {value!r}: expected a whole number {bounds}.")


def positive(what: str, value: object) -> None:
    """Refuses counts below one, and what is no whole number."""
    whole(what, value, 1)


def check_experts(value: object, what: str = "experts") -> None:
    """Refuses numbers of experts that are no whole number from 1 to 1024."""
    whole(what, value, 1, MOST_EXPERTS)


def finite(what: str, value: Any, least: float = -math.inf) -> None:
    """Refuses what is no finite number of at least `least`."""
    try:
        fits = isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        fits = False
    if not fits or value < least:
        at_least = "" if least == -math.inf else f" of at least {least:g}"
        raise LabError(f"{what} = {value!r}: expected a number{at_least}.")


def fraction(what: str, value: float) -> None:
    """Refuses numbers outside [0, 1)."""
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise LabError(f"{what} = {value}: expected a number from 0 up to, not including, 1.")


def one_of(what: str, value: str, known: Iterable[str]) -> None:
    """Refuses names that are not known."""
    if value not in [*known]:  # a list, say, that a file gave has no hash
        raise unknown(what, value, known)
