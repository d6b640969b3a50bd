"""Slot coverage: which values of a meaning representation stand in a text that was written for it.

It asks for the value's own words, so it fits data whose values are copied (the embedded "notices"), not such as
`familyFriendly: yes`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def slots_of(source: str) -> dict[str, str]:
    """The slots of a source line, in order.

    >>> slots_of("event: race, place: school")
    {'event': 'race', 'place': 'school'}

    Raises ValueError for a line that is no list of `slot: value`, or names a slot twice.
    """
    parts = [part.split(": ", 1) for part in source.strip().split(", ")]
    if any(len(part) != 2 or not all(word.strip() for word in part) for part in parts):
        raise ValueError(f"Source {source!r}: expected slots and values like event: race, place: school.")
    slots = {slot.strip(): value.strip() for slot, value in parts}
    if len(slots) < len(parts):
        raise ValueError(f"Source {source!r} names a slot twice: expected each slot once.")
    return slots


def realised(text: str, slots: dict[str, str]) -> dict[str, bool]:
    """Whether each slot's value stands in the text, as whole words, in capitals or not.

    >>> realised("A race, in Mayfair.", {"event": "race", "month": "May"})
    {'event': True, 'month': False}
    """
    return {
        slot: re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
        for slot, value in slots.items()
    }


def coverage(texts: Sequence[str], sources: Sequence[str]) -> list[float]:
    """The share of slots that each text realises.

    >>> coverage(["A race.", ""], ["event: race, place: school", "event: play"])
    [0.5, 0.0]

    Raises ValueError for unequal numbers, or a source that cannot be read.
    """
    if isinstance(texts, str) or len(texts) != len(sources):
        raise ValueError(f"{len(texts)} texts for {len(sources)} sources: expected a text each.")
    found = [list(realised(text, slots_of(source)).values()) for text, source in zip(texts, sources, strict=True)]
    return [sum(each) / len(each) for each in found]
