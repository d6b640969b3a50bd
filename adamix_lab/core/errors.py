"""Messages that name the value, what was expected, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    names = sorted(map(str, known))
    close = near_misses(str(given), names)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return LabError(f"{what} {given!r} is not known; expected one of {', '.join(names)}.{hint}")


def positive(what: str, value: int) -> None:
    """Refuses counts below one, and what is no whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise LabError(f"{what} = {value}: expected a whole number of at least 1.")


def fraction(what: str, value: float) -> None:
    """Refuses numbers outside [0, 1)."""
    if not 0 <= value < 1:
        raise LabError(f"{what} = {value}: expected a number from 0 up to, not including, 1.")


def one_of(what: str, value: str, known: Iterable[str]) -> None:
    """Refuses names that are not known."""
    if value not in known:
        raise unknown(what, value, known)
