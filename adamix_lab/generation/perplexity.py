"""Perplexity of a causal language model on a text, by token and by word.

The text is one sequence of tokens, read in windows that overlap: every token is scored once, with at least
`context - stride` tokens before it (fewer only at the text's beginning, which follows an end-of-text).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.errors import positive
from adamix_lab.generation.corpus import open_text


@dataclass(frozen=True)
class Perplexity:
    """How well a text was foreseen.

    Attributes:
        loss: the mean negative log-likelihood of a token, in nats.
        tokens: how many were scored, by the model's own tokenizer.
        words: of the text, split at blanks, and one for each line's end, as WikiText counts (245,569 in the test set of
            WikiText-2).
        characters: of the text.
    """

    loss: float
    tokens: int
    words: int
    characters: int

    @property
    def by_token(self) -> float:
        """The exponential of the loss a token: comparable only between models of one vocabulary."""
        return math.exp(self.loss)

    @property
    def by_word(self) -> float:
        """The exponential of the loss a word: comparable between vocabularies."""
        return math.exp(self.loss * self.tokens / self.words)

    @property
    def bits_per_character(self) -> float:
        """The loss a character, in bits."""
        return self.loss * self.tokens / self.characters / math.log(2)

    def to_dict(self) -> dict[str, float]:
        """Plain values, with all three measures."""
        measures = {name: round(getattr(self, name), 4) for name in ("by_token", "by_word", "bits_per_character")}
        return {**measures, **asdict(self)}


def perplexity(
    model: Any,
    tokenizer: Any,
    text: str,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    words: int | None = None,
) -> Perplexity:
    """The perplexity of a causal language model on a text. The model is left in the mode it was in.

    Args:
        model: with logits `[B, T, vocabulary]` about the next token; a mixture answers with what is selected.
        tokenizer: of the model.
        text: what to score, as one piece.
        context: tokens of a window; None takes the model's positions, at most 1,024.
        stride: new tokens a window; None takes half the context.
        batch_size: windows at a time.
        words: to divide by; None counts those of the text. Give the original's count for a text that was changed.

    Raises:
        ValueError: a text without tokens, a stride beyond the context.
    """
    if context is None:
        context = min(int(getattr(model.config, "max_position_embeddings", 1024)), 1024)
    stride = context // 2 if stride is None else stride
    positive("stride", stride)
    if stride > context:
        raise ValueError(f"stride = {stride}: expected at most the context, {context}, so that no token is left out.")
    # In pieces, line by line: a tokenizer warns of texts longer than the model takes, and these are never fed whole.
    ids = [token for line in text.splitlines(keepends=True) for token in _encode(tokenizer, line)]
    if not ids:
        raise ValueError(f"A text of {len(text)} characters gave no tokens: expected some text.")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        total = sum(
            _loss(model, windows.to(device), first)
            for windows, first in _batches(torch.tensor([start, *ids]), context, stride, batch_size)
        )
    finally:
        model.train(training)
    return Perplexity(total / len(ids), len(ids), words or count_words(text), len(text))


def _encode(tokenizer: Any, line: str) -> list[int]:
    ids: list[int] = tokenizer(line, add_special_tokens=False)["input_ids"]
    return ids


def _batches(ids: Tensor, context: int, stride: int, batch_size: int) -> Iterator[tuple[Tensor, int]]:
    """(windows `[B, context + 1]`, first target that is new): the first window is all new, the last ends the text."""
    last = len(ids) - 1  # targets are ids[1:]
    head = min(context, last)
    yield ids[None, : head + 1], 0
    whole = range(head + stride, last + 1, stride)
    ends = torch.tensor(list(whole), dtype=torch.long)
    for some in ends.split(batch_size) if len(ends) else ():
        yield torch.stack([ids[end - context : end + 1] for end in some.tolist()]), context - stride
    done = whole[-1] if len(whole) else head
    if done < last:
        yield ids[None, last - context : last + 1], context - (last - done)


@torch.inference_mode()
def _loss(model: Any, windows: Tensor, first: int) -> float:
    logits = model(input_ids=windows[:, :-1]).logits[:, first:].float()
    targets = windows[:, 1 + first :]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))


def count_words(text: str) -> int:
    """Words between blanks, and one for each line's end."""
    return len(text.split()) + text.count("\n")


_NUMBERS = re.compile(r" @([-,.])@ ")
_TIGHT = [
    (re.compile(r' " ([^"\n]*?) "(?= |$)', re.M), r' "\1"'),
    (re.compile(r" ([,.;:!?%)\]])"), r"\1"),
    (re.compile(r"([(\[$£]) "), r"\1"),
    (re.compile(r" (n't|'(?:s|re|ve|ll|d|m)?)(?= |[,.;:!?]|$)", re.M), r"\1"),
]


def detokenize_wikitext(text: str) -> str:
    """WikiText as it was written: blanks around marks go, `@-@`, `@,@` and `@.@` become plain. `<unk>` stays.

    Its quotation marks and apostrophes are closed up by rules, which is right mostly, not always.
    """
    text = _NUMBERS.sub(r"\1", text)
    for pattern, plain in _TIGHT:
        text = pattern.sub(plain, text)
    return text


def perplexities(model: Any, tokenizer: Any, path: Path) -> dict[str, dict[str, float]]:
    """The perplexity on a file "as it stands"; of WikiText also "detokenised", divided by the words of the original."""
    with open_text(path) as file:
        text = file.read()
    found = {"as it stands": perplexity(model, tokenizer, text).to_dict()}
    if " @-@ " in text:
        plain = detokenize_wikitext(text)
        found["detokenised"] = perplexity(model, tokenizer, plain, words=count_words(text)).to_dict()
    return found
