"""Exports check themselves: what was written is loaded back on a bare base, and its logits are compared."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.model import MixtureModel
from adamix_lab.core.numerics import REORDERED, relative_difference
from adamix_lab.training.evaluation import evaluating


def bare(mixture: MixtureModel) -> nn.Module:
    """The base model without mixtures, in evaluation mode; frozen weights are shared with `mixture`, not copied.

    A trained head is filled with NaN: an export that forgets to bring it cannot pass its check.
    """
    frozen = [p for p in mixture.model.parameters() if not p.requires_grad]
    shared = {id(t): t for t in [*frozen, *mixture.model.buffers()]}
    plain = copy.deepcopy(mixture.model, shared)
    plain.__dict__.pop("save_pretrained", None)
    for path, layer in mixture.sites.items():
        plain.set_submodule(path, copy.deepcopy(layer.base, shared))
    with torch.no_grad():
        for path in mixture.head_paths:
            for parameter in plain.get_submodule(path).parameters():
                parameter.fill_(torch.nan)
    return plain.eval()


def probe(model: nn.Module, rows: int = 2, tokens: int = 8) -> dict[str, Tensor]:
    """A seeded batch of random token ids, the last row shorter, for a text model.

    Raises ValueError for a model without a vocabulary: it needs a batch of its own.
    """
    config: Any = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    if not vocabulary:
        raise ValueError(
            f"{type(model).__name__} has no vocabulary to draw a test batch from: give batch=, a small batch of its "
            "inputs, so that the export can be checked."
        )
    pad = getattr(config, "pad_token_id", None)
    rows = rows if pad is not None else 1  # decoders with a classifier cannot read several rows without a pad token
    ids = torch.randint(min(2, vocabulary - 1), vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(0))
    ids = torch.where(ids == (vocabulary if pad is None else pad), (0 if pad else 1), ids)
    mask = torch.ones_like(ids)
    if rows > 1 and pad is not None:
        mask[-1, -2:] = 0
        ids[-1, -2:] = pad
    batch = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "is_encoder_decoder", False):
        batch["decoder_input_ids"] = ids[:, :4]
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def logits_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The model's logits on a batch without labels, float32."""
    with torch.no_grad(), evaluating(model):
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits.float()


def check_logits(expected: Tensor, found: Tensor, dtype: torch.dtype, what: str) -> float:
    """The largest difference, as a share of the largest logit expected.

    Raises ValueError where it is above what weights of `dtype` round to (`numerics.REORDERED`), or no number.
    """
    if expected.shape != found.shape:
        raise ValueError(
            f"{what} answers {list(found.shape)} logits: expected {list(expected.shape)}, as the model's. Nothing was "
            "put into the folder."
        )
    difference = math.nan if bool(found.isnan().any()) else relative_difference(found, expected)
    allowed = REORDERED[dtype]
    if not difference <= allowed:  # NaN, too
        raise ValueError(
            f"{what} answers otherwise than the model (largest difference of logits {difference:.2g} of the largest "
            f"logit): expected at most {allowed:.2g}. Nothing was put into the folder. If the model is sound, this is "
            "a fault of the export: please report it with the model's type and the adaptation."
        )
    return difference


def narrowest(mixture: MixtureModel) -> torch.dtype:
    """The dtype of the least precise floating-point weight, at best float32 (`logits_of`): what logits are held to."""
    found = {p.dtype for p in mixture.parameters() if p.is_floating_point()} | {torch.float32}
    return max(found & set(REORDERED), key=lambda dtype: REORDERED[dtype])
