"""The scores of the paper's generation tables but METEOR (a Java program); several references a source, offline."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

from adamix_lab.core.errors import LabError, extra
from adamix_lab.tasks.metrics import text_table

# -- words as the Penn Treebank cuts them (ROUGE-L, CIDEr); BLEU and NIST take mteval-v13a's, which sacrebleu has ------


Ngram = tuple[str, ...]

# The marks that the COCO caption scorer drops after the Penn Treebank tokenizer. (It means to drop brackets, too, but
# looks for them in capitals after lower-casing; they stay words, here as there.)
_MARKS = set("'' ' `` ` . ? ! , : - -- ... ; \" – —".split())
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"}
_NUMBER = r"\d+(?:[.,:/]\d+)*(?:[-/\w]*\w)?"
_ABBREVIATION = r"\b(?:mr|mrs|ms|dr|jr|sr|st|inc|co|corp|ltd)\.|(?:\b[^\W\d_]\.)+(?=[\s,]+\w)|(?:\b[^\W\d_]\.){2,}"
_CLITIC = r"n't|'(?:s|m|d|ll|re|ve)\b"
_PART = r"(?:(?!n't\b)\w)+"
_JOINT = r"(?:[-/_.&]|'(?!(?:s|m|d|ll|re|ve)\b))"
_WORD = re.compile(rf"{_ABBREVIATION}|{_CLITIC}|{_NUMBER}|{_PART}(?:{_JOINT}{_PART})*|\.\.\.|--|\S")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})


def treebank_words(text: str) -> list[str]:
    """Lower-cased words without punctuation, close to Stanford's Penn Treebank tokenizer, which needs Java.

    >>> treebank_words("It's a family-friendly pub; it doesn't cost £20.50!")
    ['it', "'s", 'a', 'family-friendly', 'pub', 'it', 'does', "n't", 'cost', '£', '20.50']
    """
    found = _WORD.findall(text.translate(_QUOTES).lower())
    return [_BRACKETS.get(word, word) for word in found if word not in _MARKS]


def ngrams(words: Sequence[str], n: int) -> Counter[Ngram]:
    """How often each n-gram stands in the words."""
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


# -- NIST, ROUGE-L and CIDEr, from their papers, as mteval-v13a and the COCO caption scorer compute them --------------
# All take words: hypotheses, one list a source, and references, one list or more a source.


Words = Sequence[str]
NIST_ORDER, CIDER_ORDER = 5, 4
NIST_BETA = math.log(0.5) / math.log(1.5) ** 2  # a text of two thirds of the references' length counts half
ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0


def nist(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """NIST (Doddington, 2002): n-gram matches weighted by information, 0 and up; higher is better.

    The information of an n-gram is log2 of how often its beginning stands in all references over how often it stands
    itself. Matches are clipped to the largest count in one reference.
    """
    counts: list[Counter[Ngram]] = [Counter() for _ in range(NIST_ORDER + 1)]
    for texts in references:
        for words in texts:
            counts[0][()] += len(words)
            for n in range(1, NIST_ORDER + 1):
                counts[n] += ngrams(words, n)
    information = {
        ngram: math.log2(before[ngram[:-1]] / count)
        for before, after in pairwise(counts)
        for ngram, count in after.items()
    }
    score = 0.0
    for n in range(1, NIST_ORDER + 1):
        total = sum(max(0, len(words) - n + 1) for words in hypotheses)
        won = 0.0
        for words, texts in zip(hypotheses, references, strict=True):
            matches = ngrams(words, n) & reduce(or_, (ngrams(text, n) for text in texts))
            won += sum(information[ngram] * count for ngram, count in matches.items())
        score += won / total if total else 0.0
    written = sum(map(len, hypotheses))
    usual = sum(sum(map(len, texts)) / len(texts) for texts in references)
    ratio = min(1.0, written / usual) if usual else 0.0
    return score * math.exp(NIST_BETA * math.log(ratio) ** 2) if ratio else 0.0


def rouge_l(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """ROUGE-L (Lin, 2004) as COCO has it: mean F of the longest common subsequence, 0 to 1, beta = 1.2.

    Precision and recall are each the best over the references.
    """
    scores = []
    for words, texts in zip(hypotheses, references, strict=True):
        common = [longest_common(words, text) for text in texts]
        precision = max(length / max(1, len(words)) for length in common)
        recall = max(length / max(1, len(text)) for length, text in zip(common, texts, strict=True))
        both = recall + ROUGE_BETA**2 * precision
        scores.append((1 + ROUGE_BETA**2) * precision * recall / both if precision and recall else 0.0)
    return sum(scores) / len(scores)


def longest_common(first: Words, second: Words) -> int:
    """The length of the longest common subsequence.

    >>> longest_common("the pub is cheap".split(), "the cheap pub is here".split())
    3
    """
    row = [0] * (len(second) + 1)
    for word in first:
        before = row
        row = [0]
        for n, other in enumerate(second):
            row.append(before[n] + 1 if word == other else max(row[n], before[n + 1]))
    return row[-1]


def cider(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """CIDEr (Vedantam et al., 2015), 0 to 10, as the COCO caption scorer computes it: clipped, and with a penalty.

    (That is the paper's CIDEr-D; the scorer calls it CIDEr, and the tables of E2E follow it.) n-grams are weighed by
    how few sources have them in their references, so a handful of sources gives meaningless values.
    """
    seen: Counter[Ngram] = Counter()  # sources whose references have the n-gram
    for texts in references:
        seen.update({ngram for words in texts for n in range(1, CIDER_ORDER + 1) for ngram in ngrams(words, n)})
    sources = math.log(len(references))

    def weighed(words: Words, n: int) -> dict[Ngram, float]:
        return {g: count * (sources - math.log(max(1, seen[g]))) for g, count in ngrams(words, n).items()}

    total = 0.0
    for words, texts in zip(hypotheses, references, strict=True):
        own = [weighed(words, n) for n in range(1, CIDER_ORDER + 1)]
        for text in texts:
            # The scorer counts bigrams for the length, so texts of no word and of one are alike.
            apart = max(0, len(words) - 1) - max(0, len(text) - 1)
            penalty = math.exp(-(apart**2) / (2 * CIDER_SIGMA**2))
            alike = sum(_cosine(own[n - 1], weighed(text, n)) for n in range(1, CIDER_ORDER + 1))
            total += 10 * penalty * alike / CIDER_ORDER / len(texts)
    return total / len(hypotheses)


def _cosine(first: dict[Ngram, float], second: dict[Ngram, float]) -> float:
    """The cosine of two sparse vectors, the first clipped to the second in the product."""
    norms = math.hypot(*first.values()) * math.hypot(*second.values())
    product = sum(min(value, second[g]) * second[g] for g, value in first.items() if g in second)
    return product / norms if norms else 0.0


# -- all of them ----------------------------------------------------------------------------------------------------


Scores = dict[str, float]

# name: digits in a table. All but TER are better the higher; CIDEr and NIST have no upper end in use.
DIGITS = {"BLEU": 2, "NIST": 3, "ROUGE-L": 2, "CIDEr": 3, "chrF": 2, "TER": 2}


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Corpus scores of texts against their references, which may differ in number from source to source.

    BLEU, chrF and TER are sacrebleu's, BLEU and TER lower-cased, in percent (TER is an error: lower is better), BLEU
    with mteval-v13a's words; NIST has the same words; ROUGE-L in percent and CIDEr have Penn Treebank words without
    punctuation.

    Raises ValueError for no texts, unequal numbers, or a source without references.
    """
    check(hypotheses, references)
    with extra("nlg"):
        from sacrebleu.metrics import BLEU, CHRF, TER
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    most = max(map(len, references))
    # sacrebleu wants as many references everywhere; None stands for one that is not there
    columns: list[Any] = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    mteval = Tokenizer13a()
    words = [mteval(text).lower().split() for text in hypotheses]
    trees = [treebank_words(text) for text in hypotheses]
    tree_references = [[treebank_words(text) for text in texts] for texts in references]
    return {
        "BLEU": BLEU(lowercase=True).corpus_score(list(hypotheses), columns).score,
        "NIST": nist(words, [[mteval(text).lower().split() for text in texts] for texts in references]),
        "ROUGE-L": 100 * rouge_l(trees, tree_references),
        "CIDEr": cider(trees, tree_references),
        "chrF": CHRF().corpus_score(list(hypotheses), columns).score,
        "TER": TER().corpus_score(list(hypotheses), columns).score,
    }


def check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuses what cannot be scored. Raises ValueError."""
    if isinstance(hypotheses, str) or not len(hypotheses):
        raise LabError(f"hypotheses = {hypotheses!r}: expected a list of texts, at least one.")
    if len(hypotheses) != len(references):
        raise LabError(f"{len(hypotheses)} texts and references of {len(references)} sources: expected equal numbers.")
    for n, texts in enumerate(references):
        if isinstance(texts, str) or not any(text.strip() for text in texts):
            raise LabError(f"references[{n}] = {texts!r}: expected a list of texts, at least one that is not empty.")


def table(rows: Sequence[tuple[str, Scores]]) -> str:
    """Scores as text, a line a model."""
    shown = [{key: f"{scores[key]:.{digits}f}" for key, digits in DIGITS.items()} for _, scores in rows]
    return text_table([{"model": name, **cells} for (name, _), cells in zip(rows, shown, strict=True)])
