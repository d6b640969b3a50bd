"""Calibration: whether what a model gives 80 % is right in 80 % of the cases.

Bins are right-closed, `(low, high]`, so that a probability of exactly 1 lies in the last one (torchmetrics closes them
on the left and gives 1.0 a bin of its own; elsewhere the two agree).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from adamix_lab.core.errors import positive

if TYPE_CHECKING:
    from pandas import DataFrame

BINS = 15


def confidences(log_p: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(the answered class's probability, whether it is right), `[rows]` each, float64."""
    if not len(labels):
        raise ValueError("No rows to calibrate on: expected at least one.")
    best, answer = log_p.double().exp().max(-1)
    return best, (answer == labels).double()


def ece(log_p: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., 2017), bins of equal width: sum of share * |accuracy - confidence|."""
    confidence, right = confidences(log_p, labels)
    return _gap(confidence, right, _equal_width(confidence, bins))


def adaptive_ece(log_p: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """The same over bins of equally many rows (to one), in the order of confidence; ties are split by row number."""
    positive("bins", bins)
    confidence, right = confidences(log_p, labels)
    rank = confidence.argsort(stable=True).argsort()
    return _gap(confidence, right, rank * min(bins, len(rank)) // len(rank))


def brier(log_p: Tensor, labels: Tensor) -> float:
    """Brier score: the mean over rows of the summed squared error of all classes' probabilities, 0 to 2."""
    target = F.one_hot(labels, log_p.shape[-1]).double()
    return float((log_p.double().exp() - target).square().sum(-1).mean())


def nll(log_p: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(F.nll_loss(log_p.double(), labels))


def reliability(log_p: Tensor, labels: Tensor, bins: int = BINS) -> DataFrame:
    """The reliability diagram's table: a row for each bin that holds rows.

    Columns: low, high, count, confidence, accuracy.
    """
    import pandas as pd

    confidence, right = confidences(log_p, labels)
    where = _equal_width(confidence, bins)
    rows = [
        {
            "low": n / bins,
            "high": (n + 1) / bins,
            "count": int((where == n).sum()),
            "confidence": float(confidence[where == n].mean()),
            "accuracy": float(right[where == n].mean()),
        }
        for n in where.unique().tolist()
    ]
    return pd.DataFrame(rows)


def fit_temperature(log_p: Tensor, labels: Tensor) -> float:
    """The temperature t that minimises the loss of softmax(log p / t) on held-out rows (Guo et al., 2017).

    Searched between 1/100 and 100 in log t, where the loss has one minimum. Fit it on rows that are not judged on.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        raise ValueError("No rows to fit a temperature on: expected a held-out slice of the training rows.")
    found = minimize_scalar(
        lambda log_t: nll(tempered(log_p, math.exp(log_t)), labels),
        bounds=(-math.log(100), math.log(100)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))


def tempered(log_p: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at a temperature: above 1 they are flatter. Of a marginal, p^(1/t) made to sum to 1."""
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: expected a number above 0 (1 changes nothing).")
    return (log_p.double() / temperature).log_softmax(-1)


def scores(log_p: Tensor, labels: Tensor) -> dict[str, float]:
    """accuracy, loss (nats), brier, ece and adaptive_ece of log-probabilities `[rows, C]`."""
    return {
        "accuracy": float(confidences(log_p, labels)[1].mean()),
        "loss": nll(log_p, labels),
        "brier": brier(log_p, labels),
        "ece": ece(log_p, labels),
        "adaptive_ece": adaptive_ece(log_p, labels),
    }


def _equal_width(confidence: Tensor, bins: int) -> Tensor:
    positive("bins", bins)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.double)
    # the first edge at or above the confidence closes its bin; rounding may take a confidence past 1
    return (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)


def _gap(confidence: Tensor, right: Tensor, where: Tensor) -> float:
    difference = torch.zeros(int(where.max()) + 1, dtype=torch.double)
    return float(difference.index_add_(0, where, right - confidence).abs().sum() / len(where))
