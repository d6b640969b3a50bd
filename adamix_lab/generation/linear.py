"""Structured data as one line of text, as the authors' GPT-2 code has it (after LoRA and prefix tuning).

E2E: `name : The Vaults | Type : pub | price : more than £30`. WebNLG and DART: `subject : relation : object`, joined
by ` | `; DART's relations are lower-cased.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

JOINT = " | "
# What prefix tuning's E2E files, which LoRA and AdaMix train on, call the attributes of the data set.
E2E_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
_ATTRIBUTE = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")


def linearise_meaning(meaning: str) -> str:
    """An E2E meaning representation as a line.

    >>> linearise_meaning("name[Blue Spice], eatType[pub], near[Crowne Plaza Hotel]")
    'name : Blue Spice | Type : pub | near : Crowne Plaza Hotel'

    Raises ValueError for what is no list of attributes `name[value]`.
    """
    parts, end = [], 0
    for found in _ATTRIBUTE.finditer(meaning):
        if found.start() != end:
            break
        parts.append(f"{E2E_NAMES.get(found[1], found[1])} : {found[2]}")
        end = found.end()
    if not parts or meaning[end:].strip():
        raise ValueError(f"Meaning representation {meaning!r}: expected attributes like name[Blue Spice], area[city].")
    return JOINT.join(parts)


def linearise_triples(triples: Iterable[Sequence[str]], lower_relations: bool = False) -> str:
    """Triples (subject, relation, object) as a line.

    >>> linearise_triples([("Aarhus", "LEADER", "Jacob Bundsgaard"), ("Aarhus", "COUNTRY", "Denmark")], True)
    'Aarhus : leader : Jacob Bundsgaard | Aarhus : country : Denmark'

    Raises ValueError for anything but three strings.
    """
    parts = []
    for triple in triples:
        if len(triple) != 3 or not all(isinstance(part, str) for part in triple):
            raise ValueError(f"Triple {list(triple)!r}: expected a subject, a relation and an object, all strings.")
        subject, relation, value = triple
        parts.append(f"{subject} : {relation.lower() if lower_relations else relation} : {value}")
    return JOINT.join(parts)


def split_triple(text: str) -> tuple[str, ...]:
    """A triple as WebNLG writes it, `subject | relation | object`.

    >>> split_triple('Aarhus_Airport | cityServed | "Aarhus, Denmark"')
    ('Aarhus_Airport', 'cityServed', '"Aarhus, Denmark"')
    """
    return tuple(part.strip() for part in text.split(" | ", 2))
