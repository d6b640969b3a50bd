"""Rows that models answer apart, and wrong labels that they learned by heart: from answers to the same rows.

What a model answers to its own training rows is an evaluation of the task judged on these:

    on_train = replace(task, evaluation=task.train)
    answers = {name: evaluate(model, on_train, tokenizer)[0].log_probabilities for name, model in models.items()}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adamix_lab.core.errors import LabError
from adamix_lab.tasks.tasks import Row, Task

if TYPE_CHECKING:
    from pandas import DataFrame

Answers = Mapping[str, Tensor]


def answered(answers: Answers, task: Task, rows: Sequence[Row]) -> DataFrame:
    """A line a row: `row`, `text`, `given` (its label), `true` (before labels were made wrong), each model's answer.

    An answer stands under its model's name; labels and answers are class names.

    answers: log-probabilities `[rows, C]` of each model by its name, in the order of the rows.

    Raises ValueError for a task without classes, and for answers to other rows than these.
    """
    import pandas as pd

    if task.kind != "classes":
        raise LabError(f"Task {task.name!r} asks for {task.kind}: expected classes, which are right or wrong.")
    columns: dict[str, list[object]] = {
        "row": list(range(len(rows))),
        "text": [" | ".join(str(row[column]) for column in task.text) for row in rows],
        "given": [task.classes[row[task.label]] for row in rows],
        "true": [task.classes[true_label(row, task)] for row in rows],
    }
    for name, log_p in answers.items():
        if log_p.shape != (len(rows), len(task.classes)) or name in columns:
            raise LabError(
                f"{name!r} answers {list(log_p.shape)}: expected [{len(rows)}, {len(task.classes)}], a row each, under "
                f"another name than {', '.join(columns)}."
            )
        columns[name] = [task.classes[n] for n in log_p.argmax(-1).tolist()]
    return pd.DataFrame(columns)


def true_label(row: Row, task: Task) -> int:
    """The class number that a row had before labels were made wrong."""
    return int(row["true_label"] if "true_label" in row else row[task.label])


def disagreements(answers: Answers, task: Task, rows: Sequence[Row]) -> DataFrame:
    """The lines of `answered` in which two models differ, those first that are surest of what they say.

    Raises ValueError as `answered`, and for more or fewer than two models.
    """
    if len(answers) != 2:
        raise LabError(f"{len(answers)} models ({', '.join(answers)}): expected two. Compare them pair by pair.")
    table = answered(answers, task, rows)
    first, second = answers
    sure = torch.stack([log_p.exp().amax(-1) for log_p in answers.values()]).sum(0)
    table = table.assign(sure=sure.tolist()).sort_values("sure", ascending=False, kind="stable")
    return table[table[first] != table[second]].drop(columns="sure").reset_index(drop=True)


def by_heart(answers: Answers, task: Task, rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """Of each model how many wrong labels it repeats, and how many it sets right; raises ValueError as `answered`."""
    table = answered(answers, task, rows)
    wrong = table[table["given"] != table["true"]]
    return {
        name: (int((wrong[name] == wrong["given"]).sum()), int((wrong[name] == wrong["true"]).sum()))
        for name in answers
    }


def describe_mistakes(answers: Answers, task: Task, rows: Sequence[Row], most: int = 3, width: int = 90) -> str:
    """Which wrong labels two models learned by heart: counts, and the surest examples that tell the two apart."""
    counts, table = by_heart(answers, task, rows), disagreements(answers, task, rows)
    wrong = sum(true_label(row, task) != row[task.label] for row in rows)
    parts = [f"{name} repeats {repeated} and sets {right} right" for name, (repeated, right) in counts.items()]
    lines = [f"{wrong} of {len(rows)} labels are wrong: {', '.join(parts)}."]
    for _, row in table[table["given"] != table["true"]].head(most).iterrows():
        text = row["text"] if len(row["text"]) <= width else row["text"][: width - 3].rstrip() + "..."
        said = ", ".join(f"{name} says {row[name]}" for name in answers)
        lines.append(f'  "{text}" (labelled {row["given"]}, is {row["true"]}): {said}')
    return "\n".join(lines)
