"""Looking at a trained mixture: strategies side by side on a task, and predictions for sentences.

A strategy (Table 7: merged, fixed, random, ensemble) is a function of a model and a batch that gives log-probabilities
`[B, C]`, or the numbers `[B, 1]` of a regression; `STRATEGIES` (`core/errors.py`) names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from adamix_lab.core.errors import STRATEGIES, LabError, one_of
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.objective import IGNORED, check_label_range, without_labels
from adamix_lab.core.routing import generator_for
from adamix_lab.core.sites import Kind, answer_kind, class_names
from adamix_lab.core.views import Batch, logits_of, one_view
from adamix_lab.fast.blocks import cut_last_block, plan_blocks, shared_prefix
from adamix_lab.fast.prefix import cached_prefix, may_cache
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.batches import (
    Encoder,
    allowed_length,
    check_answers,
    check_labels,
    collate,
    encode,
    labelled,
    padding_of,
    sequential,
    to_device,
    tokenized,
)
from adamix_lab.tasks.labels import text_columns
from adamix_lab.tasks.metrics import score
from adamix_lab.tasks.rows import table_part
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.display import Evaluations

IndexedBatch = tuple[list[int], Batch]
Strategy = Callable[[MixtureModel, Batch, Generator], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """One strategy's result on a task.

    Attributes:
        accuracy: share of right answers, of each label where several may hold; nan for a regression.
        loss: mean negative log-likelihood in nats; the mean squared error of a regression.
        passes: forward passes an answer takes.
        log_probabilities: `[rows, C]`, in the order of the task's evaluation rows (a class a token: of their labelled
            tokens); a regression's numbers `[rows, C]`.
        labels: `[rows]`; of several labels or numbers `[rows, C]`.
        metrics: the task's metrics by name, its own first.
        kind: what is answered (`adamix_lab.core.sites.Kind`).
    """

    strategy: str
    accuracy: float
    loss: float
    passes: int
    log_probabilities: Tensor
    labels: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)
    kind: Kind = "classes"

    @property
    def predictions(self) -> Tensor:
        """Class numbers, or a regression's numbers, `[rows]`; `[rows, C]` of several labels (0 or 1) or numbers."""
        return predictions_of(self.log_probabilities, self.kind)

    @property
    def right(self) -> Tensor:
        """Whether each row is answered rightly, `[rows]`; of several labels all of them."""
        same = self.predictions == self.labels
        return same.all(-1) if same.dim() == 2 else same

    @property
    def main_metrics(self) -> dict[str, float]:
        """The metrics that a table shows: the task's own, or the accuracy where none are named."""
        return dict(self.metrics) or {"accuracy": self.accuracy}

    def row(self) -> dict[str, Any]:
        """The figures, for a table."""
        accuracy = {} if math.isnan(self.accuracy) else {"accuracy": self.accuracy}
        return {"strategy": self.strategy, **accuracy, **self.metrics, "loss": self.loss, "passes": self.passes}


def judge(
    strategy: str, passes: int, answers: Tensor, labels: Tensor, metrics: Sequence[str] = (), kind: Kind | None = None
) -> Evaluation:
    """The evaluation of log-probabilities `[rows, C]`, or of a regression's numbers `[rows, C]`.

    kind: what is answered; None takes classes, and one number where C is 1.
    """
    kind = kind or ("numbers" if answers.shape[-1] == 1 else "classes")
    predictions = predictions_of(answers, kind)
    values = score(metrics, predictions, labels, 2 if kind == "labels" else answers.shape[-1])
    accuracy = math.nan if kind == "numbers" else float((predictions == labels).double().mean())
    if kind == "numbers":
        loss = F.mse_loss(predictions, labels.float())
    elif kind == "labels":
        loss = F.binary_cross_entropy(answers.double().exp(), labels.double())
    else:
        check_label_range(labels, answers.shape[-1])
        loss = F.nll_loss(answers, labels)
    return Evaluation(strategy, accuracy, float(loss), passes, answers, labels, values, kind)


