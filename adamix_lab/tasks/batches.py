"""From rows to batches: tokenised once, bucketed by length, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.objective import IGNORED, predicts_next, reads_labels
from adamix_lab.core.routing import generator_for
from adamix_lab.core.sites import PROBLEM_TYPES, answer_kind, class_names, count_answers
from adamix_lab.core.views import Batch
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.tasks import Task, text_of

Example = dict[str, Tensor]
Encoder = Callable[[Sequence[Mapping[str, Any]], Task, Any, int], list[Example]]

BUCKET = 32  # batches that are sorted by length together: less padding, and still a random order
TOKENS = 128  # where nobody says otherwise
CACHED = 512 * 10**6  # bytes that several cached passes may take
_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")  # names of tables of positions


class Padding(NamedTuple):
    """What fills up a batch: the padding token's id, its side, and its token type. `padding_of` reads a tokenizer's."""

    token: int = 0
    side: Literal["left", "right"] = "right"
    token_type: int = 0


ZEROS = Padding()  # where no tokenizer says otherwise


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
    columns = [[text_of(row, column, f"Row {n}") for n, row in enumerate(rows, start=1)] for column in task.text]
    examples = tokenized(columns, tokenizer, max_length)
    for example, row in zip(examples, rows, strict=True):
        if task.label in row:
            example["labels"] = label_tensor(row[task.label], task)
    return examples


def labelled(examples: list[Example], task: Task) -> list[Example]:
    """The examples. Raises ValueError where one has no labels."""
    if lacking := next((n for n, example in enumerate(examples, start=1) if "labels" not in example), None):
        expected = f"the column {task.label!r} in every row. Task(..., label=COLUMN) names another"
        raise LabError(f"Row {lacking} of task {task.name!r} has no label: expected {expected}.")
    return examples


def label_tensor(label: Any, task: Task) -> Tensor:
    """A row's label: a class number or a float; of several labels or numbers floats `[C]`.

    Raises ValueError where a row has not one of each, a label that is neither 0 nor 1, or one that is no number.
    """
    several = task.kind == "labels" or (task.kind == "numbers" and task.num_labels > 1)
    if not several and (task.kind != "numbers" or not isinstance(label, list | tuple)):
        if task.kind == "classes" and not isinstance(label, int):
            last = f"{task.num_labels - 1} (one a name of {', '.join(task.classes[:8])})"
            raise LabError(f"Label {label!r} of task {task.name!r}: expected a class number from 0 to {last}.")
        if task.kind == "numbers" and not (isinstance(label, int | float) and math.isfinite(label)):
            raise LabError(f"Label {label!r} of task {task.name!r}: expected a number. Leave out rows without one.")
        return torch.tensor(int(label) if isinstance(label, bool) else label)
    values = torch.tensor([float(value) for value in label] if isinstance(label, list | tuple) else [])
    if len(values) != task.num_labels or (task.kind == "labels" and not bool(((values == 0) | (values == 1)).all())):
        what = "0 or 1" if task.kind == "labels" else "a number"
        raise LabError(f"Label {label!r} of task {task.name!r}: expected {what} for each of {', '.join(task.classes)}.")
    return values


def tokenized(columns: Sequence[list[str]], tokenizer: Any, max_length: int) -> list[Example]:
    """One column of texts, or two of pairs, as examples without labels: `input_ids` `[T]` and so on, not padded.

    One warning, `TextsCut`, counts the texts that are longer than `max_length` tokens.
    """
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    names = [name for name in encoded if name in tokenizer.model_input_names]
    rows = [{name: torch.tensor(encoded[name][n], dtype=torch.long) for name in names} for n in range(len(columns[0]))]
    _warn_of_cuts(rows, columns, tokenizer, max_length)
    return [row if len(row["input_ids"]) else _single_token(names, tokenizer) for row in rows]


def _single_token(names: Sequence[str], tokenizer: Any) -> Example:
    # GPT-2's tokenizer answers an empty sentence with no token at all, and no model takes an empty sequence.
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.pad_token_id or 0
    values = {"input_ids": token, "attention_mask": 1}
    return {name: torch.tensor([values.get(name, 0)]) for name in names}


def _warn_of_cuts(examples: Sequence[Example], columns: Sequence[list[str]], tokenizer: Any, max_length: int) -> None:
    full = [n for n, example in enumerate(examples) if length(example) >= max_length]
    if not full:
        return
    whole = tokenizer(*[[column[n] for n in full] for column in columns], verbose=False)["input_ids"]
    cut = [len(ids) for ids in whole if len(ids) > max_length]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(examples)} rows are longer than max_length = {max_length} tokens (the longest has "
            f"{max(cut)}) and were cut. Raise max_length, as far as the model goes, if their ends matter.",
            TextsCut,
            stacklevel=4,
        )


def check_labels(mixture: MixtureModel, task: Task, encoder: Encoder = encode) -> None:
    """Refuses a head that does not answer the task's classes, as the encoder gives them to rows. Raises ValueError."""
    if task.generates:
        return  # there are no classes; `encode` says what to do
    if predicts_next(mixture.model):
        raise LabError(
            f"Task {task.name!r} has classes, but {type(mixture.model).__name__} predicts the next token: expected a "
            'classification head. Load the model with kind="classification", or give train an encoder of your own.'
        )
    kind = answer_kind(mixture.model)
    if kind == "spans":
        raise LabError(
            "The model marks spans, start and end: expected classes, numbers or tokens to be judged on. Give train an "
            "encoder of your own, whose labels are the two positions, and compare the model's own answers."
        )
    if kind == "tokens" and encoder is encode:
        raise LabError("The head answers every token: expected encoder=, a function that gives each token its label.")
    if kind in PROBLEM_TYPES and task.kind not in PROBLEM_TYPES:
        raise LabError(
            f"Task {task.name!r} asks for {task.kind}, but {type(mixture.model).__name__} answers with {kind}: "
            "expected a model with a head for them."
        )
    answers = count_answers(mixture.model) if mixture.head_paths else None
    if answers is not None and answers != task.num_labels:
        raise LabError(
            f"The model's head answers {answers} labels: expected {task.num_labels} for task {task.name!r}. Load the "
            f"backbone with num_labels={task.num_labels}, or add_task(name, num_labels={task.num_labels})."
        )


