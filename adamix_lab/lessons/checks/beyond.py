"""Lessons 07 to 09: runs to compare, an adaptation of one's own and other libraries, texts to write."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.statistics import t_interval
from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.mixture import declared_weights
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, close, compare, match, number, passed, same, several, wrong

# -- lesson 09: labels behind a masked prefix, and the slots that a text realises ----------------------------------


IGNORED = -100


def check_prefix_labels(labels_of: Callable[[list[int], list[int], int, int], Sequence[int]]) -> None:
    """Checks `labels_of(source, target, separator, end)`: unshifted labels of `source, separator, target, end`.

    -100 on source and separator; elsewhere the id of the same position.
    """
    for source, target in (([5, 6, 7], [8, 9]), ([5], [8, 9, 10]), ([5, 6, 7, 4, 3], [8])):
        ids = [*source, 1, *target, 2]
        expected = [IGNORED] * (len(source) + 1) + [*target, 2]
        came = _listed(call(labels_of, list(source), list(target), 1, 2))
        if came != expected:
            wrong(f"Labels of {ids}", expected, came, _cause(came, ids, len(source)))
    passed("check_prefix_labels")


def _cause(came: list[Any], ids: list[int], source: int) -> str:
    behind = ids[source + 1 :]
    known = {
        "The source is learned, too: its labels are -100.": ids,
        "Off by one: the separator is counted. The source's end is no news, its label is -100.":
            [IGNORED] * source + ids[source:],
        "Off by one: the first token of the target is masked.":
            [IGNORED] * (source + 2) + behind[1:],
        "These labels are shifted already, and the loss shifts them again: leave each at its own place.":
            [IGNORED] * source + behind + [IGNORED],
        "The end is not learned: the model would never stop.":
            [IGNORED] * (source + 1) + behind[:-1] + [IGNORED],
    }  # fmt: skip
    count = f"There is a label for each of the {len(ids)} ids."
    unclear = count if len(came) != len(ids) else "Which ids does the model have to write by itself?"
    return next((cause for cause, labels in known.items() if came == labels), unclear)


def check_coverage(coverage: Callable[[str, dict[str, str]], float]) -> None:
    """Checks `coverage(text, slots)`: the share of values that stand in the text as whole words, in capitals or not."""
    slots = {"event": "race", "place": "school", "month": "June", "host": "king"}
    cases = (
        ("In June there is a race.", 0.5, "Two of the four values stand there. Are marks cut off the words?"),
        ("KING: A RACE, AT THE SCHOOL, JUNE.", 1.0, "Capitals do not matter: compare in lower case."),
        ("Asking for an embrace.", 0.0, "“asking” holds “king”, and says no king: compare whole words."),
        ("A race, a race, a race.", 0.25, "A value that is said three times is one slot."),
        ("", 0.0, ""),
    )
    for text, expected, cause in cases:
        came = number(call(coverage, text, dict(slots)), f"Coverage of {text!r}")
        if close(came, 100 * expected) and expected:
            wrong(f"Coverage of {text!r}", expected, came, "This is a percentage: a share is asked for.")
        if not close(came, expected):
            wrong(f"Coverage of {text!r}", expected, came, cause)
    passed("check_coverage")


def _listed(labels: Any) -> list[Any]:
    if hasattr(labels, "tolist"):
        labels = labels.tolist()
    if not isinstance(labels, list | tuple):
        wrong("The labels", "a list of numbers", type(labels).__name__)
    return list(labels)


# -- lesson 07: a difference paired by seed with its interval, and how small a difference so many rows can show ----


Interval = Callable[[Sequence[float], Sequence[float]], Any]
CASES = (
    ((55.2, 61.0, 52.7, 58.4, 63.1), (54.1, 59.6, 52.9, 56.8, 61.9)),
    ((70.0, 74.0, 69.0), (71.5, 73.0, 71.0)),
)


def check_paired_interval(interval: Interval) -> None:
    """Checks `interval(first, second) -> (mean, low, high)`: the mean of first minus second and its 95 % t-interval.

    first, second: scores of the same seeds, in the same order.
    """
    for first, second in CASES:
        answer = several(call(interval, list(first), list(second)), 3, "three numbers, (mean, low, high)")
        mean, low, high = (number(value, "A number of the interval") for value in answer)
        gaps = [a - b for a, b in zip(first, second, strict=True)]
        expected, case = t_interval(gaps), f"{len(gaps)} seeds"
        compare(f"The mean ({case})", expected.mean, mean, {"That is second minus first.": -expected.mean})
        if not close(high - mean, mean - low):
            wrong(f"The interval ({case})", "as far below the mean as above it", f"{low:.4g} to {high:.4g}")
        compare(f"Half of the interval ({case})", expected.high - expected.mean, high - mean, _mistakes(first, second))
    passed("check_paired_interval")


def _mistakes(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Halves of intervals that are often built instead, by what is wrong with them."""
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    n, spread = len(gaps), statistics.stdev(gaps)
    t = _quantile(n - 1)
    apart = math.sqrt((statistics.variance(first) + statistics.variance(second)) / n)
    unpaired = "Runs of one seed belong together: take the spread of the differences, not of two groups."
    normal = f"1.96 is the normal quantile: {n} seeds take Student's t with {n - 1} degrees of freedom."
    return {
        unpaired: _quantile(2 * n - 2) * apart,
        f"{unpaired} ": t * apart,
        f"{unpaired} And {normal}": 1.96 * apart,
        normal: 1.96 * spread / math.sqrt(n),
        "The spread of a sample divides by n - 1 (ddof = 1).": t * statistics.pstdev(gaps) / math.sqrt(n),
        f"{normal} And the spread divides by n - 1.": 1.96 * statistics.pstdev(gaps) / math.sqrt(n),
        "That is where single seeds lie: the mean's spread is smaller by the square root of n.": t * spread,
        f"There are n - 1 = {n - 1} degrees of freedom, not n.": _quantile(n) * spread / math.sqrt(n),
        "One tail only: 95 % leave 2.5 % on either side (quantile 0.975).": (
            _quantile(n - 1, 0.95) * spread / math.sqrt(n)
        ),
    }


