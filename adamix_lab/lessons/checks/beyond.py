"""Lessons 07 to 09: runs to compare, an adaptation of one's own and other libraries, texts to write."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.mixture import declared_weights
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import alike, call, judge, number, passed, several, wrong

# -- lesson 07: a difference paired by seed with its interval, and how small a difference so many rows can show ----

CASES = (
    ((55.2, 61.0, 52.7, 58.4, 63.1), (54.1, 59.6, 52.9, 56.8, 61.9)),
    ((70.0, 74.0, 69.0), (71.5, 73.0, 71.0)),
)


def check_paired_interval(interval: Callable[[Sequence[float], Sequence[float]], Any]) -> None:
    """Checks `interval(first, second) -> (mean, low, high)`: the mean of first minus second and its 95 % t-interval.

    first, second: scores of the same seeds, in the same order.
    """
    for first, second in CASES:
        answer = several(call(interval, list(first), list(second)), 3, "three numbers, (mean, low, high)")
        mean, low, high = (number(value, "A number of the interval") for value in answer)
        gaps = [a - b for a, b in zip(first, second, strict=True)]
        n, right = len(gaps), statistics.mean(gaps)
        judge("check_paired_interval", f"The mean ({n} seeds)", right, mean, dict(turned=-right))
        if not alike(high - mean, mean - low):
            wrong(f"The interval ({n} seeds)", "as far below the mean as above it", f"{low:.4g} to {high:.4g}")
        t, root = _quantile(n - 1), math.sqrt(n)
        spread, population = statistics.stdev(gaps), statistics.pstdev(gaps)
        apart = math.hypot(statistics.stdev(first), statistics.stdev(second)) / root
        known = dict(unpaired=_quantile(2 * n - 2) * apart, unpaired_normal=1.96 * apart)
        known |= dict(normal=1.96 * spread / root, population=t * population / root, seeds=t * spread)
        known |= dict(normal_population=1.96 * population / root, freedom=_quantile(n) * spread / root)
        known |= dict(one_tail=_quantile(n - 1, 0.95) * spread / root)
        what = f"Half of the interval ({n} seeds)"
        judge("check_paired_interval", what, t * spread / root, high - mean, known, n=n, freedom=n - 1)
    passed("check_paired_interval")


def _quantile(freedom: int, level: float = 0.975) -> float:
    from scipy.stats import t

    return float(t.ppf(level, freedom))


def check_detectable(smallest: Callable[[int, float], Any]) -> None:
    """Checks `smallest(rows, disagree)`: the half width in points of a 95 % interval of a paired difference near 0.

    disagree: share of rows that exactly one of the two models answers rightly; each such row counts +1 or -1.
    """
    for rows, disagree in ((277, 0.2), (872, 0.1)):
        right, root = 196 * math.sqrt(disagree / rows), math.sqrt(rows)
        known = dict(
            share=right / 100, binomial=right * math.sqrt(1 - disagree), two_models=196 * math.sqrt(0.5) / root
        )
        known |= dict(no_root=196 * disagree / rows, one_error=right / 1.96)
        what = f"On {rows} rows, {100 * disagree:g} % of which have one right answer"
        judge(
            "check_detectable", what, right, call(smallest, rows, disagree), known, tolerance=2e-3
        )  # 1.96 or 1.959964
    passed("check_detectable")


# -- lesson 08: an adaptation of one's own, and the weight at which peft's combination is the merge ----------------

SHAPES = {"A": "[rank, in]", "B": "[out, rank]", "gate": "[out]"}


def check_gated_lora(adaptation: type[Adaptation]) -> None:
    """Checks an `Adaptation` of rank `rank`: `y = Wx + gate * (B A x)`, unchanged at the start, right for K views."""
    if not (isinstance(adaptation, type) and issubclass(adaptation, Adaptation)):
        wrong("What is checked", "the class itself, a subclass of Adaptation", adaptation)
    inside, outside, rank = 6, 5, 3
    made = call(adaptation, rank)
    declared = call(declared_weights, made, inside, outside)
    shapes = {"A": (rank, inside), "B": (outside, rank), "gate": (outside,)}
    for name, shape in shapes.items():
        if name not in declared or declared[name].shape != shape:
            came = declared[name].shape if name in declared else "none"
            wrong(f"The weight {name!r}", f"{SHAPES[name]} = {list(shape)}", came)
    if declared["gate"].decay:
        wrong("Decay of the gate", False, True, "It starts at 1: decay would pull the update to nothing.")
    if declared["gate"].side != declared["B"].side:
        wrong("The gate's side", repr(declared["B"].side), repr(declared["gate"].side), "It acts where B writes.")
    generator = generator_for(0)
    started = {name: weight.start(weight.shape, generator) for name, weight in declared.items()}
    x, frozen = torch.randn(4, 2, inside, generator=generator), torch.randn(outside, inside, generator=generator)
    calls: list[Tensor] = []

    def base(x: Tensor) -> Tensor:
        calls.append(x)
        return x @ frozen.T

    if not alike(call(made.apply, base, x, started, False), base(x)):
        wrong("The output at the start", "the frozen layer's", "another", "One factor of B A has to start at zero.")
    if len(calls) != 2:
        wrong("Calls of the frozen layer", 1, len(calls) - 1, "Call base(x) once and keep what it answers.")
    one, other = ({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(2))
    y, (update, second) = x @ frozen.T, (x @ w["A"].T @ w["B"].T for w in (one, other))
    right, what = y + one["gate"] * update, "Two views in one pass, weights [2, ...]"
    known = dict(no_gate=y + update, no_base=one["gate"] * update, all_gated=one["gate"] * (y + update))
    came = call(made.apply, base, x, one, False)
    judge("check_gated_lora", "The output", right, came, known, "Wx + gate * (B A x)")
    cause = "A vector [K, out] needs along(update, gate) to meet its K groups of rows."
    both = {name: torch.stack([one[name], other[name]]) for name in shapes}
    try:
        came = call(made.apply, base, x, both, False)
    except AssertionError as error:
        wrong(what, "an output", "an error", f"{cause} {error}")
    if not alike(came, torch.cat([right[:2], (y + other["gate"] * second)[2:]])):
        wrong(what, "each group with its own weights", "another output", cause)
    passed("check_gated_lora")


def check_peft_weight(weight: Callable[[int, str], float]) -> None:
    """Checks `weight(experts, combination)`: what each of M experts gets in `add_weighted_adapter` to equal a merge.

    "linear" is to give the mean of factors, "cat" the mean of products.
    """
    for experts in (2, 4, 5):
        linear = dict(mean=1 / experts, by_hand=experts**-0.5, ones=1.0)
        cat = dict(once=1 / experts**2, products=1.0)
        for combination, right, known in (("linear", 1 / experts**2, linear), ("cat", 1 / experts, cat)):
            what = f"weight({experts}, {combination!r})"
            judge("check_peft_weight", what, right, call(weight, experts, combination), known)
    passed("check_peft_weight")


# -- lesson 09: labels behind a masked prefix, and the slots that a text realises ----------------------------------

IGNORED = -100


def check_prefix_labels(labels_of: Callable[[list[int], list[int], int, int], Sequence[int]]) -> None:
    """Checks `labels_of(source, target, separator, end)`: unshifted labels of `source, separator, target, end`.

    -100 on source and separator; elsewhere the id of the same position.
    """
    for source, target in (([5, 6, 7], [8, 9]), ([5], [8, 9, 10]), ([5, 6, 7, 4, 3], [8])):
        ids, before, behind = [*source, 1, *target, 2], len(source) * [IGNORED], [*target, 2]
        came = call(labels_of, list(source), list(target), 1, 2)
        came = came.tolist() if hasattr(came, "tolist") else came
        if not isinstance(came, list | tuple):
            wrong("The labels", "a list of numbers", type(came).__name__)
        known = dict(source=ids, separator=before + ids[len(source) :], shifted=[*before, *behind, IGNORED])
        known |= dict(first=[*before, IGNORED, IGNORED, *behind[1:]], end=[*before, IGNORED, *target, IGNORED])
        right, other = [*before, IGNORED, *behind], "others" if len(came) == len(ids) else "count"
        judge("check_prefix_labels", f"Labels of {ids}", right, list(came), known, other=other, ids=len(ids))
    passed("check_prefix_labels")


def check_coverage(coverage: Callable[[str, dict[str, str]], float]) -> None:
    """Checks `coverage(text, slots)`: the share of values that stand in the text as whole words, in capitals or not."""
    slots = {"event": "race", "place": "school", "month": "June", "host": "king"}
    cases = (
        ("In June there is a race.", 0.5, "marks"),
        ("KING: A RACE, AT THE SCHOOL, JUNE.", 1.0, "capitals"),
        ("Asking for an embrace.", 0.0, "inside"),
        ("A race, a race, a race.", 0.25, "repeated"),
        ("", 0.0, "empty"),
    )
    for text, right, cause in cases:
        known = {"percent": 100 * right} if right else {}
        judge("check_coverage", f"Coverage of {text!r}", right, call(coverage, text, dict(slots)), known, other=cause)
    passed("check_coverage")