def check_answers(mixture: MixtureModel, task: Task) -> None:
    """Refuses a task of another kind, or of other classes, than the head was trained on. Raises ValueError.

    Names are not compared where those of one side are numbers.
    """
    kind, names, given = answer_kind(mixture.model), class_names(mixture.model), task.classes
    if kind in PROBLEM_TYPES and task.kind in PROBLEM_TYPES and kind != task.kind:
        raise LabError(
            f"Task {task.name!r} asks for {task.kind}, the head answers with {kind}: expected one kind. Train on the "
            f"task, or set model.config.problem_type = {PROBLEM_TYPES[task.kind]!r}."
        )
    numbered = [str(n) for n in range(len(given))]
    if not names or not mixture.head_paths or numbered in (list(names), list(given)):
        return
    if [name.casefold() for name in names] != [name.casefold() for name in given]:
        raise LabError(
            f"Task {task.name!r} has the classes {', '.join(given)}: expected {', '.join(names)}, in this order, as "
            "the head has them (model.config.id2label). Bring the task's names, and its rows' numbers, into that "
            "order, or train on it."
        )


def length(example: Example) -> int:
    """T, the example's number of tokens."""
    return len(example["attention_mask"] if "attention_mask" in example else example["input_ids"])


def padding_of(tokenizer: Any, model: nn.Module | None = None) -> Padding:
    """How the tokenizer pads; a mask hides token 0 where it has no padding token.

    Rows lie on the right, with a warning, where padding on the left would change what the model answers: its head reads
    the first place, or its positions count padding.

    model: a model whose head may look for padding; asked where its configuration names another padding token. Raises
    ValueError where the head then reads padding (decoders' classifiers, which answer at the last token that is none).
    """
    token = getattr(tokenizer, "pad_token_id", None)
    side: Any = getattr(tokenizer, "padding_side", "right")
    kind = getattr(tokenizer, "pad_token_type_id", 0)
    pad = Padding(0 if token is None else token, side, kind)
    config = getattr(model, "config", None)
    expected = getattr(config, "pad_token_id", None)
    if side == "left" and model is not None and _reads_padding(model, pad, expected):
        warnings.warn(
            f"Rows are padded on the right: {type(model).__name__} would answer otherwise with padding on the left, as "
            f"padding_side = {side!r} of the tokenizer asks.",
            stacklevel=2,
        )
        pad = pad._replace(side="right")
    if model is not None and config is not None and expected != pad.token and _reads_padding(model, pad, expected):
        raise LabError(
            f"The head of {type(model).__name__} reads the last token that is not padding, and its configuration has "
            f"pad_token_id = {expected}: expected the tokenizer's, {token}. Set model.config.pad_token_id = "
            "tokenizer.pad_token_id (after tokenizer.pad_token = tokenizer.eos_token where the tokenizer has none)."
        )
    return pad