def check_detectable(smallest: Callable[[int, float], Any]) -> None:
    """Checks `smallest(rows, disagree)`: the half width in points of a 95 % interval of a paired difference near 0.

    disagree: share of rows that exactly one of the two models answers rightly; each such row counts +1 or -1.
    """
    for rows, disagree in ((277, 0.2), (872, 0.1)):
        came = number(call(smallest, rows, disagree), "The difference")
        expected = 196 * math.sqrt(disagree / rows)
        mistakes = {
            "In points, please: times 100.": expected / 100,
            "A row counts +1, 0 or -1: its variance is near the share itself, not share times one minus share.": (
                196 * math.sqrt(disagree * (1 - disagree) / rows)
            ),
            "That is the spread of one model's accuracy twice: the rows are the same for both, so pair them.": (
                196 * math.sqrt(2 * 0.25 / rows)
            ),
            "The root is missing: a spread shrinks with the square root of the rows.": 196 * disagree / rows,
            "That is one standard error: 95 % take 1.96 of them.": 100 * math.sqrt(disagree / rows),
        }
        what = f"On {rows} rows, {100 * disagree:g} % of which have one right answer"
        compare(what, expected, came, mistakes, tolerance=2e-3)  # 1.96 or 1.959964
    passed("check_detectable")


def _quantile(freedom: int, level: float = 0.975) -> float:
    from scipy.stats import t

    return float(t.ppf(level, freedom))


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

    if not same(call(made.apply, base, x, started, False), x @ frozen.T):
        wrong("The output at the start", "the frozen layer's", "another", "One factor of B A has to start at zero.")
    if len(calls) != 1:
        wrong("Calls of the frozen layer", 1, len(calls), "Call base(x) once and keep what it answers.")
    one = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    other = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    _check_output(call(made.apply, base, x, one, False), x, frozen, one)
    both = {name: torch.stack([one[name], other[name]]) for name in shapes}
    expected = torch.cat([_output(x[:2], frozen, one), _output(x[2:], frozen, other)])
    what = "Two views in one pass, weights [2, ...]"
    cause = "A vector [K, out] needs along(update, gate) to meet its K groups of rows."
    try:
        came = call(made.apply, base, x, both, False)
    except AssertionError as error:
        wrong(what, "an output", "an error", f"{cause} {error}")
    if not same(came, expected):
        wrong(what, "each group with its own weights", "another output", cause)
    passed("check_gated_lora")


def _output(x: Tensor, frozen: Tensor, w: dict[str, Tensor]) -> Tensor:
    return x @ frozen.T + w["gate"] * (x @ w["A"].T @ w["B"].T)


def _check_output(came: Tensor, x: Tensor, frozen: Tensor, w: dict[str, Tensor]) -> None:
    y, update = x @ frozen.T, x @ w["A"].T @ w["B"].T
    mistakes = {
        "The gate is missing.": y + update,
        "The frozen output is missing: add base(x).": w["gate"] * update,
        "The gate acts on the update only, not on the frozen output.": w["gate"] * (y + update),
    }
    match("The output", "Wx + gate * (B A x)", _output(x, frozen, w), came, mistakes)


def check_peft_weight(weight: Callable[[int, str], float]) -> None:
    """Checks `weight(experts, combination)`: what each of M experts gets in `add_weighted_adapter` to equal a merge.

    "linear" is to give the mean of factors, "cat" the mean of products.
    """
    for experts in (2, 4, 5):
        linear = {
            "That is a mean's weight, but linear puts its root on A and on B: the update comes out M times too large.":
                1 / experts,
            "The root goes on by itself: give the square of what each factor is to get.": experts**-0.5,
            "Ones add up M factors on each side: the update comes out M² times too large.": 1.0,
        }  # fmt: skip
        cat = {
            "cat keeps the pairs and adds their products: weigh each product once.": 1 / experts**2,
            "Ones add up M products.": 1.0,
        }
        for combination, expected, mistakes in (("linear", 1 / experts**2, linear), ("cat", 1 / experts, cat)):
            what = f"weight({experts}, {combination!r})"
            compare(what, expected, number(call(weight, experts, combination), what), mistakes)
    passed("check_peft_weight")
