"""Generation tasks: the embedded one, E2E, WebNLG 2017, DART, or any table of `source` and `target`.

Training rows are pairs; evaluation rows hold a source once, with all its references. Equal sources are one: DART's
equal triplesets, E2E's equal meanings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import Kind, LabError, one_of, positive, unknown
from adamix_lab.tasks.rows import PARQUET, Part, read_files, read_hub
from adamix_lab.tasks.tasks import EMBEDDED_TEXTS, Row, Task, embedded_folder, sample

METHODS = {  # what `comparison` trains: titles in its table
    "frozen": "frozen decoder, not tuned",
    "lora": "LoRA",
    "adamix-lora": "AdaMix-LoRA",
    "adamix-bottleneck": "AdaMix bottleneck",
    "full": "full fine-tuning",
}

# -- structured data as one line of text, as the authors' GPT-2 code has it (after LoRA and prefix tuning) -----------
# E2E: `name : The Vaults | Type : pub | price : more than £30`. WebNLG and DART: `subject : relation : object`, joined
# by ` | `; DART's relations are lower-cased.


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
        raise LabError(f"Meaning representation {meaning!r}: expected attributes like name[Blue Spice], area[city].")
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
            raise LabError(f"Triple {list(triple)!r}: expected a subject, a relation and an object, all strings.")
        subject, relation, value = triple
        parts.append(f"{subject} : {relation.lower() if lower_relations else relation} : {value}")
    return JOINT.join(parts)


def split_triple(text: str) -> tuple[str, ...]:
    """A triple as WebNLG writes it, `subject | relation | object`.

    >>> split_triple('Aarhus_Airport | cityServed | "Aarhus, Denmark"')
    ('Aarhus_Airport', 'cityServed', '"Aarhus, Denmark"')
    """
    return tuple(part.strip() for part in text.split(" | ", 2))


Pairs = tuple[str, list[str]]  # a source and its targets

HUB = {  # name: (data set, configuration, as its parquet branch has it)
    "e2e": ("tuetschek/e2e_nlg", "default"),
    "webnlg": ("webnlg-challenge/web_nlg", "webnlg_challenge_2017"),
    "dart": ("Yale-LILY/dart", "default"),
}


@dataclass(frozen=True)
class GenerationTask(Task):
    """Sources to write texts for.

    Attributes:
        train: rows `source`, `target`; a source with several targets has several rows.
        evaluation: rows `source`, `references` (a tuple, at least one).
    """

    text: tuple[str, ...] = ("source",)
    label: str = "target"
    kind: Kind | None = "texts"

    @property
    def sources(self) -> list[str]:
        """The evaluation rows' sources."""
        return [row["source"] for row in self.evaluation]

    @property
    def references(self) -> list[tuple[str, ...]]:
        """The evaluation rows' references."""
        return [row["references"] for row in self.evaluation]


def load_generation_task(
    source: str | Path, part: str = "test", rows: int | None = None, seed: int = 0, name: str | None = None
) -> GenerationTask:
    """A generation task: the embedded one, a folder with `train.*` and the evaluation part, or the Hub's.

    What kind it is, is told by its columns: E2E (`meaning_representation`, `human_reference`), WebNLG
    (`modified_triple_sets`, `lex`; only lexicalisations marked good), DART (`tripleset`, `annotations`), or `source`
    and `target`. Runs of white space in targets become one space.

    Args:
        source: "notices" (embedded); a folder; "e2e", "webnlg" or "dart" (the Hub's); or any Hub name `owner/data`
            of parquet files.
        part: what is evaluated on: "test", or "validation" to choose settings on.
        rows: a seeded sample of so many training pairs; None takes all.
        seed: of the sample.
        name: of the task; None takes the source's.

    Raises:
        ValueError: unknown names or columns, rows that do not fit.
        FileNotFoundError: no such folder or file.
        OSError: the Hub cannot be reached, or has no such data set.
    """
    one_of("part", part, ("test", "validation"))
    if rows is not None:
        positive("rows", rows)
    train, evaluation = (found.rows for found in _read(source, part))
    kind = _kind(train[0], source)
    pairs = [
        {"source": text, "target": target}
        for n, row in enumerate(train, start=1)
        for text, targets in [_pairs(kind, row, f"{source}, train, row {n}")]
        for target in targets
    ]
    if rows is not None:
        pairs = sample(pairs, rows, seed)
    judged = group_references(
        _pairs(kind, row, f"{source}, {part}, row {n}") for n, row in enumerate(evaluation, start=1)
    )
    if not pairs or not judged:
        raise LabError(f"{source} holds {len(pairs)} pairs to train on and {len(judged)} sources: expected some.")
    return GenerationTask(name or Path(source).name, pairs, judged)


