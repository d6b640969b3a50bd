"""Lesson 06: labels behind a masked prefix, and the slots that a text realises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from adamix_lab.lessons.checks.telling import call, close, number, passed, wrong

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
