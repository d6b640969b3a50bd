"""Make the "notices" data set: a few facts about an event, and sentences that announce it.

    python data/notices/generate.py            # writes train.jsonl and test.jsonl beside this file
    python data/notices/generate.py --check    # exit status 1 if the files differ from a regeneration

A source is a meaning representation, `slot: value` joined by commas; a target is one of four forms filled with its
values. Every value is one word that no form and no other slot holds, so that whether a slot is realised can be read
off the text. For each event one place is held out: the pair never occurs in training.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import generated  # noqa: E402

SEED = 20221207
MEANINGS = {"train": 1200, "test": 80}
REFERENCES = {"train": 2, "test": 4}

SLOTS = {
    "event": "play dance market supper race wedding",
    "place": "library school church garden bridge park",
    "month": "April June July August September October",
    "hour": "five six seven eight nine ten",
    "host": "doctor captain teacher farmer king judge",
    "gift": "crown flower rose book candle letter",
}
ALWAYS = ("event", "place", "month")  # the others come as it happens, at least one of them

# Words in brackets go with the slot inside them.
FORMS = [
    "In {month}[ at {hour}] there is a {event} at the {place}[ with the {host}][ for a {gift}].",
    "Come to the {place} in {month}[ at {hour}] for the {event}[ of the {host}][ and bring a {gift}].",
    "The {event}[ of the {host}] is at the {place} in {month}[ at {hour}][ and costs a {gift}].",
    "[The {host} gives ]a {event} at the {place} in {month}[ at {hour}][ for a {gift}].",
]


def held_out() -> set[tuple[str, str]]:
    """The pairs (event, place) that no training meaning holds."""
    return set(zip(SLOTS["event"].split(), SLOTS["place"].split(), strict=True))


def draw_meaning(rng: random.Random) -> dict[str, str]:
    """Values by slot: the three that are always there, and one to three of the others.

    >>> list(draw_meaning(random.Random(0)))
    ['event', 'place', 'month', 'hour', 'host']
    """
    others = [slot for slot in SLOTS if slot not in ALWAYS]
    chosen = {*ALWAYS, *rng.sample(others, rng.randint(1, len(others)))}
    return {slot: rng.choice(values.split()) for slot, values in SLOTS.items() if slot in chosen}


def to_source(meaning: dict[str, str]) -> str:
    """A meaning as a line.

    >>> to_source({"event": "play", "month": "June"})
    'event: play, month: June'
    """
    return ", ".join(f"{slot}: {value}" for slot, value in meaning.items())


def fill(form: str, meaning: dict[str, str]) -> str:
    """A form with a meaning's values; what is in brackets falls away with its slot.

    >>> fill("a {event}[ at {hour}][ in {month}].", {"event": "play", "month": "June"})
    'A play in June.'
    """

    def keep(part: re.Match[str]) -> str:
        slot = re.search(r"\{(\w+)\}", part[1])
        return part[1] if slot and slot[1] in meaning else ""

    text = re.sub(r"\[([^\]]*)\]", keep, form).format(**meaning)
    return text[0].upper() + text[1:]


def rows_of(part: str, rng: random.Random, used: set[str]) -> list[dict[str, str]]:
    """The rows of a part, a target each; no meaning that is in `used`. Half of the test's pairs are held out."""
    found, wanted = [], {"seen": MEANINGS[part], "held out": 0}
    if part == "test":
        wanted = {"seen": MEANINGS[part] // 2, "held out": MEANINGS[part] // 2}
    while any(wanted.values()):
        meaning = draw_meaning(rng)
        kind = "held out" if (meaning["event"], meaning["place"]) in held_out() else "seen"
        source = to_source(meaning)
        if source in used or not wanted[kind]:
            continue
        used.add(source)
        wanted[kind] -= 1
        for form in rng.sample(FORMS, REFERENCES[part]):
            found.append({"source": source, "target": fill(form, meaning), "test_category": kind})
    return found


def generate(seed: int = SEED) -> dict[str, list[dict[str, str]]]:
    """The rows of both parts; training rows shuffled, test rows by meaning."""
    rng, used = random.Random(seed), set()
    made = {part: rows_of(part, rng, used) for part in MEANINGS}
    rng.shuffle(made["train"])
    return made


if __name__ == "__main__":
    sys.exit(generated.main({HERE / f"{name}.jsonl": rows for name, rows in generate().items()}))
