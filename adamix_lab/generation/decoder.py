"""The decoder that is pre-trained: its shape and the settings of its training, a fresh one, its folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from adamix_lab.core.errors import fraction, one_of, positive
from adamix_lab.core.files import write_tensors

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Pretraining:
    """Shape of the decoder and settings of its pre-training.

    Attributes:
        vocab_size: entries of the byte-level BPE vocabulary, at most.
        context: tokens a window; also the positions that the model has.
        width: of the hidden states.
        layers: blocks.
        heads: attention heads; they divide the width.
        steps: optimiser steps.
        batch_size: windows a step, over all processes and pieces.
        accumulate: pieces that a step is computed in (each small enough for the processor's cache, or GPU memory).
        lr: peak rate, after the warm-up.
        warmup: steps in which the rate rises from 0 in a line.
        decay: share of the steps, the last ones, in which the rate falls to 0 by a cosine; 1 falls from the warm-up on.
            Before that the rate is constant, so that a run which has not begun to fall may be given other `steps`.
        weight_decay: of matrices and embeddings; biases and norms do not decay.
        clip: largest norm of all gradients together.
        precision: "no" (float32) or "bf16"; weights and optimiser stay float32.
        seed: of the first weights and the order of windows.
        dropout: of embeddings, attention and residuals while pre-training; one pass over a corpus needs none.
        checkpoint_every: steps between checkpoints; 0 writes one at the end only.
        log_every: steps between log rows.
    """

    vocab_size: int = 8192
    context: int = 256
    width: int = 256
    layers: int = 6
    heads: int = 4
    steps: int = 4000
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 2e-3
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.1
    clip: float = 1.0
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    dropout: float = 0.0
    checkpoint_every: int = 250
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "width", "layers", "heads", "steps", "batch_size", "accumulate"):
            positive(name, getattr(self, name))
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of the width {self.width}.")
        fraction("dropout", self.dropout)
        if self.warmup < 0:
            raise ValueError(f"warmup = {self.warmup}: expected 0 steps or more.")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay = {self.decay}: expected a share of the steps, from 0 to 1.")
        one_of("precision", self.precision, ("no", "bf16"))
        if not self.lr > 0:
            raise ValueError(f"lr = {self.lr}: expected a number above 0.")

    @property
    def falls_at(self) -> int:
        """The step at which the rate begins to fall."""
        return max(min(self.warmup, self.steps), self.steps - round(self.decay * self.steps))

    def rate(self, step: int) -> float:
        """The rate at a step (counted from 0): up in a line, level, down by a cosine."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        way = max(0, step - self.falls_at) / max(1, self.steps - self.falls_at)
        return self.lr * 0.5 * (1 + math.cos(math.pi * way))


def new_decoder(settings: Pretraining, vocab_size: int) -> Any:
    """A GPT-2 of the settings' shape, freshly drawn from torch's global generator."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's gelu_new, in one kernel
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config)


def save_decoder(model: Any, tokenizer: Any, folder: Path) -> None:
    """Configuration, tokenizer and weights as transformers loads them: float16, tied ones once; weights come last.

    The configuration names float32, so that what is loaded computes (and is tuned) in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config = model.config
    config.dtype = torch.float32
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    write_tensors(folder / WEIGHTS, {name: p.half() for name, p in model.named_parameters()}, {"format": "pt"})
