"""Perplexity: every token scored once, with the context that is promised."""

import math

import close
import pytest
import tiny_text
import torch
from torch import nn

from adamix_lab.generation.corpus import text_files
from adamix_lab.generation.decoder import new_decoder
from adamix_lab.generation.perplexity import (
    Perplexity,
    _batches,
    count_words,
    detokenize_wikitext,
    perplexities,
    perplexity,
)
from adamix_lab.generation.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tiny_text.write(tmp_path_factory.mktemp("text"))
    tokenizer = train_tokenizer(text_files(folder), 400, 32)
    torch.manual_seed(0)
    return folder, new_decoder(tiny_text.SETTINGS, len(tokenizer)).eval(), tokenizer


def by_hand(model, ids: list[int], context: int, stride: int) -> float:
    """One token at a time: the target at place n sees from the start of its window on."""
    total = 0.0
    for n in range(1, len(ids)):
        if n <= context:
            start = 0
        else:  # the window that first holds it: ends at context + k * stride, the last one at the text's end
            end = min(context + math.ceil((n - context) / stride) * stride, len(ids) - 1)
            start = end - context
        logits = model(input_ids=torch.tensor([ids[start:n]])).logits[0, -1]
        total -= float(logits.log_softmax(-1)[ids[n]])
    return total


@pytest.mark.parametrize(("context", "stride"), [(32, 16), (32, 32), (7, 3), (5, 1), (32, None)])
@torch.no_grad()
def test_it_equals_token_by_token(made, context, stride):
    _, model, tokenizer = made
    text = tiny_text.sentences(9, seed=5)
    found = perplexity(model, tokenizer, text, context, stride, batch_size=2)
    ids = [0, *tokenizer(text)["input_ids"]]
    assert found.tokens == len(ids) - 1 and found.characters == len(text)
    close.assert_close(found.loss, by_hand(model, ids, context, stride or 16) / found.tokens)


@pytest.mark.parametrize("length", range(2, 30))
@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 8), (5, 2)])
def test_windows_score_each_target_once(length, context, stride):
    seen = []
    for windows, first in _batches(torch.arange(length), context, stride, batch_size=3):
        assert windows.shape[1] <= context + 1
        seen += windows[:, 1 + first :].flatten().tolist()
    assert seen == list(range(1, length))


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(made):
    _, model, tokenizer = made

    class Even(nn.Module):
        config = model.config

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, input_ids):
            return type("Out", (), {"logits": self.weight.expand(*input_ids.shape, 400)})

    found = perplexity(Even().train(), tokenizer, "the cook likes\nwarm soup")
    assert found.words == 6
    close.assert_close(found.by_token, 400)
    close.assert_close(found.by_word, 400 ** (found.tokens / 6))


def test_measures_are_of_the_same_total():
    found = Perplexity(loss=2.0, tokens=30, words=20, characters=100)
    assert found.by_token == pytest.approx(math.exp(2)) and found.by_word == pytest.approx(math.exp(3))
    assert found.bits_per_character == pytest.approx(0.6 / math.log(2))
    assert found.to_dict()["by_word"] == pytest.approx(math.exp(3), abs=1e-4)


def test_bad_input_is_named(made):
    _, model, tokenizer = made
    with pytest.raises(ValueError, match="A text of 0 characters gave no tokens"):
        perplexity(model, tokenizer, "")
    with pytest.raises(ValueError, match="stride = 9: expected at most the context, 8"):
        perplexity(model, tokenizer, "text", context=8, stride=9)


def test_the_model_keeps_its_mode(made):
    _, model, tokenizer = made
    model.train()
    perplexity(model, tokenizer, "the cook")
    assert model.training
    model.eval()


def test_wikitext_is_written_as_prose():
    raw = (
        ' It was a first @-@ class show , costing $ 1 @,@ 000 ( or 2 @.@ 5 % ) ; he called it " The Bill " \'s best . '
    )
    assert (
        detokenize_wikitext(raw)
        == ' It was a first-class show, costing $1,000 (or 2.5%); he called it "The Bill"\'s best. '
    )
    assert detokenize_wikitext("They did n't say so , that 's all .") == "They didn't say so, that's all."


def test_files_give_the_text_as_it_stands_and_wikitext_detokenised(made, tmp_path):
    folder, model, tokenizer = made
    assert set(perplexities(model, tokenizer, folder / "valid.txt")) == {"as it stands"}
    (tmp_path / "wikitext.txt").write_text(" the well @-@ known cook likes \n warm soup , tea . \n")
    found = perplexities(model, tokenizer, tmp_path / "wikitext.txt")
    assert found["as it stands"]["words"] == found["detokenised"]["words"] == 13
    assert found["as it stands"]["tokens"] > found["detokenised"]["tokens"]


def test_words_of_wikitext2_are_counted_as_published(shared):
    from adamix_lab.generation.corpus import open_text

    path = shared / "corpus" / "wikitext2_test.txt.xz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with open_text(path) as file:
        assert count_words(file.read()) == 245_569
