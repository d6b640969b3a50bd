"""Exports check themselves: what was written is loaded back on a bare base, and its answers are compared."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError
from adamix_lab.core.merging import REORDERED, relative_difference
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.objective import reads_labels
from adamix_lab.core.sites import answer_kind
from adamix_lab.core.views import logits_of
from adamix_lab.models.model import MixtureModel
from adamix_lab.models.saving import fingerprint
from adamix_lab.tasks.backbones import quiet_transformers
from adamix_lab.training.evaluation import answers


def copy_base(mixture: MixtureModel) -> nn.Module:
    """The base model without mixtures, in evaluation mode; frozen weights are shared with `mixture`, not copied.

    A trained head is filled with NaN: an export that forgets to bring it cannot pass its check.
    """
    frozen = [p for p in mixture.model.parameters() if not p.requires_grad]
    shared = {id(t): t for t in [*frozen, *mixture.model.buffers()]}
    plain = copy.deepcopy(mixture.model, shared)
    for path, layer in mixture.sites.items():
        plain.set_submodule(path, copy.deepcopy(layer.base, shared))
    mixture.restore(plain)
    return _without_head(plain, mixture).eval()


def fresh_base(mixture: MixtureModel) -> nn.Module:
    """The base read again from its files, as a user of the export reads it; `copy_base` where they are not there.

    A trained head is filled with NaN. Raises ValueError where the files hold other weights than the model has.
    """
    model: Any = mixture.model
    config = getattr(model, "config", None)
    name = getattr(config, "_name_or_path", "")
    if not name or getattr(config, "quantization_config", None) is not None:
        return copy_base(mixture)
    revision = getattr(config, "_commit_hash", None)
    settings = {"config": copy.deepcopy(config), "dtype": model.dtype, "revision": revision}
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            base = type(model).from_pretrained(name, local_files_only=True, ignore_mismatched_sizes=True, **settings)
    except (OSError, ValueError):  # its folder was moved, or it was never in one
        return copy_base(mixture)
    trained = {*mixture.head_paths, *mixture.mixture.own}
    if fingerprint(base, trained) != fingerprint(model, trained):
        raise LabError(
            f"The base's weights are not those that {name} holds: expected them as others will load them. "
            "Save the base that you trained on (adamix_lab.detach(mixture).save_pretrained) and load it from there, "
            "or export format='transformers' or 'onnx'."
        )
    return _without_head(base.to(model.device), mixture).eval()


def _without_head(base: nn.Module, mixture: MixtureModel) -> nn.Module:
    with torch.no_grad():
        for path in mixture.head_paths:
            for parameter in base.get_submodule(path).parameters():
                parameter.fill_(torch.nan)
    return base


def check_served(merged: MixtureModel, served: nn.Module | Path, tokenizer: Any, dtype: torch.dtype) -> float:
    """The largest difference of `transformers.pipeline`'s answers to a sentence and a pair, as a share of the largest.

    served: a model, or a folder of one. Raises ValueError for other labels, or numbers that `dtype` does not explain.
    """
    import transformers

    worst = 0.0
    with quiet_transformers():
        place: Any = str(served) if isinstance(served, Path) else served
        device = next(merged.parameters()).device
        pipe: Any = transformers.pipeline("text-classification", model=place, tokenizer=tokenizer, device=device)
        for texts in ("The film was good .",), ("The film was good .", "The plot was not ."):
            inputs = tokenizer(*texts, return_tensors="pt").to(device)
            with torch.no_grad(), evaluating(merged):
                found = answers(merged, logits_of(merged(selection="merge", **inputs)))[0].float().cpu()
            kind, names = answer_kind(merged.model), merged.model.config.id2label  # type: ignore[union-attr, index]
            ours = dict(zip(names.values(), (found if kind == "numbers" else found.exp()).tolist(), strict=True))
            given = dict(zip(("text", "text_pair"), texts, strict=False))
            theirs = {row["label"]: row["score"] for row in pipe([given], top_k=None)[0]}
            if ours.keys() != theirs.keys():
                raise LabError(f"transformers.pipeline answers with {sorted(theirs)}: expected {sorted(ours)}.")
            pair = torch.tensor([[ours[label], theirs[label]] for label in ours])
            worst = max(worst, check_logits(pair[:, 0], pair[:, 1], dtype, "transformers.pipeline"))
    return worst


def draw_batch(model: nn.Module) -> dict[str, Tensor]:
    """A seeded batch of random token ids, the last row shorter, for a text model; the second half of a row is a pair's.

    Raises ValueError for a model without a vocabulary: it needs a batch of its own.
    """
    config: Any = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    if not vocabulary:
        raise LabError(
            f"{type(model).__name__} has no vocabulary to draw a test batch from: give batch=, a small batch of its "
            "inputs, so that the export can be checked."
        )
    pad = getattr(config, "pad_token_id", None)
    rows = 1 if pad is None else 2  # decoders with a classifier cannot read several rows without a pad token
    ids = torch.randint(min(2, vocabulary - 1), vocabulary, (rows, 8), generator=torch.Generator().manual_seed(0))
    ids = torch.where(ids == (vocabulary if pad is None else pad), (0 if pad else 1), ids)
    mask = torch.ones_like(ids)
    if pad is not None:
        mask[-1, -2:] = 0
        ids[-1, -2:] = pad
    batch = {"input_ids": ids, "attention_mask": mask}
    inputs = inspect.signature(model.forward).parameters
    if "token_type_ids" in inputs and getattr(config, "type_vocab_size", 0) > 1:
        batch["token_type_ids"] = mask * (torch.arange(8) >= 4)
    if reads_labels(model):
        batch["decoder_input_ids"] = ids[:, :4]
    elif getattr(config, "is_encoder_decoder", False):  # the head reads the one token that ends a row
        ids[ids == config.eos_token_id] = next(n for n in range(vocabulary) if n not in (pad, config.eos_token_id))
        ids[torch.arange(rows), mask.sum(1) - 1] = config.eos_token_id
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def compute_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The model's logits on a batch without labels, float32."""
    with torch.no_grad(), evaluating(model):
        return logits_of(model(**{name: value for name, value in batch.items() if name != "labels"})).float()