def predictions_of(answers: Tensor, kind: Kind = "classes") -> Tensor:
    """Class numbers `[rows]` of log-probabilities `[rows, C]`; 0 or 1 for each of several labels; numbers as they are.

    One number a row is `[rows]`.
    """
    if kind == "numbers":
        return answers.squeeze(-1)
    return (answers > math.log(0.5)).long() if kind == "labels" else answers.argmax(-1)


def evaluate(
    mixture: MixtureModel,
    task: Task,
    tokenizer: Any,
    strategies: Sequence[str] = ("merged",),
    seed: int = 0,
    batch_size: int = 64,
    max_length: int | None = None,
    encoder: Encoder = encode,
) -> Evaluations:
    """Strategies side by side on the task's evaluation rows, the same batches for each, in evaluation mode.

    What lies below the first adapted block is computed once for all of them where the model allows it.

    max_length: tokens a row; None takes 128, or the model's positions if it has fewer. Longer rows are cut.
    encoder: what turns rows into examples, as in `train`.

    Raises ValueError for an unknown strategy (near misses are named), a head that does not fit the task, and a
    max_length above the model's positions.

    >>> [result.strategy for result in evaluate(mixture, task, tokenizer, ["merged", "random"])]
    ['merged', 'random']
    """
    for name in strategies:
        one_of("Strategy", name, STRATEGIES)
    check_labels(mixture, task, encoder)
    if encoder is encode:
        check_answers(mixture, task)
    longest = allowed_length(max_length, mixture.model, tokenizer)
    examples = labelled(encoder(task.evaluation, task, tokenizer, longest), task)
    device, pad = next(mixture.parameters()).device, padding_of(tokenizer, mixture.model)
    batches = [(rows, to_device(batch, device)) for rows, batch in sequential(examples, batch_size, pad)]
    with evaluating(mixture):
        if len(strategies) > 1:
            mixture, cache = try_cached_prefix(mixture)
            batches = [(rows, cache(batch)) for rows, batch in batches]
        return Evaluations(evaluate_batches(mixture, batches, name, seed, task.metrics) for name in strategies)


def evaluate_batches(
    mixture: MixtureModel,
    batches: Sequence[IndexedBatch],
    strategy: str,
    seed: int = 0,
    metrics: Sequence[str] = (),
    own: tuple[Strategy, int] | None = None,
) -> Evaluation:
    """One strategy on batches with labels, each given with its rows' original numbers.

    own: another strategy than those of the table, and its passes; `strategy` is then its name.
    """
    function, passes = own or (partial(answer_by, strategy), passes_of(strategy))
    kind = answer_kind(mixture.model)
    answers, labels, order = [], [], []
    with torch.no_grad(), evaluating(mixture):
        for n, (rows, batch) in enumerate(batches):
            inputs = without_labels(mixture.model, batch)
            # A route a token needs every token at every site: then nothing is cut, nor where it is not known.
            with nullcontext() if own or strategy == "random-token" else cut_last_block(mixture.model, inputs):
                answer = function(mixture, inputs, generator_for(seed, n)).float().cpu()
            given, numbers = batch["labels"].cpu(), torch.tensor(rows)
            if answer.dim() == 3:  # a label a token: those that are padding, or are not labelled, do not count
                counted = given != IGNORED
                answer, given, numbers = answer[counted], given[counted], numbers.repeat_interleave(counted.sum(1))
            answers.append(answer)
            labels.append(given)
            order.append(numbers)
    back = torch.cat(order).argsort(stable=True)
    return judge(strategy, passes, torch.cat(answers)[back], torch.cat(labels)[back], metrics, kind)


