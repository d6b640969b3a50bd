"""A linear probe: what the frozen backbone knows before anything is adapted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.tasks.batches import encode, sequential
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.evaluation import Evaluation, judge

POOLINGS = ("mean", "first")


@torch.no_grad()
def features(
    model: nn.Module, task: Task, tokenizer: Any, rows: Any, pooling: str = "mean", max_length: int = 128
) -> tuple[Tensor, Tensor]:
    """(`[rows, d]`, labels `[rows]`): the frozen last hidden states, averaged over tokens or of the first token."""
    examples = encode(rows, task, tokenizer, max_length)
    base = model.base_model
    out: list[Tensor] = [torch.empty(0)] * len(examples)
    for indices, batch in sequential(examples, 64, tokenizer.pad_token_id or 0):
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        states = base(**inputs).last_hidden_state  # type: ignore[operator]
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled = (states * mask).sum(1) / mask.sum(1) if pooling == "mean" else states[:, 0]
        for index, row in zip(indices, pooled, strict=True):
            out[index] = row
    return torch.stack(out), torch.stack([example["labels"] for example in examples])


def linear_probe(
    model: nn.Module, task: Task, tokenizer: Any, pooling: str = "mean", max_length: int = 128
) -> Evaluation:
    """Logistic regression (scikit-learn's default, C = 1) on the frozen features of a model in evaluation mode.

    A regression task takes ridge regression (scikit-learn's default, alpha = 1).
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    x, y = features(model, task, tokenizer, task.train, pooling, max_length)
    x_test, gold = features(model, task, tokenizer, task.evaluation, pooling, max_length)
    if task.regression:
        answers = torch.tensor(Ridge().fit(x.numpy(), y.numpy()).predict(x_test.numpy()))[:, None]
    else:
        classifier = LogisticRegression(max_iter=2000).fit(x.numpy(), y.numpy())
        answers = torch.tensor(classifier.predict_log_proba(x_test.numpy()))
    return judge("linear probe", 1, answers.float(), gold, task.metrics)
