"""A linear probe: what the frozen backbone knows before anything is adapted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.errors import LabError, one_of
from adamix_lab.tasks.batches import allowed_length, encode, padding_of, sequential
from adamix_lab.tasks.tasks import Task, hold_out
from adamix_lab.training.evaluation import Evaluation, judge

PENALTIES = tuple(10.0**n for n in range(-5, 3))  # C of a probe, from strong to weak


@torch.no_grad()
def features(
    model: nn.Module, task: Task, tokenizer: Any, rows: Any, max_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(`[rows, d]`, labels `[rows]`): the frozen last hidden states, averaged over tokens."""
    from adamix_lab.tasks.pooling import mean_of_tokens

    examples = encode(rows, task, tokenizer, allowed_length(max_length, model, tokenizer))
    base = model.base_model
    out: list[Tensor] = [torch.empty(0)] * len(examples)
    for indices, batch in sequential(examples, 64, padding_of(tokenizer)):
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        states = base(**inputs).last_hidden_state  # type: ignore[operator]
        pooled = mean_of_tokens(states, batch["attention_mask"])
        for index, row in zip(indices, pooled, strict=True):
            out[index] = row
    return torch.stack(out), torch.stack([example["labels"] for example in examples])


def linear_probe(
    model: nn.Module, task: Task, tokenizer: Any, max_length: int | None = None, oracle: bool = False
) -> Evaluation:
    """The tuned probe: regularised logistic regression on standardised frozen features of a model in evaluation mode.

    Features are means over tokens; `choose_c` chooses C on a slice of the training rows. A regression task takes ridge
    regression with alpha 1 / C.

    oracle: C is chosen by the rows' true labels, where some were made wrong. Raises ValueError for other kinds of
    tasks, and where a class has no row.
    """
    one_of("Kind of task for a linear probe", str(task.kind), ("classes", "numbers"))
    x, y = features(model, task, tokenizer, task.train, max_length=max_length)
    x_test, gold = features(model, task, tokenizer, task.evaluation, max_length=max_length)
    if not task.regression and (missing := set(range(len(task.classes))) - set(y.tolist())):
        name = task.classes[min(missing)]
        raise LabError(f"Class {name!r} of {task.name!r} has no training row: expected one at least. Take more rows.")
    true = torch.tensor([row["true_label"] for row in task.train]) if oracle else None
    answers = _probed(x, y, x_test, choose_c(x, y, task.regression, true), task.regression)
    return judge("linear probe", 1, answers, gold, task.metrics, task.kind)


def choose_c(x: Tensor, y: Tensor, regression: bool = False, true: Tensor | None = None) -> float:
    """The C with the smallest loss on a fifth of the rows, fitted on the rest; 1 where there are too few to hold out.

    x: `[rows, d]`. y: class numbers or numbers, `[rows]`, wrong ones included. true: what the rows held out are judged
    by instead (an oracle).
    """
    asked = y if true is None else true
    rows = [{"n": n, "label": 0.0 if regression else int(label)} for n, label in enumerate(y.tolist())]
    kept, dev = ([row["n"] for row in part] for part in hold_out(rows, 0.2, 0))
    if not dev:
        return 1.0

    def loss(c: float) -> float:
        answers = _probed(x[kept], y[kept], x[dev], c, regression)
        return judge("", 1, answers, asked[dev], (), "numbers" if regression else "classes").loss

    return min(PENALTIES, key=loss)


def _probed(x: Tensor, y: Tensor, asked: Tensor, c: float, regression: bool) -> Tensor:
    """Log-probabilities `[asked, C]`, or numbers `[asked, 1]`, of the probe on x, y."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    last = Ridge(1 / c) if regression else LogisticRegression(C=c, max_iter=2000)
    model = make_pipeline(StandardScaler(), last).fit(x.numpy(), y.numpy())
    if regression:
        return torch.tensor(model.predict(asked.numpy())).float().reshape(len(asked), -1)
    scores = torch.tensor(model.decision_function(asked.numpy())).reshape(len(asked), -1)  # one number for two classes
    scores = torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores
    return scores.log_softmax(-1).float()
