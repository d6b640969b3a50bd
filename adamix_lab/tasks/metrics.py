"""The paper's metrics for language understanding, over scikit-learn and scipy, and the averages of its tables.

Values are shares and correlations from -1 to 1; tables show them times 100.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from adamix_lab.core.errors import unknown

Metric = Callable[[Tensor, Tensor], float]


class Undefined(UserWarning):
    """A metric has no value on these rows: it is nan."""


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return float((predictions == labels).double().mean())


def f1(predictions: Tensor, labels: Tensor) -> float:
    """F1 of class 1, as GLUE has it; of three classes or more, the mean over classes. 0 where nothing is found."""
    from sklearn.metrics import f1_score

    average = "binary" if int(torch.cat([predictions, labels]).max()) < 2 else "macro"
    return float(f1_score(labels.numpy(), predictions.numpy(), average=average, zero_division=0))


def matthews(predictions: Tensor, labels: Tensor) -> float:
    """Matthews' correlation; 0 where the predictions or the labels are all the same."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels.numpy(), predictions.numpy()))


def pearson(predictions: Tensor, labels: Tensor) -> float:
    """Pearson's correlation; nan, with a warning, where it is undefined."""
    from scipy.stats import pearsonr

    return _correlation("Pearson", lambda a, b: pearsonr(a, b)[0], predictions, labels)


def spearman(predictions: Tensor, labels: Tensor) -> float:
    """Spearman's rank correlation; nan, with a warning, where it is undefined."""
    from scipy.stats import spearmanr

    return _correlation("Spearman", lambda a, b: spearmanr(a, b)[0], predictions, labels)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def score(names: Sequence[str], predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """The named metrics of predictions `[rows]` (class numbers, or numbers) against labels `[rows]`.

    Raises ValueError for an unknown metric, or where the two differ in length or are empty; ImportError where
    scikit-learn or scipy is missing.
    """
    for name in names:
        if name not in METRICS:
            raise unknown("Metric", name, METRICS)
    if predictions.shape != labels.shape or predictions.dim() != 1 or not len(labels):
        raise ValueError(
            f"Predictions {list(predictions.shape)} and labels {list(labels.shape)}: expected one of each a row, and "
            "a row at least."
        )
    try:
        return {name: METRICS[name](predictions, labels) for name in names}
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The metrics {', '.join(names)} need {error.name}: run pip install 'adamix-lab[analysis]'."
        ) from error


def _correlation(name: str, function: Callable[..., float], predictions: Tensor, labels: Tensor) -> float:
    a, b = predictions.double(), labels.double()
    for what, values in (("predictions", a), ("labels", b)):
        if len(values) < 2 or float(values.max() - values.min()) == 0.0 or not bool(values.isfinite().all()):
            warnings.warn(
                f"{name}'s correlation of {len(values)} rows is undefined (nan): the {what} are all the same, fewer "
                "than two, or not finite.",
                Undefined,
                stacklevel=4,
            )
            return math.nan
    return float(function(a.numpy(), b.numpy()))


# Which number of a task enters the average: accuracy in Table 1, F1 in Table 2 (MRPC and QQP); STS-B by Pearson.
GLUE = ("mnli", "qnli", "sst2", "qqp", "mrpc", "cola", "rte", "stsb")
TABLES: dict[str, dict[str, str]] = {
    "table 1": {"cola": "matthews", "stsb": "pearson"},
    "table 2": {"cola": "matthews", "stsb": "pearson", "mrpc": "f1", "qqp": "f1"},
}


def paper_average(results: Mapping[str, Mapping[str, float]], table: str = "table 1") -> float:
    """The mean over the eight GLUE tasks as a table of the paper forms it.

    results: metrics by task. "table 1" (RoBERTa-large) takes accuracy for MRPC and QQP, "table 2" (BERT-base) takes
    F1. Raises ValueError where a task or its metric is missing.
    """
    if table not in TABLES:
        raise unknown("Table", table, TABLES)
    values = []
    for task in GLUE:
        metric = TABLES[table].get(task, "accuracy")
        if metric not in results.get(task, {}):
            raise ValueError(f"results lack {metric} of {task}: expected all of {', '.join(GLUE)}.")
        values.append(results[task][metric])
    return sum(values) / len(values)