class Predictions(Tensor):
    """Probabilities `[texts, C]`, or numbers `[texts, C]`, that know their names; printed, it shows the answers.

    It is a tensor, as it always was, so that probabilities are computed with as they are; like `nn.Parameter`, what is
    computed of it is a plain tensor.

    Attributes:
        names: of the columns; their numbers where the model's configuration has none.
        labels: the answer to each text: a class's name, the names of the labels that hold, or a number (or several).
    """

    names: tuple[str, ...]
    labels: list[Any]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[attr-defined,assignment]

    def __repr__(self) -> str:  # type: ignore[override]
        return "\n".join(self.said())

    def said(self) -> list[str]:
        """A line for each text: its class and the probability, the labels that hold, or its numbers."""
        width = max(len(_said(label)) for label in self.labels)
        best = [f"  {100 * max(row):5.1f} %" for row in self.tolist()]
        return [
            f"{_said(label):>{width}}{share if isinstance(label, str) else ''}"
            for label, share in zip(self.labels, best, strict=True)
        ]

    def __deepcopy__(self, memo: dict[int, Any]) -> Predictions:
        return _named(self.as_subclass(Tensor).clone(), self.names, self.labels)


def predict(
    mixture: MixtureModel,
    tokenizer: Any,
    texts: Any,
    strategy: str = "merged",
    seed: int = 0,
    batch_size: int = 64,
    max_length: int | None = None,
    text: str | Sequence[str] | None = None,
) -> Predictions:
    """What the model answers: `labels` names it, and the result itself is the tensor of probabilities `[texts, C]`.

    Of a regression, the tensor of numbers.

    Args:
        mixture, tokenizer: as trained.
        texts: one sentence, a list of sentences, a list of pairs of sentences; or a pandas frame, a `datasets.Dataset`,
            or a list of dicts, one a row.
        strategy: a name in `STRATEGIES`.
        seed: of random routes.
        batch_size: in texts.
        max_length: tokens a text; None takes 128, or the model's positions if it has fewer. Longer texts are cut: one
            warning counts them.
        text: the column, or two, of a frame or of dicts; None looks for the usual names.

    Raises ValueError for an empty list, an unknown strategy, what is no sentence, and a max_length above the positions.

    >>> predict(mixture, tokenizer, ["w1 w2", "w3"]).shape  # two texts, three classes
    torch.Size([2, 3])
    """
    if not isinstance(texts, Iterable):
        raise LabError(
            f"texts of type {type(texts).__name__}: expected a sentence, or a list of sentences or pairs. "
            "The order is predict(mixture, tokenizer, texts)."
        )
    pairs = _pairs(texts, text)
    device, pad = next(mixture.parameters()).device, padding_of(tokenizer, mixture.model)
    kind, answers = answer_kind(mixture.model), []
    if kind in ("tokens", "spans", "texts"):
        raise LabError(f"The model answers with {kind}: expected classes, labels or numbers. Call the model itself.")
    columns, longest = [list(c) for c in zip(*pairs, strict=True)], allowed_length(max_length, mixture.model, tokenizer)
    examples = tokenized(columns, tokenizer, longest)
    with torch.no_grad(), evaluating(mixture):
        for start in range(0, len(pairs), batch_size):
            batch = collate(examples[start : start + batch_size], pad)
            answers.append(answer_by(strategy, mixture, to_device(batch, device), generator_for(seed, start)).cpu())
    found = torch.cat(answers)
    names = class_names(mixture.model) or tuple(map(str, range(found.shape[-1])))
    given = predictions_of(found, kind).tolist()
    if kind == "classes":
        labels = [names[n] for n in given]
    elif kind == "labels":
        labels = [tuple(name for name, holds in zip(names, row, strict=True) if holds) for row in given]
    else:
        labels = given
    return _named(found if kind == "numbers" else found.exp(), names, labels)


def _named(values: Tensor, names: tuple[str, ...], labels: list[Any]) -> Predictions:
    made = values.as_subclass(Predictions)
    made.names, made.labels = names, labels
    return made


