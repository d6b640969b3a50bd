"""A tiny generation task, a byte-level tokenizer, and a tiny random GPT-2 that fits it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import tiny
from torch import nn

from adamix_lab.generation.tasks import GenerationTask

NAMES = ("Aromi", "Blue Spice", "The Mill", "Zizzi")
AREAS = ("riverside", "city centre")
END = "<|endoftext|>"


def pairs() -> list[dict[str, str]]:
    """Two targets for each of eight sources."""
    made = []
    for name in NAMES:
        for area in AREAS:
            source = f"name : {name} | area : {area}"
            made.append({"source": source, "target": f"{name} is in the {area}."})
            made.append({"source": source, "target": f"In the {area} there is {name}."})
    return made


def task() -> GenerationTask:
    """Four sources are judged."""
    judged = [
        {
            "source": row["source"],
            "references": (row["target"], f"There is {row['target']}")[: 1 + n % 2],
        }
        for n, row in enumerate(pairs()[:8:2])
    ]
    return GenerationTask("tiny", pairs(), judged)


@cache
def tokenizer() -> Any:
    """Byte-level BPE learned on the task: no word is unknown to it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator([text for row in pairs() for text in row.values()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END, pad_token=END)


def decoder(positions: int = 64, width: int = 32, layers: int = 2) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    end = tokenizer().eos_token_id
    return tiny.build(
        GPT2LMHeadModel, GPT2Config, vocab_size=len(tokenizer()), n_positions=positions, n_embd=width, n_layer=layers,
        n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=end, eos_token_id=end,
        pad_token_id=end,
    )  # fmt: skip


def folder(path: Path) -> Path:
    """The decoder and its tokenizer as transformers saves them."""
    decoder().save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
