"""NIST, ROUGE-L and CIDEr, from their papers, as mteval-v13a and the COCO caption scorer compute them.

All take words (see `words.py`): hypotheses, one list a source, and references, one list or more a source.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from adamix_lab.generation.words import Ngram, most_of, ngrams

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
            matches = ngrams(words, n) & most_of(ngrams(text, n) for text in texts)
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
