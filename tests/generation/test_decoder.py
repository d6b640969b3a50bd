"""The shipped decoder: small, whole, offline, as its card says; it knows English better than chance."""

import json

import pytest
import torch

from adamix_lab import Bottleneck, LoRA, attach, load_backbone, merge
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


def test_its_card_tells_what_its_record_does(record):
    text = (find_shipped(NAME) / "README.md").read_text(encoding="utf-8")
    for name, forms in record["perplexity"].items():
        for form, found in forms.items():
            assert f"| {name} | {form} | {found['by_token']:.1f} | {found['by_word']:.1f} |" in text
    assert all(row["commit"] in text and row["licence"] in text for row in record["sources"]) and record["sources"]
    for words in ("What it is not for", "wikitext2_test.txt.xz", record["corpus"]["sha256"], "OpenStax"):
        assert words in text


@torch.no_grad()
def test_it_has_learnt_english(loaded):
    model, tokenizer = loaded
    shuffled = " ".join(sorted(PROSE.split(), key=lambda word: word[::-1]))
    ids = [tokenizer(tokenizer.bos_token + text, return_tensors="pt")["input_ids"] for text in (PROSE, shuffled)]
    found, worse = (float(model(input_ids=one, labels=one).loss.exp()) for one in ids)  # perplexity by token
    assert found < 150 < len(tokenizer) / 10 and worse > 3 * found


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
    with pytest.raises(FileNotFoundError, match="expected what is shipped as 'backbones/books-gpt2'"):
        load_backbone(NAME, kind="generation")


def test_a_name_nearly_right_is_answered_with_it():
    with pytest.raises(OSError, match="Did you mean 'books-gpt2'"):
        load_backbone("book-gpt2", kind="generation")
