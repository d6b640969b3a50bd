"""The paper's metrics for language understanding, over scikit-learn and scipy.

Values are shares and correlations from -1 to 1; tables show them times 100.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adamix_lab.core.errors import LabError, extra, unknown

Metric = Callable[[Tensor, Tensor, int], float]  # predictions and labels `[rows]`, how many classes there are


def accuracy(predictions: Tensor, labels: Tensor, classes: int = 2) -> float:
    """Share of right answers."""
    return float((predictions == labels).double().mean())


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share of so many rows, such as an accuracy; it is taken as the nearest count."""
    from scipy.stats import binomtest

    low, high = binomtest(round(share * rows), rows).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def f1(predictions: Tensor, labels: Tensor, classes: int = 2) -> float:
    """F1 of class 1, as GLUE has it; 0 where nothing is found.

    Where there are three classes or more, the mean over those that occur.
    """
    from sklearn.metrics import f1_score

    average = "binary" if max(classes, int(torch.cat([predictions, labels]).max()) + 1) < 3 else "macro"
    return float(f1_score(labels.numpy(), predictions.numpy(), average=average, zero_division=0))


def matthews(predictions: Tensor, labels: Tensor, classes: int = 2) -> float:
    """Matthews' correlation; 0 where the predictions or the labels are all the same."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels.numpy(), predictions.numpy()))


def pearson(predictions: Tensor, labels: Tensor, classes: int = 2) -> float:
    """Pearson's correlation; nan where it is undefined: of one row, of numbers all the same, or of any not finite."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: Tensor, labels: Tensor, classes: int = 2) -> float:
    """Spearman's rank correlation; nan where `pearson` is."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


METRICS: dict[str, Metric] = {metric.__name__: metric for metric in (accuracy, f1, matthews, pearson, spearman)}


def score(names: Sequence[str], predictions: Tensor, labels: Tensor, classes: int = 2) -> dict[str, float]:
    """The named metrics of predictions `[rows]` (class numbers, or numbers) against labels `[rows]`.

    Of several labels or numbers a row, `[rows, C]`, the mean over columns.

    classes: how many there are, whichever of them occur in these rows.

    Raises ValueError for an unknown metric, one of classes where numbers are predicted, or where the two differ in
    length or are empty; ImportError where scikit-learn or scipy is missing.
    """
    for name in names:
        if name not in METRICS:
            raise unknown("Metric", name, METRICS)
    if predictions.shape != labels.shape or predictions.dim() not in (1, 2) or not len(labels):
        raise LabError(
            f"Predictions {list(predictions.shape)} and labels {list(labels.shape)}: expected one of each a row, and "
            "a row at least."
        )
    if predictions.is_floating_point() and (wrong := [n for n in names if n in ("accuracy", "f1", "matthews")]):
        raise LabError(f"Metric {wrong[0]!r} of numbers: expected pearson or spearman, or a task with classes.")
    columns = [(predictions, labels)] if labels.dim() == 1 else list(zip(predictions.T, labels.T, strict=True))
    with extra("analysis"):
        return {name: sum(METRICS[name](a, b, classes) for a, b in columns) / len(columns) for name in names}


def _correlation(function: Callable[..., Any], predictions: Tensor, labels: Tensor) -> float:
    a, b = predictions.double().numpy(), labels.double().numpy()
    defined = len(labels) > 1 and all(bool(numbers.isfinite().all()) for numbers in (predictions, labels))
    return float(function(a, b).statistic) if defined else math.nan  # scipy ranks inf, too


# -- tables of results ---------------------------------------------------------------------------------------


def text_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of one table as aligned text, the names of all columns above; what a row lacks is left blank."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(names))]
    padded = ([f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def html_table(rows: Sequence[Mapping[str, str]]) -> str:
    """The same as HTML, every cell escaped, words on the left as they are read (Jupyter puts them on the right)."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f'<th scope="col" style="text-align: left">{html.escape(name)}</th>' for name in names)
    lines = (
        "".join(f"<td style='text-align: left'>{html.escape(row.get(name, ''))}</td>" for name in names) for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
