"""Make the "aspects" data set: which opinion does a sentence hold about the aspect that is asked for?

    python data/aspects/generate.py            # writes train.jsonl and test.jsonl beside this file
    python data/aspects/generate.py --check    # exit status 1 if the files differ from a regeneration

A row asks about one aspect of a sentence, "film : the staff was great, but the film was terrible.".
A sentence is used for one question only. In the contrast constructions two questions of three are about
the main clause (or, in "not_first", "but" and "whereas", the last one), so position alone answers 67 %
of them and the question is needed for the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20220524

ASPECTS = "film food staff room".split()
ADJECTIVES = {
    1: "good great excellent lovely wonderful",
    0: "bad terrible awful horrible poor",
}
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
    asked: str = "ab"
    weight: float = 1.0


CONSTRUCTIONS = [
    Construction("but", "plain", "the {a} was {A}, but the {b} was {B}.", "+-", "abb", 1.2),
    Construction("although", "plain", "the {a} was {A}, although the {b} was {B}.", "+-", "aab", 1.2),
    Construction("even_though", "plain", "even though the {a} was {A}, the {b} was {B}.", "+-", "abb", 1.2),
    Construction("whereas", "plain", "we found the {a} {A}, whereas the {b} was {B}.", "+-", "abb", 1.2),
    Construction("not_first", "plain", "the {a} was not {xA}, but the {b} was {B}.", "+-", "abb", 1.2),
    Construction("three", "hard", "the {a} was {A}, the {b} was {B} and the {c} was {C}.", "+-?", "abc", 0.3),
    Construction("both", "plain", "the {a} was {A} and the {b} was {B}.", "++", weight=0.9),
    Construction("neither", "plain", "neither the {a} nor the {b} was {xA} or {xB}.", "++", weight=0.9),
    Construction("not_both", "plain", "the {a} was not {xA} and the {b} was not {xB}.", "++", weight=0.9),
    Construction("twice", "plain", "we {VA} the {a}, it was {A}, and the {b} was {B} too.", "++", weight=0.9),
    Construction(
        "changed",
        "hard",
        "the {a} used to be {xA}, now it is {A}; the {b} was {B}.",
        "+?",
        "a",
        0.6,
    ),
    Construction("while", "held_out", "while the {a} was {A}, the {b} was {B}.", "+-", "abb", 0.8),
    Construction("as_was", "held_out", "the {a} was {A}, and so was the {b}.", "++", weight=0.8),
    Construction("despite", "held_out", "despite the {A_} {a}, the {b} was {B}.", "+-", "abb", 0.4),
]


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
    wanted, rows = {0: n // 2, 1: n // 2}, []
    for _ in range(1000 * n):
        if not any(wanted.values()):
            return rows
        sentence, aspects, labels = write_sentence(construction, rng)
        role = rng.choice(construction.asked)
        if sentence in used or not wanted[labels[role]]:
            continue
        used.add(sentence)
        wanted[labels[role]] -= 1
        rows.append(
            {
                "sentence": f"{aspects[role]} : {sentence}",
                "label": labels[role],
                "aspect": aspects[role],
                "construction": construction.name,
                "kind": construction.kind,
            }
        )
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


def to_text(rows: list[dict]) -> str:
    """JSON Lines, one row a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: under a temporary name first."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(text.encode())
    os.replace(temporary, path)


def main(argv: list[str] | None = None) -> int:
    """Write the files, or check them; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the files differ")
    check, status = parser.parse_args(argv).check, 0
    for name, rows in generate().items():
        path, text = HERE / f"{name}.jsonl", to_text(rows)
        if not check:
            write(path, text)
            print(f"wrote {path} ({len(rows)} rows)")
        elif not path.is_file() or path.read_bytes() != text.encode():
            print(f"{path} differs from a regeneration; run python {Path(__file__).name}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
