"""Lesson 00: counting weights, and whether two accuracies differ."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, compare, number, passed, several, wrong

Count = Callable[[int, int, int, int, bool], "tuple[int, int]"]


def check_count(count: Count) -> None:
    """Checks `count(d, r, experts, sites, shared) -> (trained, merged)` for bottleneck adapters.

    d: width of the model; r: of the bottleneck; shared: the up-projection is one for all experts of a site. The head
    is not counted.
    """
    for d, r, experts, sites, shared in ((12, 3, 4, 2, False), (12, 3, 4, 2, True), (384, 16, 4, 2, True)):
        answer = several(call(count, d, r, experts, sites, shared), 2, "two numbers, (trained, merged)")
        case = f"d = {d}, r = {r}, {experts} experts, {sites} sites, {'shared' if shared else 'not shared'}"
        trained, merged = _counted(d, r, experts, shared)
        every, _ = _counted(d, r, experts, False)
        one_up, _ = _counted(d, r, experts, True)
        biases = "The biases are missing: r for the way down, d for the way up."
        one_site = "One site was counted: multiply by the number of sites."
        compare(
            f"Trained weights ({case})",
            sites * trained,
            number(answer[0], "A count"),
            {
                biases: sites * (experts * d * r + (1 if shared else experts) * d * r),
                "The shared up-projection was counted once for each expert: it exists once a site.": sites * every,
                "The up-projection was counted once a site, but here every expert has its own.": sites * one_up,
                one_site: trained,
                "This is the merged number: in training every expert counts.": sites * merged,
            },
        )
        compare(
            f"Merged weights ({case})",
            sites * merged,
            number(answer[1], "A count"),
            {
                biases: sites * 2 * d * r,
                "After merging one module a site is left, not one an expert.": sites * every,
                "After merging one down-projection a site is left, too.": sites * one_up,
                one_site: merged,
            },
        )
    passed("check_count")


def check_differ(differ: Callable[[list[bool], list[bool]], bool]) -> None:
    """Checks `differ(first, second)`: whether two models' accuracies on the same rows differ at the 95 % level.

    first, second: whether each row was answered rightly.
    """
    even = [True] * 320 + [False] * 80
    swapped = [True] * 318 + [False] * 2 + [False] * 80  # two rows lost, none won
    scattered = [n % 5 != 0 for n in range(400)]
    better = [True] * 345 + [False] * 55
    cases = (
        (even, swapped, False, "80.0 and 79.5 % are two rows of 400: the interval holds 0."),
        (even, even, False, "The two are the same answers: a difference of 0 with an interval of 0 is no difference."),
        (even, scattered, False, "Both are right on 80 %: which rows they miss does not make their accuracies differ."),
        (better, even, True, "25 rows won and none lost is far outside the paired interval: pair the rows, do not "
         "compare two separate intervals."),
    )  # fmt: skip
    for first, second, expected, cause in cases:
        answer = call(differ, list(first), list(second))
        if bool(answer) != expected:
            rates = " and ".join(f"{100 * sum(rows) / len(rows):.2f} %" for rows in (first, second))
            wrong(f"{rates} on the same 400 rows", expected, bool(answer), cause)
    passed("check_differ")


def _counted(d: int, r: int, experts: int, shared: bool) -> tuple[int, int]:
    """(trained, merged) weights of a real layer."""
    sides = frozenset({"up"} if shared else ())
    with torch.random.fork_rng(devices=[]):
        layer = MixtureLayer(nn.Linear(d, d), Bottleneck(r), experts, sides, generator_for(0))
    return sum(p.numel() for p in layer.experts.values()), sum(p[0].numel() for p in layer.experts.values())
