"""Make the "aspects" data set: which opinion does a sentence hold about the aspect that is asked for?

    python data/aspects/generate.py            # writes train.jsonl and test.jsonl beside this file
    python data/aspects/generate.py --check    # exit status 1 if the files differ from a regeneration

A row asks about one aspect of a sentence, "film : the staff was great, but the film was terrible.".
A sentence is used for one question only. In the contrast constructions two questions of three are about
the main clause (or, in "not_first", "but" and "whereas", the last one), so position alone answers 67 %
of them and the question is needed for the rest.
"""

from __future__ import annotations

import csv
import random
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import generated  # noqa: E402

SEED = 20220524

ASPECTS = "film food staff room".split()
ADJECTIVES = {1: "good great excellent lovely wonderful", 0: "bad terrible awful horrible poor"}
PAST_VERBS = {
    1: "loved adored enjoyed liked admired praised appreciated",
    0: "hated disliked despised detested regretted loathed criticized",
}
ADVERBS = ["", "", "", "really ", "very ", "quite ", "truly ", "simply ", "rather "]


@dataclass(frozen=True)
class Construction:
    """A way to say two or three things at once.

    Attributes:
        name: what the rows carry in their field ``construction``.
        kind: "plain" or "hard" (both splits), or "held_out" (test only).
        template: slots ``{a}`` (an aspect), ``{A}`` (adjective of a's polarity, perhaps with an adverb),
            ``{A_}`` (the bare adjective), ``{xA}`` (bare adjective of the opposite polarity),
            ``{VA}`` (verb, past); b and c alike.
        signs: polarity of a, b, c relative to a draw p: "+" is p, "-" is 1 - p; "1" and "0" are fixed;
            "?" is a coin of its own.
        asked: a question draws one of these letters; a repeated one is asked about more often.
        weight: relative number of sentences.
    """

    name: str
    kind: str
    template: str
    signs: str
    asked: str
    weight: float


with (HERE / "constructions.csv").open(encoding="utf-8", newline="") as file:
    CONSTRUCTIONS = [Construction(**row | {"weight": float(row["weight"])}) for row in csv.DictReader(file)]


def polarities(signs: str, rng: random.Random) -> list[int]:
    """The polarity of every aspect; see `Construction.signs`.

    >>> polarities("10", random.Random(0))
    [1, 0]
    """
    p = rng.randrange(2)
    draw = {"+": p, "-": 1 - p, "0": 0, "1": 1}
    return [rng.randrange(2) if sign == "?" else draw[sign] for sign in signs]


def write_sentence(construction: Construction, rng: random.Random) -> tuple[str, dict, dict]:
    """One sentence, its aspects by role, and their polarities by role."""
    signs = polarities(construction.signs, rng)
    nouns = rng.sample(ASPECTS, len(signs))
    aspects, labels, slots = {}, {}, {}
    for role, noun, sign in zip("abc", nouns, signs, strict=False):
        upper, word = role.upper(), rng.choice(ADJECTIVES[sign].split())
        aspects[role], labels[role] = noun, sign
        slots |= {role: noun, upper: rng.choice(ADVERBS) + word, upper + "_": word}
        slots["x" + upper] = rng.choice(ADJECTIVES[1 - sign].split())
        slots["V" + upper] = rng.choice(PAST_VERBS[sign].split())
    return construction.template.format(**slots), aspects, labels


def rows_of(construction: Construction, n: int, rng: random.Random, used: set[str]) -> list[dict]:
    """`n` rows of a construction, as many positive as negative; no sentence that is in `used`."""
    wanted, found = {0: n // 2, 1: n // 2}, []
    for _ in range(1000 * n):
        if not any(wanted.values()):
            return found
        sentence, aspects, labels = write_sentence(construction, rng)
        role = rng.choice(construction.asked)
        if sentence in used or not wanted[labels[role]]:
            continue
        used.add(sentence)
        wanted[labels[role]] -= 1
        row = {"sentence": f"{aspects[role]} : {sentence}", "label": labels[role], "aspect": aspects[role]}
        found.append(row | {"construction": construction.name, "kind": construction.kind})
    raise ValueError(f"too few sentences for {n} rows of {construction.name!r}: add words")


def counts(total: int, constructions: list[Construction], per: int = 12) -> list[int]:
    """Rows of each construction, in proportion to the weights, multiples of `per`, about `total` in all."""
    whole = sum(construction.weight for construction in constructions)
    return [round(total * construction.weight / whole / per) * per for construction in constructions]


def generate(seed: int = SEED) -> dict[str, list[dict]]:
    """The rows of both splits, shuffled; no sentence is in both."""
    rng, used = random.Random(seed), set()
    train = [c for c in CONSTRUCTIONS if c.kind != "held_out"]
    splits = {"train": zip(train, counts(3600, train), strict=True)}
    splits["test"] = zip(CONSTRUCTIONS, counts(1000, CONSTRUCTIONS), strict=True)
    made = {}
    for name, plan in splits.items():
        made[name] = [row for construction, n in plan for row in rows_of(construction, n, rng, used)]
        rng.shuffle(made[name])
    return made


if __name__ == "__main__":
    sys.exit(generated.main({HERE / f"{name}.jsonl": rows for name, rows in generate().items()}))
