"""A tiny task, a tokenizer for it, and a mixture on a tiny BERT: what the tests of training share."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.merging import relative_difference
from adamix_lab.core.objective import Consistency
from adamix_lab.models.model import MixtureModel, attach
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.recipe import Recipe

WORDS = [f"w{n}" for n in range(40)]
GOOD, BAD, PLAIN = WORDS[:4], WORDS[4:8], WORDS[8:]


def tokenizer() -> Any:
    """Words split at spaces, [CLS] before and [SEP] after, as BERT has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: n for n, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def task(rows: int = 96, seed: int = 0) -> Task:
    """Three classes: good words, bad words, other words; sentences of 1 to 8 words."""
    rng = random.Random(seed)
    made = []
    for n in range(rows + 30):
        label = n % 3
        words = rng.choices([GOOD, BAD, PLAIN][label], k=rng.randint(1, 8))
        made.append({"sentence": " ".join(words), "label": label})
    return Task("tiny", made[:rows], made[rows:], ("sentence",), "label", ("good", "bad", "neither"))


def mixture(dropout: float = 0.0, blocks: tuple[int, ...] | None = None, **more: Any) -> MixtureModel:
    model = tiny.bert(dropout)
    settings = {"experts": 3, "share": "up", "blocks": blocks, "seed": 1} | more
    return attach(model, Bottleneck(4), **settings)


def recipe(**settings: Any) -> Recipe:
    values = {"steps": 12, "batch_size": 8, "lr": 5e-3, "dev_fraction": 0.0, "consistency": Consistency(1.0)} | settings
    return Recipe(**values)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are fastest on one thread; on busy machines several cost fifty times as much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(model: MixtureModel) -> dict[str, torch.Tensor]:
    from adamix_lab.models.model import trained_tensors

    return {name: tensor.clone() for name, tensor in trained_tensors(model).items()}


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest difference of two sets of weights, over the largest weight of the second.

    Over the largest of all, as AdamW moves every weight by steps of one size, small ones too.
    """
    assert first.keys() == second.keys()
    return relative_difference(*(torch.cat([each[name].flatten() for name in first]) for each in (first, second)))
