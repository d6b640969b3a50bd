"""Acting on uncertainty: answering only what is sure (risk against coverage), and noticing text from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pandas import DataFrame


def risk_coverage(uncertainty: Tensor, right: Tensor) -> DataFrame:
    """The share of wrong answers (risk) among the surest rows, against the share of rows answered (coverage).

    Rows of equal uncertainty are answered together: no threshold tells them apart.

    Args:
        uncertainty: `[rows]`, larger is less sure.
        right: `[rows]`, whether each row is answered rightly.
    """
    import pandas as pd

    _check(uncertainty, right)
    order = uncertainty.argsort(stable=True)
    sorted_, wrong = uncertainty[order], 1 - right[order].double()
    answered = torch.arange(1, len(order) + 1, dtype=torch.double)
    last_of_its_kind = torch.cat([sorted_[1:] > sorted_[:-1], torch.ones(1, dtype=torch.bool)])
    table = {"coverage": answered / len(order), "risk": wrong.cumsum(0) / answered}
    return pd.DataFrame({name: values[last_of_its_kind].numpy() for name, values in table.items()})


def aurc(uncertainty: Tensor, right: Tensor) -> float:
    """The area under the risk-coverage curve, as the mean risk over the numbers of rows answered.

    Rows of equal uncertainty count with their expected order (each ordering of a tie as likely as any other).
    """
    _check(uncertainty, right)
    order = uncertainty.argsort(stable=True)
    _, group, size = uncertainty[order].unique_consecutive(return_inverse=True, return_counts=True)
    wrong = torch.zeros(len(size), dtype=torch.double).index_add_(0, group, 1 - right[order].double())
    expected = (wrong / size)[group].cumsum(0)  # within a tie the expected number of errors grows evenly
    return float((expected / torch.arange(1, len(order) + 1)).mean())


def auroc(inside: Tensor, outside: Tensor) -> float:
    """The chance that a row from outside is less sure than one from inside (ties count half): 0.5 tells nothing.

    inside, outside: uncertainties `[rows]` of the task's own rows and of text from elsewhere.
    """
    from sklearn.metrics import roc_auc_score

    if not len(inside) or not len(outside):
        raise ValueError(f"{len(inside)} rows inside and {len(outside)} outside: expected at least one of each.")
    truth = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return float(roc_auc_score(truth.numpy(), torch.cat([inside, outside]).double().numpy()))


def _check(uncertainty: Tensor, right: Tensor) -> None:
    if uncertainty.shape != right.shape or uncertainty.dim() != 1 or not len(right):
        raise ValueError(
            f"Uncertainty of shape {list(uncertainty.shape)} and answers of {list(right.shape)}: expected one number a "
            "row for both, and at least one row."
        )