def compare(model: nn.Module, other: nn.Module, batch: Mapping[str, Tensor], dtype: torch.dtype, what: str) -> float:
    """`check_logits` of what another model answers to a batch."""
    return check_logits(compute_logits(model, batch), compute_logits(other, batch), dtype, what)


def check_logits(expected: Tensor, found: Tensor, dtype: torch.dtype, what: str) -> float:
    """The largest difference, as a share of the largest logit expected.

    Raises ValueError where it is above what weights of `dtype` round to (`merging.REORDERED`), or no number.
    """
    if expected.shape != found.shape:
        raise LabError(
            f"{what} answers {list(found.shape)} logits: expected {list(expected.shape)}, as the model's. Nothing was "
            "put into the folder."
        )
    difference = math.nan if bool(found.isnan().any()) else relative_difference(found, expected)
    allowed = REORDERED[dtype]
    if not difference <= allowed:  # NaN, too
        raise LabError(
            f"{what} answers otherwise than the model (largest difference of logits {difference:.2g} of the largest "
            f"logit): expected at most {allowed:.2g}. Nothing was put into the folder. If the model is sound, this is "
            "a fault of the export: please report it with the model's type and the adaptation."
        )
    return difference


def lowest_precision(mixture: MixtureModel) -> torch.dtype:
    """The dtype of the least precise floating-point weight, at best float32: what logits are held to."""
    found = {p.dtype for p in mixture.parameters() if p.is_floating_point()} | {torch.float32}
    return max(found & set(REORDERED), key=lambda dtype: REORDERED[dtype])