@torch.no_grad()
def _reads_padding(model: nn.Module, pad: Padding, expected: int | None) -> bool:
    # Whether two tokens are answered otherwise with padding beside them: a head reads it, or positions count it.
    from adamix_lab.core.merging import REORDERED, relative_difference

    if predicts_next(model) or reads_labels(model) or not hasattr(model, "num_labels"):
        return False
    device = next(model.parameters()).device
    tokens = [token for token in range(4) if token not in (pad.token, expected)][:2]
    alone = torch.tensor([tokens], device=device)
    left = pad.side == "left"
    padded = torch.tensor([[pad.token, *tokens] if left else [*tokens, pad.token]], device=device)
    try:
        with evaluating(model):
            first = model(input_ids=alone, attention_mask=torch.ones_like(alone)).logits
            mask = padded.new_tensor([[0, 1, 1] if left else [1, 1, 0]])
            second = model(input_ids=padded, attention_mask=mask).logits
    except Exception:  # it takes, or gives, something else: a prompt's model wants a mask, say
        return False
    if left and second.dim() == 3:
        second = second[:, 1:]
    return first.shape == second.shape and relative_difference(second, first) > REORDERED[first.dtype]


def collate(examples: Sequence[Example], pad: Padding = ZEROS) -> Batch:
    """A batch of examples, every key padded on one side: `[B, T]`, and `inputs_embeds` `[B, T, d]`.

    Args:
        examples: with equal keys; labels are one number an example `[B]`, or one a token `[B, T]`.
        pad: of the tokenizer; masks and states are padded with zeros, labels a token with -100.
    """
    fill = {"input_ids": pad.token, "token_type_ids": pad.token_type, "labels": IGNORED}
    return {name: _padded([one[name] for one in examples], fill.get(name, 0), pad.side) for name in examples[0]}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _padded(values: list[Tensor], fill: int, side: str) -> Tensor:
    if values[0].dim() == 0:
        return torch.stack(values)
    return nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill, padding_side=side)


