"""The analyses of shipped or saved experts that pictures show: landscapes, estimates, stages of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adamix_lab.batches import encode, sequential
from adamix_lab.tasks import Task
from adamix_lab.views import Batch


def task_batches(task: Task, tokenizer: Any, rows: int | None = None, batch_size: int = 64) -> list[Batch]:
    """The first rows of a task's evaluation set as fixed batches with labels.

    Raises ValueError for an empty evaluation set, or a regression.
    """
    if task.regression:
        raise ValueError(f"Task {task.name!r} is a regression: expected classes.")
    if not task.evaluation:
        raise ValueError(f"The evaluation set of {task.name!r} is empty: expected at least one row.")
    examples = encode(task.evaluation[:rows], task, tokenizer)
    return [batch for _, batch in sequential(examples, batch_size, tokenizer.pad_token_id or 0)]
