"""Two ways of cutting sentences into words: mteval's (BLEU, NIST) and the Penn Treebank's (ROUGE-L, CIDEr, METEOR)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

Ngram = tuple[str, ...]

_SYMBOLS = re.compile(r"([{-~\[-` -&(-+:-@/])")
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


def mteval_words(text: str) -> list[str]:
    """Lower-cased words as mteval-v13a cuts them: symbols apart, points and commas apart unless between digits.

    >>> mteval_words("It's £3.50, cheap.")
    ["it's", '£3.50', ',', 'cheap', '.']
    """
    for code, sign in (("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(code, sign)
    text = _SYMBOLS.sub(r" \1 ", f" {text.lower()} ")
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()


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


def most_of(counts: Iterable[Counter[Ngram]]) -> Counter[Ngram]:
    """The largest count of each n-gram over several references: what a match is clipped to."""
    merged: Counter[Ngram] = Counter()
    for count in counts:
        merged |= count
    return merged