def _said(label: Any) -> str:
    if isinstance(label, str):
        return label
    if isinstance(label, float):
        return f"{label:.3f}"
    return ", ".join(map(_said, label)) or "none"


def _pairs(texts: Any, text: str | Sequence[str] | None) -> list[tuple[str, ...]]:
    """Sentences `(a,)` or pairs `(a, b)`, of whatever holds them."""
    if isinstance(texts, tuple) and all(isinstance(one, str) for one in texts):
        raise LabError(f"texts = {texts!r}: expected a list, of sentences, or [(first, second)] for a pair.")
    table = hasattr(texts, "columns") or hasattr(texts, "features")
    texts = [texts] if isinstance(texts, str | Mapping) else texts if table else list(texts)
    if table or (texts and isinstance(texts[0], Mapping)):
        rows = table_part(texts, "the texts given", "rows").rows
        columns = text_columns(rows[0], "The table given", text)
        texts = [tuple(row.get(column) for column in columns) for row in rows]
    pairs = [tuple(one) if isinstance(one, tuple | list) else (one,) for one in texts]
    if not pairs:
        raise LabError(f"texts = {texts!r}: expected a sentence, or a list of sentences or pairs, at least one.")
    for n, pair in enumerate(pairs, start=1):
        if len(pair) != len(pairs[0]) or len(pair) > 2 or not all(isinstance(part, str) for part in pair):
            raise LabError(f"Text {n}, {str(pair)[:60]}, does not fit: expected strings, all sentences or all pairs.")
    return pairs


def try_cached_prefix(mixture: MixtureModel) -> tuple[MixtureModel, Callable[[Batch], Batch]]:
    """(what lies above the frozen prefix, what readies a batch for it); where it cannot be cached, all is as it was."""
    plan = plan_blocks(mixture)
    if plan is None or plan.first == 0 or not may_cache(mixture).permitted:
        return mixture, lambda batch: batch
    top, cache = cached_prefix(mixture)
    return top.eval(), cache


# -- strategies --------------------------------------------------------------------------------------------


def answers(mixture: MixtureModel, logits: Tensor) -> Tensor:
    """Log-probabilities `[..., C]`, of several labels each its own; a regression's numbers stay as they are."""
    kind = answer_kind(mixture.model)
    if kind == "numbers":
        return logits
    return F.logsigmoid(logits) if kind == "labels" else logits.log_softmax(-1)


def answer_by(strategy: str, mixture: MixtureModel, batch: Batch, generator: Generator) -> Tensor:
    """What the strategy of a name in `STRATEGIES` answers. Raises ValueError for another name."""
    one_of("Strategy", strategy, STRATEGIES)
    kind, _, detail = strategy.partition("-")
    space, count = mixture.space, passes_of(strategy)
    if kind == "merged":  # averaged weights (Eq. 6)
        return answers(mixture, logits_of(mixture(selection="merge", **batch)))
    if kind == "fixed":  # one expert everywhere
        return answers(mixture, logits_of(mixture(selection=space.fixed(int(detail or 0)), **batch)))
    if kind == "random":  # a route a batch, an example or a token (the reference's sentence and token level)
        states = batch.get("inputs_embeds", batch.get("input_ids", next(iter(batch.values()))))  # [B, T] or [B, T, d]
        lead = states.shape[: ("batch", "example", "token").index(detail or "batch")]
        return answers(mixture, one_view(mixture, batch, space.draw(generator, tuple(lead))))
    logits = shared_prefix(mixture, batch, space.draw(generator, (count,)))
    if detail == "probabilities" and answer_kind(mixture.model) != "numbers":  # averaged as in Eq. 7
        return answers(mixture, logits).logsumexp(0) - math.log(count)
    return answers(mixture, logits.mean(0))  # the paper's ensemble


def passes_of(strategy: str) -> int:
    """Forward passes that an answer takes."""
    return 4 if strategy.startswith("ensemble") else 1
