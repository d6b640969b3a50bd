"""Training a decoder on a generation task: `train` with pairs and a smoothed loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.objective import IGNORED, predicts_next
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import Example, TextsCut, positions
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.run import History
from adamix_lab.training.train import train

# -- from pairs to examples of a decoder: source, separator, target, end; only the target is learned -----------------


def encode_pairs(rows: Sequence[Mapping[str, Any]], task: Task, tokenizer: Any, max_length: int = 128) -> list[Example]:
    """Rows as examples `input_ids`, `attention_mask`, `labels`, each `[T]`: an encoder for `train`.

    `source <bos> target <eos>`, the target after a space, as the authors' GPT-2 code has it. Labels are unshifted and
    -100 on source and separator. Where a pair is longer than `max_length`, the end of the source is cut, and the
    target's only where it alone is too long; a warning counts both.

    Raises ValueError for no rows, a task of classes, or a tokenizer without an end.
    """
    positive("max_length", max_length)
    if not rows:
        raise LabError("No rows to encode: expected at least one.")
    if not task.generates:
        raise LabError(
            f"Task {task.name!r} has classes or numbers as labels: expected texts to write (load_generation_task). "
            "Train it with a classification head and the default encoder."
        )
    separator, end = separators(tokenizer)
    sources = ids_of([row[task.text[0]] for row in rows], tokenizer)
    targets = ids_of([" " + row[task.label] for row in rows], tokenizer)
    room = max_length - 2
    examples, cut = [], [0, 0]
    for source, target in zip(sources, targets, strict=True):
        short = target[: max(0, room)]
        kept = source[: max(0, room - len(short))]
        cut = [cut[0] + (len(kept) < len(source)), cut[1] + (len(short) < len(target))]
        ids = torch.tensor([*kept, separator, *short, end][:max_length])
        labels = ids.clone()
        labels[: len(kept) + 1] = IGNORED
        examples.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    if any(cut):
        warnings.warn(
            f"{cut[0]} of {len(rows)} sources and {cut[1]} targets were cut: with both, a pair is longer than "
            f"max_length = {max_length} tokens. Raise max_length if the model takes more.",
            TextsCut,
            stacklevel=2,
        )
    return examples


def prompts(sources: Sequence[str], tokenizer: Any, most: int) -> list[list[int]]:
    """Sources as token ids that end in the separator, at most `most` tokens; a warning counts those that were cut."""
    separator, _ = separators(tokenizer)
    ids = ids_of(sources, tokenizer)
    long = sum(len(source) + 1 > most for source in ids)
    if long:
        warnings.warn(
            f"{long} of {len(sources)} sources are longer than the {most} tokens that the model takes beside the text "
            f"it writes (the longest has {max(map(len, ids)) + 1}) and were cut.",
            TextsCut,
            stacklevel=3,
        )
    return [[*source[: most - 1], separator] for source in ids]


def ids_of(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of texts, without the tokenizer's own special tokens."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def separators(tokenizer: Any) -> tuple[int, int]:
    """(separator, end): <bos> and <eos>, one and the same in GPT-2. Raises ValueError where there is none."""
    end = tokenizer.eos_token_id
    if end is None:
        raise LabError(
            f"{type(tokenizer).__name__} has no end-of-text token: expected a decoder's tokenizer. Set its eos_token."
        )
    return end if tokenizer.bos_token_id is None else tokenizer.bos_token_id, end


def check_decoder(model: nn.Module, tokens: int) -> int | None:
    """Refuses a model that cannot continue a text, and lengths beyond its positions. Raises ValueError.

    Returns the longest sequence that the model takes; None where nothing limits it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = getattr(model, "config", None)
    # transformers puts a language-model head on BERT and its kin, too, which look at both sides unless told otherwise
    encoder = getattr(config, "model_type", "") in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not predicts_next(model) or (encoder and not getattr(config, "is_decoder", False)):
        raise LabError(
            f"{type(model).__name__} cannot write texts: expected a decoder with a language-model head. Load one with "
            'load_backbone(folder, kind="generation"); encoders answer classes.'
        )
    most = positions(model)
    if most and tokens > most:
        raise LabError(
            f"{tokens} tokens are asked for: expected at most {most}, the positions of {type(model).__name__}. "
            "Lower max_length (training) or new_tokens (decoding)."
        )
    return most


def train_generator(
    mixture: MixtureModel,
    task: Task,
    tokenizer: Any,
    recipe: Recipe | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> History:
    """`train` on (source, target) pairs: the loss and the consistency count the target's tokens only.

    The authors take a `label_smoothing` of 0.1 on E2E and WebNLG, 0 on DART, and a consistency weight of 100 a target
    token. Raises ValueError for a model that writes no texts, a task of classes, or a max_length beyond the model's
    positions; else as `train`.
    """
    recipe = recipe or Recipe()
    check_decoder(mixture.model, recipe.max_length or 1)
    return train(mixture, task, tokenizer, recipe, folder, None, progress, on_step, encode_pairs)
