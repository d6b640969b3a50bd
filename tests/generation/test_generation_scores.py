"""NIST, ROUGE-L and CIDEr against their reference implementations; several references."""

import math

import generation_vectors as vectors
import pytest

from adamix_lab.generation.scores import (
    DIGITS,
    cider,
    longest_common,
    nist,
    rouge_l,
    score,
    treebank_words,
)

pytest.importorskip("sacrebleu")


def cut(words):
    return [words(text) for text in vectors.HYPOTHESES], [[words(t) for t in texts] for texts in vectors.REFERENCES]


def test_nist_agrees_with_the_e2e_scorer():
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    assert nist(*cut(lambda text: Tokenizer13a()(text).lower().split())) == pytest.approx(vectors.NIST, rel=1e-12)


def test_rouge_l_and_cider_agree_with_the_coco_scorer():
    assert rouge_l(*cut(treebank_words)) == pytest.approx(vectors.ROUGE_L, rel=1e-12)
    assert cider(*cut(treebank_words)) == pytest.approx(vectors.CIDER, rel=1e-12)


def test_words_agree_with_the_treebank_tokenizer():
    assert {text: " ".join(treebank_words(text)) for text in vectors.TREEBANK} == vectors.TREEBANK


def test_nist_by_hand():
    """Two words of four once each: log2(4 / 1) bits a unigram, log2(1 / 1) a bigram; the length penalty."""
    reference = "a b c d".split()
    penalty = math.exp(-math.log(2) * (math.log(0.5) / math.log(1.5)) ** 2)  # half as long
    assert nist([["a", "b"]], [[reference]]) == pytest.approx(2.0 * penalty)
    assert nist([["a", "b", "x", "y"]], [[reference]]) == pytest.approx(1.0)  # 2 hits of 2 bits over 4 words
    assert nist([["a", "a", "a", "a"]], [[reference]]) == pytest.approx(0.5)  # clipped to one
    assert nist([[]], [[reference]]) == 0.0


def test_rouge_l_by_hand():
    words, reference = "a b c d e".split(), "a x c y e z".split()
    precision, recall, beta = 3 / 5, 3 / 6, 1.2
    by_hand = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert rouge_l([words], [[reference]]) == pytest.approx(by_hand)
    assert rouge_l([words], [[["q"]]]) == 0.0 and rouge_l([[]], [[reference]]) == 0.0
    assert longest_common([], words) == 0


def test_cider_knows_what_is_rare():
    references = [[["the", "pub"]], [["the", "cafe"]], [["the", "bar"]]]
    common = cider([["the"], ["the"], ["the"]], references)
    assert common == 0.0 < cider([["pub"], ["cafe"], ["bar"]], references)
    same = "a b c d e".split(), "f g h i j".split()
    assert cider(same, [[same[0]], [same[1]]]) == pytest.approx(10.0)


def test_references_may_differ_in_number():
    """A source whose only reference is given twice scores as with it once: BLEU, NIST, ROUGE-L, CIDEr, chrF, TER."""
    found = score(vectors.HYPOTHESES, vectors.REFERENCES)
    most = max(map(len, vectors.REFERENCES))
    filled = [texts + texts[:1] * (most - len(texts)) for texts in vectors.REFERENCES]
    for name in ("BLEU", "chrF", "ROUGE-L"):
        assert score(vectors.HYPOTHESES, filled)[name] == pytest.approx(found[name]), name
    assert list(found) == list(DIGITS)
    one = score(vectors.HYPOTHESES, [texts[:1] for texts in vectors.REFERENCES])
    assert one["BLEU"] < found["BLEU"] and one["TER"] > found["TER"] and one["chrF"] < found["chrF"]


def test_case_does_not_count_but_for_chrf():
    found, loud = (score(texts, vectors.REFERENCES) for texts in (vectors.HYPOTHESES, _upper(vectors.HYPOTHESES)))
    assert {name for name in found if found[name] != loud[name]} == {"chrF"}


def _upper(texts):
    return [text.upper() for text in texts]


def test_perfect_and_empty_texts():
    first = [texts[0] for texts in vectors.REFERENCES]
    perfect = score(first, [[text] for text in first])
    assert (round(perfect["BLEU"], 6), round(perfect["ROUGE-L"], 6), perfect["TER"]) == (100.0, 100.0, 0.0)
    assert perfect["CIDEr"] == pytest.approx(10.0) and perfect["chrF"] == pytest.approx(100.0)
    nothing = score([""] * len(first), vectors.REFERENCES)
    assert nothing["BLEU"] == nothing["NIST"] == nothing["CIDEr"] == nothing["ROUGE-L"] == 0.0


def test_the_coco_scorer_itself_where_it_is_installed():
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    hypotheses, references = cut(treebank_words)
    made = {n: [" ".join(words)] for n, words in enumerate(hypotheses)}
    gold = {n: [" ".join(words) for words in texts] for n, texts in enumerate(references)}
    assert cider(hypotheses, references) == pytest.approx(Cider().compute_score(gold, made)[0], rel=1e-12)
    assert rouge_l(hypotheses, references) == pytest.approx(Rouge().compute_score(gold, made)[0], rel=1e-12)


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ([], [], "expected a list of texts, at least one"),
        ("a", [["a"]], "expected a list of texts, at least one"),
        (["a"], [["a"], ["b"]], "1 texts and references of 2 sources"),
        (["a"], [[]], r"references\[0\] = \[\]"),
        (["a", "b"], [["a"], "b"], r"references\[1\] = 'b'"),
        (["a"], [[" "]], "at least one that is not empty"),
    ],
)
def test_what_cannot_be_scored(hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        score(hypotheses, references)