def group_references(found: Iterable[tuple[str, Sequence[str]]]) -> list[Row]:
    """Evaluation rows of (source, targets): one row a source, its references in order.

    Sources without a target are left out.
    """
    grouped: dict[str, Row] = {}
    for source, targets in found:
        if targets:
            row = grouped.setdefault(source, {"source": source, "references": ()})
            row["references"] += tuple(targets)
    return list(grouped.values())


# -- kinds of rows -----------------------------------------------------------------------------------------


def _meaning(row: Mapping[str, Any]) -> Pairs:
    return linearise_meaning(row["meaning_representation"]), [row["human_reference"]]


def _webnlg(row: Mapping[str, Any]) -> Pairs:
    triples = [split_triple(text) for text in row["modified_triple_sets"]["mtriple_set"][0]]
    lex = row["lex"]
    return linearise_triples(triples), [
        text for text, comment in zip(lex["text"], lex["comment"], strict=True) if comment == "good"
    ]


def _dart(row: Mapping[str, Any]) -> Pairs:
    return linearise_triples(row["tripleset"], lower_relations=True), list(row["annotations"]["text"])


def _plain(row: Mapping[str, Any]) -> Pairs:
    return row["source"], [row["target"]]


KINDS: dict[str, tuple[tuple[str, str], Callable[[Mapping[str, Any]], Pairs]]] = {  # name: columns, row to pairs
    "e2e": (("meaning_representation", "human_reference"), _meaning),
    "webnlg": (("modified_triple_sets", "lex"), _webnlg),
    "dart": (("tripleset", "annotations"), _dart),
    "plain": (("source", "target"), _plain),
}


def _kind(row: Mapping[str, Any], source: str | Path) -> str:
    for kind, (columns, _) in KINDS.items():
        if all(column in row for column in columns):
            return kind
    known = "; ".join(" and ".join(columns) for columns, _ in KINDS.values())
    raise LabError(
        f"{source} has columns {', '.join(map(repr, row))}: expected those of a generation task ({known}). For classes "
        "use load_task; else rename the columns to source and target."
    )


def _pairs(kind: str, row: Mapping[str, Any], where: str) -> Pairs:
    columns, read = KINDS[kind]
    try:
        text, targets = read(row)
        text, targets = " ".join(text.split()), [" ".join(target.split()) for target in targets]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        shown = {column: row.get(column) for column in columns}
        raise LabError(
            f"{where}: {str(shown)[:200]} is no row of {kind!r} data ({error}): expected {' and '.join(columns)} as "
            "the Hub has them. Correct or remove the row."
        ) from error
    return text, [target for target in targets if target]


# -- where rows come from ----------------------------------------------------------------------------------


def _read(source: str | Path, part: str) -> list[Part]:
    """Train, and what is judged on."""
    folder = embedded_folder(str(source)) if str(source) in EMBEDDED_TEXTS else Path(source)
    if folder.is_dir():
        return read_files(folder, (part,))
    if str(source) in HUB:
        data, configuration = HUB[str(source)]
        return read_hub(data, configuration, (part,), PARQUET)
    if isinstance(source, str) and len(folder.parts) == 2 and not folder.is_absolute():
        return read_hub(source, None, (part,))
    error = unknown("Generation task", source, [*EMBEDDED_TEXTS, *HUB])
    raise LabError(f"{error} Or give the path of a folder with train.* and {part}.*, or a Hub name owner/data.")


# -- slot coverage: which values of a meaning representation stand in a text that was written for it -----------------
# It asks for the value's own words, so it fits data whose values are copied (the embedded "notices"), not such as
# `familyFriendly: yes`.


def slots_of(source: str) -> dict[str, str]:
    """The slots of a source line, in order.

    >>> slots_of("event: race, place: school")
    {'event': 'race', 'place': 'school'}

    Raises ValueError for a line that is no list of `slot: value`, or names a slot twice.
    """
    parts = [part.split(": ", 1) for part in source.strip().split(", ")]
    if any(len(part) != 2 or not all(word.strip() for word in part) for part in parts):
        raise LabError(f"Source {source!r}: expected slots and values like event: race, place: school.")
    slots = {slot.strip(): value.strip() for slot, value in parts}
    if len(slots) < len(parts):
        raise LabError(f"Source {source!r} names a slot twice: expected each slot once.")
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
        raise LabError(f"{len(texts)} texts for {len(sources)} sources: expected a text each.")
    found = [list(realised(text, slots_of(source)).values()) for text, source in zip(texts, sources, strict=True)]
    return [sum(each) / len(each) for each in found]
