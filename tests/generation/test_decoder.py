"""The shipped decoder: small, whole, offline, as its card says; it knows English better than chance."""

import json

import pytest
import torch

from adamix_lab import Bottleneck, LoRA, attach, load_backbone, merge
from adamix_lab.generation.decoder_card import card
from adamix_lab.generation.perplexity import perplexity
from adamix_lab.tasks import backbones
from adamix_lab.tasks.backbones import find_shipped

NAME = "books-gpt2"
# Written for this test; in no corpus.
PROSE = (
    "The old lady looked out of the window and saw that the rain had stopped. She put on her coat, took the letter "
    "from the table, and went down to the street, where her brother was waiting for her with a basket of apples.\n"
)


@pytest.fixture(scope="module")
def loaded():
    return load_backbone(NAME, kind="generation")


@pytest.fixture(scope="module")
def record():
    return json.loads((find_shipped(NAME) / "pretraining.json").read_text(encoding="utf-8"))


def test_the_folder_is_small_and_holds_no_more_than_it_needs():
    folder = find_shipped(NAME)
    names = {path.name for path in folder.iterdir() if path.is_file()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert needed | {"README.md", "pretraining.json"} == names
    assert (folder / "model.safetensors").stat().st_size <= 16e6


def test_it_is_what_its_record_says(loaded, record):
    model, tokenizer = loaded
    assert model.dtype == torch.float32 and model.lm_head.weight is model.transformer.wte.weight
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    assert len(tokenizer) == record["vocabulary"] and model.config.n_positions == record["settings"]["context"]
    assert record["tokens"] == record["steps"] * record["settings"]["batch_size"] * record["settings"]["context"]


def test_its_card_is_written_from_the_record(record):
    folder = find_shipped(NAME)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == card(folder, record)
    assert all(row["commit"] in text and row["licence"] in text for row in record["sources"]) and record["sources"]
    for words in ("What it is not for", "wikitext2_test.txt.xz", record["corpus"]["sha256"], "OpenStax"):
        assert words in text


def test_it_has_learnt_english(loaded):
    model, tokenizer = loaded
    words = PROSE.split()
    shuffled = " ".join(sorted(words, key=lambda word: word[::-1]))
    found, worse = perplexity(model, tokenizer, PROSE), perplexity(model, tokenizer, shuffled)
    assert found.by_token < 150 < len(tokenizer) / 10 and worse.by_token > 3 * found.by_token


def test_it_generates_words(loaded):
    model, tokenizer = loaded
    ids = tokenizer("She went to the", return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=12, num_beams=3, no_repeat_ngram_size=4, do_sample=False)
    text = tokenizer.decode(out[0])
    assert text.startswith("She went to the ") and text.isascii()


@pytest.mark.parametrize("adaptation", [LoRA(2), Bottleneck(4)], ids=str)
def test_adaptations_find_their_sites(adaptation):
    model, tokenizer = load_backbone(NAME, kind="generation")
    mixture = attach(model, adaptation, experts=2)
    assert len(mixture.sites) == model.config.n_layer
    batch = tokenizer("The restaurant is", return_tensors="pt")
    assert torch.isfinite(mixture(**batch).logits).all()
    assert merge(mixture).generate(**batch, max_new_tokens=2, do_sample=False).shape[1] > batch["input_ids"].shape[1]


def test_a_checkout_without_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAMIX_LAB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"expected the shipped decoder 'books-gpt2'.*adamix-lab pretrain"):
        load_backbone(NAME, kind="generation")


def test_a_name_nearly_right_is_answered_with_it():
    with pytest.raises(OSError, match="Did you mean 'books-gpt2'"):
        load_backbone("book-gpt2", kind="generation")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 336,362 tokens in overlapping windows
def test_its_perplexity_is_the_recorded_one(loaded, record, shared):
    path = shared / "corpus" / "wikitext2_valid.txt.xz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    from adamix_lab.generation.corpus import open_text

    with open_text(path) as file:
        found = perplexity(*loaded, file.read())
    told = record["perplexity"][path.name]["as it stands"]
    assert found.tokens == told["tokens"] and found.by_token == pytest.approx(told["by_token"], rel=1e-3)
    assert backbones.SHIPPED == (NAME,)
