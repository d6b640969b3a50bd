"""From rows to batches: tokenised once, bucketed by length, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.objective import predicts_next
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.tasks.tasks import Task

Example = dict[str, Tensor]
Encoder = Callable[[Sequence[Mapping[str, Any]], Task, Any, int], list[Example]]

BUCKET = 32  # batches that are sorted by length together: less padding, and still a random order
IGNORED = -100  # pads labels that come one a token


class TextsCut(UserWarning):
    """Texts were longer than the tokens they may have, and lost their ends."""


def encode(rows: Sequence[Mapping[str, Any]], task: Task, tokenizer: Any, max_length: int = 128) -> list[Example]:
    """Rows as examples: `input_ids` `[T]`, `attention_mask` `[T]` and so on, and `labels` where the row has one.

    Longer rows are cut to `max_length` tokens; a warning, `TextsCut`, counts them. An empty sentence stays a row.

    Raises ValueError for a max_length below 1, no rows, or a generation task.
    """
    positive("max_length", max_length)
    if not rows:
        raise LabError("No rows to encode: expected at least one.")
    if task.generates:
        raise LabError(
            f"Task {task.name!r} has texts to write: expected classes or numbers, which a head answers. Use "
            'generation.training.train_generator with a decoder (load_backbone(..., kind="generation")).'
        )
    columns = [[row[column] for row in rows] for column in task.text]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    names = [name for name in encoded if name in tokenizer.model_input_names]
    examples = []
    for n, row in enumerate(rows):
        example = {name: torch.tensor(encoded[name][n], dtype=torch.long) for name in names}
        if not len(example["input_ids"]):
            example = _single_token(names, tokenizer)
        if task.label in row:
            example["labels"] = torch.tensor(row[task.label])
        examples.append(example)
    _warn_of_cuts(examples, columns, tokenizer, max_length)
    return examples


def _single_token(names: Sequence[str], tokenizer: Any) -> Example:
    # GPT-2's tokenizer answers an empty sentence with no token at all, and no model takes an empty sequence.
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.pad_token_id or 0
    values = {"input_ids": token, "attention_mask": 1}
    return {name: torch.tensor([values.get(name, 0)]) for name in names}


def _warn_of_cuts(examples: Sequence[Example], columns: list[list[str]], tokenizer: Any, max_length: int) -> None:
    full = [n for n, example in enumerate(examples) if length(example) >= max_length]
    if not full:
        return
    whole = tokenizer(*[[column[n] for n in full] for column in columns], verbose=False)["input_ids"]
    cut = [len(ids) for ids in whole if len(ids) > max_length]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(examples)} rows are longer than max_length = {max_length} tokens (the longest has "
            f"{max(cut)}) and were cut. Raise max_length if their ends matter.",
            TextsCut,
            stacklevel=3,
        )


def check_labels(mixture: MixtureModel, task: Task) -> None:
    """Refuses a head that does not answer the task's classes. Raises ValueError."""
    if task.generates:
        return  # there are no classes; `encode` says what to do
    if predicts_next(mixture.model):
        raise LabError(
            f"Task {task.name!r} has classes, but {type(mixture.model).__name__} predicts the next token: expected a "
            'classification head. Load the model with kind="classification", or give train an encoder of your own.'
        )
    answers = getattr(mixture.model, "num_labels", None) if mixture.head_paths else None
    if answers is not None and answers != task.num_labels:
        raise LabError(
            f"The model's head answers {answers} labels: expected {task.num_labels} for task {task.name!r}. Load the "
            f"backbone with num_labels={task.num_labels}, or add_task(name, num_labels={task.num_labels})."
        )


def length(example: Example) -> int:
    """T, the example's number of tokens."""
    return len(example["attention_mask"] if "attention_mask" in example else example["input_ids"])


def collate(examples: Sequence[Example], pad: int = 0, multiple: int = 1) -> Batch:
    """A batch of examples, every key padded on the right: `[B, T]`, and `inputs_embeds` `[B, T, d]`.

    Args:
        examples: with equal keys; labels are one number an example `[B]`, or one a token `[B, T]`.
        pad: the padding token's id; masks, types and states are padded with zeros, labels a token with -100.
        multiple: T is rounded up to a multiple of this (8 suits tensor cores).
    """
    fill = {"input_ids": pad, "labels": IGNORED}
    return {name: _padded([example[name] for example in examples], fill.get(name, 0), multiple) for name in examples[0]}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _padded(values: Sequence[Tensor], fill: int, multiple: int) -> Tensor:
    if values[0].dim() == 0:
        return torch.stack(list(values))
    padded = torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=fill)
    more = -padded.shape[1] % multiple
    return padded if not more else torch.cat([padded, padded.new_full((len(values), more, *padded.shape[2:]), fill)], 1)


class Batches:
    """Index lists of length-bucketed batches, in an order that depends on (seed, epoch) and on nothing else.

    Works as a PyTorch batch sampler, too: iterating gives the epoch last set. The last batch may be smaller.
    """

    drop_last = False  # accelerate asks for it when it shards a batch sampler

    def __init__(self, examples: Sequence[Example], batch_size: int, seed: int = 0, bucket: int = BUCKET) -> None:
        positive("batch_size", batch_size)
        positive("bucket", bucket)
        self.bucket = bucket
        self.lengths = [length(example) for example in examples]
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = 0
        self._order: tuple[int, list[list[int]]] = (-1, [])

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch, as indices into the examples."""
        generator = generator_for(self.seed, number)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), self.batch_size * self.bucket):
            bucket = sorted(order[start : start + self.batch_size * self.bucket], key=self.lengths.__getitem__)
            batches += [bucket[n : n + self.batch_size] for n in range(0, len(bucket), self.batch_size)]
        return [batches[n] for n in torch.randperm(len(batches), generator=generator).tolist()]

    def at(self, step: int) -> list[int]:
        """The batch of an optimiser step counted from 0: any step, without replaying those before it."""
        number, n = divmod(step, len(self))
        if self._order[0] != number:
            self._order = number, self.epoch(number)
        return self._order[1][n]

    def set_epoch(self, number: int) -> None:
        """Chooses the epoch that iterating gives."""
        self._epoch = number

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.epoch(self._epoch))


def sequential(
    examples: Sequence[Example], batch_size: int, pad: int = 0, multiple: int = 1
) -> Iterator[tuple[list[int], Batch]]:
    """Batches for evaluation, longest first, each with its examples' original indices, so results go back in order.

    (Longest first: a batch that does not fit into memory fails at once.)
    """
    positive("batch_size", batch_size)
    order = sorted(range(len(examples)), key=lambda n: -length(examples[n]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield indices, collate([examples[n] for n in indices], pad, multiple)