class Batches:
    """Index lists of length-bucketed batches, in an order that depends on (seed, epoch) and on nothing else.

    The last batch may be smaller. Where each row stands in `examples` several times, pass behind pass
    (`cache_passes`), step s takes the rows of pass s mod `passes`.
    """

    def __init__(
        self, examples: Sequence[Example], batch_size: int, seed: int = 0, bucket: int = BUCKET, passes: int = 1
    ) -> None:
        positive("batch_size", batch_size)
        positive("bucket", bucket)
        if len(examples) % passes:
            raise LabError(f"{len(examples)} examples in {passes} passes: expected as many in each. See cache_passes.")
        self.bucket, self.passes = bucket, passes
        self.lengths = [length(example) for example in examples[: len(examples) // passes]]
        self.batch_size = batch_size
        self.seed = seed
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
        return [step % self.passes * len(self.lengths) + row for row in self._order[1][n]]

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)


def sequential(examples: Sequence[Example], batch_size: int, pad: Padding = ZEROS) -> Iterator[tuple[list[int], Batch]]:
    """Batches for evaluation, longest first, each with its examples' original indices, so results go back in order.

    (Longest first: a batch that does not fit into memory fails at once.)
    """
    positive("batch_size", batch_size)
    order = sorted(range(len(examples)), key=lambda n: -length(examples[n]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield indices, collate([examples[n] for n in indices], pad)


def cache_examples(examples: list[Example], cache: Any, device: torch.device, pad: Padding) -> list[Example]:
    """The examples with the states `[T, d]` that enter the first adapted block in the place of their tokens."""
    kept: list[Example] = [{} for _ in examples]
    for indices, batch in sequential(examples, 64, pad):
        states = cache(to_device(batch, device))["inputs_embeds"].cpu()
        for n, state in zip(indices, states, strict=True):
            rest = {name: value for name, value in examples[n].items() if name in ("attention_mask", "labels")}
            tokens = length(examples[n])
            state = state[-tokens:] if pad.side == "left" else state[:tokens]
            kept[n] = {"inputs_embeds": state.clone(), **rest}
    return kept


def cache_passes(examples: list[Example], cache: Any, device: torch.device, pad: Padding, passes: int) -> list[Example]:
    """The examples behind the frozen prefix with dropout, `passes` times one after another, each with masks of its own.

    Raises ValueError where they take more than 512 MB.
    """
    kept: list[Example] = []
    for _ in range(passes):
        kept += cache_examples(examples, partial(cache, dropout=True), device, pad)
        size = sum(example["inputs_embeds"].nbytes for example in kept[: len(examples)])
        if passes * size > CACHED:
            raise LabError(
                f"cached_passes = {passes} of {size / 1e6:.0f} MB each: expected {CACHED // 10**6} MB together. "
                f"Take {max(1, CACHED // size)} or fewer, fewer rows or a lower max_length, or cache_prefix = False."
            )
    return kept


# -- how long a row may be: the positions that a model has, and what a caller asks for ---------------------------


def positions(model: nn.Module) -> int | None:
    """The longest sequence that the model takes; None where nothing limits it (relative positions).

    A table of positions counts as it is used: RoBERTa's begins behind the padding's place, BART's at an offset. Without
    a table (rotary positions) it is the length that the configuration names.
    """
    config = getattr(model, "config", None)
    config = getattr(config, "get_text_config", lambda: config)()
    limits, both = [], getattr(config, "is_encoder_decoder", False)  # of which a text enters the encoder
    for path, module in model.named_modules():
        read = path.rpartition(".")[2] in _TABLES and "vision" not in path
        if read and hasattr(module, "num_embeddings") and not (both and ".decoder." in f".{path}"):
            before = -1 if getattr(module, "padding_idx", None) is None else module.padding_idx
            limits.append(module.num_embeddings - before - 1 - getattr(module, "offset", 0))
    named = getattr(config, "max_position_embeddings", None) or 0
    if named > 0 and (limits or not getattr(config, "relative_attention", False)):  # DeBERTa-v3's number is no limit
        limits.append(named)
    virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    return min(limits) - virtual if limits else None


def allowed_length(max_length: int | None, model: nn.Module, tokenizer: Any) -> int:
    """Tokens a row, to which `encode` cuts: as asked for; None takes 128, or what model and tokenizer take if less.

    Raises ValueError where more is asked for than the model has positions.
    """
    most = positions(model)
    if max_length is None:
        return min(TOKENS, most or TOKENS, getattr(tokenizer, "model_max_length", None) or TOKENS)
    positive("max_length", max_length)
    if most is not None and max_length > most:
        raise LabError(
            f"max_length = {max_length}: expected at most {most}, the positions of {type(model).__name__}. Lower it "
            "or leave it out: longer texts are cut."
        )
    return max_length
