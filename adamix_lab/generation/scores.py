"""The scores of the paper's generation tables, several references a source, offline and without Java (but METEOR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adamix_lab.generation.meteor import find_meteor, meteor
from adamix_lab.generation.overlap import cider, nist, rouge_l
from adamix_lab.generation.words import mteval_words, treebank_words

Scores = dict[str, float | None]

# name: digits in a table. All but TER are better the higher; CIDEr and NIST have no upper end in use.
DIGITS = {"BLEU": 2, "NIST": 3, "METEOR": 3, "ROUGE-L": 2, "CIDEr": 3, "chrF": 2, "TER": 2}


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Corpus scores of texts against their references, which may differ in number from source to source.

    BLEU, chrF and TER are sacrebleu's, BLEU and TER lower-cased, in percent (TER is an error: lower is better), BLEU
    with mteval-v13a's words; NIST has the same words; ROUGE-L in percent and CIDEr have Penn Treebank words without
    punctuation; METEOR is None where Java or its program is missing (`missing()` says which).

    Raises ValueError for no texts, unequal numbers, or a source without references.
    """
    check(hypotheses, references)
    bleu = _sacrebleu(hypotheses, references)
    mteval = [mteval_words(text) for text in hypotheses], [[mteval_words(t) for t in texts] for texts in references]
    trees = [treebank_words(text) for text in hypotheses], [[treebank_words(t) for t in texts] for texts in references]
    found: Scores = {
        **bleu,
        "NIST": nist(*mteval),
        "ROUGE-L": 100 * rouge_l(*trees),
        "CIDEr": cider(*trees),
        "METEOR": meteor(
            [" ".join(words) for words in trees[0]], [[" ".join(words) for words in texts] for texts in trees[1]]
        ),
    }
    return {name: found[name] for name in DIGITS}


def missing() -> str:
    """What keeps METEOR from running; empty where nothing does."""
    return find_meteor()[1]


def check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuses what cannot be scored. Raises ValueError."""
    if isinstance(hypotheses, str) or not len(hypotheses):
        raise ValueError(f"hypotheses = {hypotheses!r}: expected a list of texts, at least one.")
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} texts and references of {len(references)} sources: expected equal numbers."
        )
    for n, texts in enumerate(references):
        if isinstance(texts, str) or not any(text.strip() for text in texts):
            raise ValueError(f"references[{n}] = {texts!r}: expected a list of texts, at least one that is not empty.")


def _sacrebleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    try:
        from sacrebleu.metrics import BLEU, CHRF, TER
    except ImportError as error:
        raise ValueError("BLEU needs sacrebleu: expected it installed. Run pip install 'adamix-lab[nlg]'.") from error
    most = max(map(len, references))
    # sacrebleu wants as many references everywhere; None stands for one that is not there
    columns = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    metrics: dict[str, Any] = {"BLEU": BLEU(lowercase=True), "chrF": CHRF(), "TER": TER()}
    return {name: metric.corpus_score(list(hypotheses), columns).score for name, metric in metrics.items()}


def table(rows: Sequence[tuple[str, Scores]]) -> str:
    """Scores as text, a line a model; a dash where a score is absent."""
    width = max(len(name) for name, _ in (*rows, ("model", {})))
    lines = [f"{'model':{width}}" + "".join(f"{name:>9}" for name in DIGITS)]
    lines.append("-" * len(lines[0]))
    for name, scores in rows:
        cells = ("-" if scores[key] is None else f"{scores[key]:.{digits}f}" for key, digits in DIGITS.items())
        lines.append(f"{name:{width}}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)
