"""Text files to documents to tokens to windows."""

import gzip
import hashlib
import lzma

import numpy as np
import pytest
import tiny_text
import torch

from adamix_lab.generation import corpus
from adamix_lab.generation.corpus import Windows, documents, known_corpus, text_files, text_sha256, tokenize
from adamix_lab.generation.tokenizer import END, train_tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_text.write(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def tokenizer(text):
    return train_tokenizer(text_files(text), 400, 32)


def tokenized(text, tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return tokenize(text_files(text), text_sha256(text_files(text)), tokenizer, folder)


@pytest.fixture(scope="module")
def tokens(text, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    return folder, tokenized(text, tokenizer, folder)


def test_folders_give_text_in_order_and_keep_what_is_held_out(text, tmp_path):
    assert [p.name for p in text_files(text)] == ["train.txt"]
    assert [p.name for p in text_files(text, held_out=True)] == ["valid.txt"]
    assert text_files(text / "valid.txt") == [text / "valid.txt"]  # named outright
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"b"))
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"a"))
    (tmp_path / "notes.md").write_text("no")
    assert [p.name for p in text_files(tmp_path)] == ["a.txt.xz", "b.txt.gz"]
    assert text_sha256(text_files(tmp_path)) == hashlib.sha256(b"ab").hexdigest()


def test_no_text_and_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no text to train on: expected .*\.txt\.xz"):
        text_files(tmp_path)
    (tmp_path / "book.pdf").write_bytes(b"%PDF")
    with pytest.raises(ValueError, match=r"book\.pdf is no text file: expected a name ending in \.txt"):
        text_files(tmp_path / "book.pdf")


def test_packed_files_give_the_same_documents(tmp_path):
    plain = "One.\nStill one.\n\n\n \nTwo.\n"
    (tmp_path / "a.txt").write_text(plain)
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(plain.encode()))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(plain.encode()))
    for name in ("a.txt", "a.txt.xz", "a.txt.gz"):
        assert list(documents(tmp_path / name)) == ["One.\nStill one.\n", "Two.\n"]


def test_damaged_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1") + b"\n")
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(b"word " * 5000)[:60])
    for name in ("a.txt", "b.txt.xz"):
        with pytest.raises(ValueError, match=r"could not be read as UTF-8 text.*Expected whole files"):
            list(documents(tmp_path / name))


def test_tokens_are_the_text_with_an_end_after_each_document(text, tokenizer, tokens):
    folder, facts = tokens
    ids = np.fromfile(folder / "tokens.bin", dtype=np.uint16)
    assert len(ids) == facts.tokens and facts.documents == 50 == (ids == tokenizer.eos_token_id).sum()
    whole = "".join(one.strip() + "\n" + END for one in documents(text / "train.txt"))
    assert tokenizer.decode(ids.tolist()) == whole
    assert facts.characters == len(whole.replace(END, ""))
    assert known_corpus(folder) == facts


def test_long_documents_are_cut_between_paragraphs_only(text, tokenizer, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_LONGEST", 60)
    monkeypatch.setattr(corpus, "_PORTION", 3)
    facts = tokenized(text, tokenizer, tmp_path)
    assert facts == tokens[1]
    assert (tmp_path / "tokens.bin").read_bytes() == (tokens[0] / "tokens.bin").read_bytes()


def test_tokens_that_are_not_whole_are_not_known(text, tokenizer, tokens, tmp_path):
    assert known_corpus(tmp_path) is None
    facts = tokenized(text, tokenizer, tmp_path)
    assert known_corpus(tmp_path) == facts
    (tmp_path / "tokens.bin").write_bytes(b"\0\0")
    assert known_corpus(tmp_path) is None


def test_windows_are_a_function_of_seed_and_step_and_cover_an_epoch(tokens):
    folder, facts = tokens
    windows, again = Windows(folder, 32, 5, seed=3), Windows(folder, 32, 5, seed=3)
    assert windows.count == facts.tokens // 32
    assert torch.equal(windows.at(40), again.at(40))  # in any order
    assert not torch.equal(windows.at(0), Windows(folder, 32, 5, seed=4).at(0))
    one = Windows(folder, 32, 1, seed=3)
    ids = np.fromfile(folder / "tokens.bin", dtype=np.uint16)[: one.count * 32].reshape(-1, 32)
    orders = []
    for epoch in (0, 1):
        seen = [tuple(one.at(epoch * one.count + n)[0].tolist()) for n in range(one.count)]
        assert sorted(seen) == sorted(map(tuple, ids.tolist()))  # each once
        orders.append(seen)
    assert orders[0] != orders[1]


def test_a_corpus_shorter_than_a_window_is_refused(tokens):
    folder, facts = tokens
    with pytest.raises(ValueError, match=rf"The corpus has {facts.tokens} tokens: expected one window of 99999"):
        Windows(folder, 99999, 1, 0)


def test_the_vocabulary_is_a_function_of_the_text_and_takes_any_text(text, tokenizer):
    again = train_tokenizer(text_files(text), 400, 32)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0 and 257 < len(tokenizer) <= 400
    for odd in ("naïve 東京 \t\n ok", "  two  blanks", "emoji 🙂"):
        assert tokenizer.decode(tokenizer(odd)["input_ids"], clean_up_tokenization_spaces=False) == odd
    assert len(tokenizer("the cook likes green tea.")["input_ids"]) <= 12


@pytest.mark.parametrize("size", [0, 256, 1 << 17])
def test_vocabularies_that_cannot_be_are_refused(text, size):
    with pytest.raises(ValueError, match=rf"vocab_size = {size}: expected"):
        train_tokenizer(text_files(text), size)
