"""What may be given: the error for what may not, checks, and what a user chooses among apart from the tensors.

Messages name the value, what was expected, and what to do. Nothing here needs torch: `--help` and refusals are quick.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args


class LabError(ValueError):
    """A mistake in what was given: the message names the value, what was expected, and the remedy.

    >>> try:
    ...     attach(model, Bottleneck(16), share="upp")
    ... except LabError as error:
    ...     print(error)
    Side to share for bottleneck 'upp' is not known; expected one of down, up. Did you mean 'up'?
    """


def near_misses(given: str, known: Iterable[str]) -> list[str]:
    """The known names closest to ``given``, three at most, best first; capitals do not matter."""
    names = {name.lower(): name for name in known}
    return [names[name] for name in difflib.get_close_matches(given.lower(), list(names), n=3, cutoff=0.4)]


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
        fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        fits = False
    if not fits or value < least:
        at_least = "" if least == -math.inf else f" of at least {least:g}"
        raise LabError(f"{what} = {value!r}: expected a number{at_least}.")


def fraction(what: str, value: float) -> None:
    """Refuses numbers outside [0, 1)."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value < 1:
        raise LabError(f"{what} = {value}: expected a number from 0 up to, not including, 1.")


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of packages that an extra brings. Raises ImportError, with the remedy, where one is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = f"run pip install 'adamix-lab[{name}]'."
        raise ImportError(f"This needs {error.name}, which is not installed: {remedy}", name=error.name) from error


def one_of(what: str, value: str, known: Iterable[str]) -> None:
    """Refuses names that are not known."""
    if value not in [*known]:  # a list, say, that a file gave has no hash
        raise unknown(what, value, known)


# -- what a user chooses among ------------------------------------------------------------------------------------

Kind = Literal["classes", "labels", "numbers", "tokens", "spans", "texts"]  # what a model's answers mean
Scope = Literal["batch", "example", "token"]  # what shares a route
Views = Literal["independent", "shared_prefix", "same_dropout"]  # how several views of a batch are taken
Distance = Literal["reference", "symmetric", "mse"]  # between two views: `objective.DISTANCES`
POOLINGS = ("cls", "mean")  # what a classifier's head reads: the family's own place, or the mean of all tokens
# How experts are used at inference (`training.evaluation.answer_by`), and when texts are decoded.
STRATEGIES = ("merged", "fixed", *(f"fixed-{n}" for n in range(8)), "random", "random-example", "random-token")
STRATEGIES += ("ensemble", "ensemble-probabilities")
DECODED = ("merged", "fixed", "fixed-0", "random", "random-example")  # or another expert's number: check_decoded


@dataclass(frozen=True)
class Consistency:
    """How two views are held together. Weight 0 means one view a step.

    kind: "reference" (targets detached), "symmetric", "mse" (regression).
    weight: lambda of Eq. 5; the reference takes 1 for classification, 100 a target token for generation.
    views: "independent", "same_dropout" (see `adamix_lab.core.views`) or "shared_prefix" (`adamix_lab.fast.blocks`).

    >>> Consistency(weight=0).number, Consistency(weight=1).number  # views a step
    (1, 2)
    """

    weight: float = 1.0
    kind: str = "reference"
    views: Views = "independent"

    def __post_init__(self) -> None:
        one_of("consistency", self.kind, get_args(Distance))
        one_of("views", self.views, get_args(Views))
        finite("consistency", self.weight, 0)

    @property
    def number(self) -> int:
        """Views a step: two, or one where the weight is 0."""
        return 2 if self.weight > 0 else 1


def check_decoded(what: str, strategy: str) -> None:
    """Refuses strategies that texts are not decoded by; N of fixed-N is any expert's number."""
    if not re.fullmatch(r"fixed-\d+", strategy):
        one_of(what, strategy, DECODED)


def check_repository(name: str) -> None:
    """Refuses what is no repository's name on the Hub."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise LabError(f"{name!r} is no repository's name: expected owner/name.")
