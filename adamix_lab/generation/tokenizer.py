"""A byte-level BPE vocabulary as GPT-2's, learnt from a corpus."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import positive
from adamix_lab.generation.corpus import open_text

END = "<|endoftext|>"
BYTES = 256


def train_tokenizer(files: Iterable[Path], vocab_size: int = 8192, max_length: int = 256) -> Any:
    """A GPT-2 tokenizer (transformers' fast one) with at most `vocab_size` entries; end-of-text has id 0.

    Equal text gives an equal vocabulary. Any text can be encoded, as each byte is an entry.

    Raises:
        ValueError: a vocabulary that cannot hold the bytes, or goes beyond uint16.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import GPT2TokenizerFast  # type: ignore[attr-defined]

    positive("vocab_size", vocab_size)
    if not BYTES < vocab_size <= 1 << 16:
        raise ValueError(f"vocab_size = {vocab_size}: expected {BYTES + 1} (bytes and end-of-text) to {1 << 16}.")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((line for path in files for line in _lines(path)), trainer)
    names = {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": END}
    return GPT2TokenizerFast(tokenizer_object=bpe, model_max_length=max_length, **names)


def _lines(path: Path) -> Iterable[str]:
    with open_text(path) as file:
        yield from file
