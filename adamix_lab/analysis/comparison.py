"""Uncertainty of several methods on the same rows: calibration, selection, and text from elsewhere, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adamix_lab.analysis.calibration import adaptive_ece, ece, fit_temperature, nll, scores, tempered
from adamix_lab.analysis.posterior import marginal, uncertainty
from adamix_lab.analysis.samples import Samples
from adamix_lab.analysis.selective import aurc, auroc

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Method:
    """A method's samples: on the rows it is judged on, on a slice of train, and on text from elsewhere.

    Attributes:
        inside: judged on, with labels.
        held_out: fits the temperature; None fits none.
        outside: another task's text, labels unused; None looks at none.
        passes: an answer takes.
    """

    inside: Samples
    held_out: Samples | None = None
    outside: Samples | None = None
    passes: int = 1


def compare_uncertainty(methods: Mapping[str, Method]) -> DataFrame:
    """One row a method, every measure from the same functions.

    Columns: method, passes, accuracy, loss, brier, ece, adaptive_ece (of the marginal); temperature and what loss and
    ece become with it; entropy, expected_entropy, mutual_information, disagreement (means over rows); aurc_entropy and
    aurc_mutual_information (area under risk against coverage); auroc_entropy and auroc_mutual_information (text from
    elsewhere; 0.5 where a method has one sample and so no mutual information).
    """
    import pandas as pd

    return pd.DataFrame([{"method": name, **_row(method)} for name, method in methods.items()])


def _row(method: Method) -> dict[str, Any]:
    log_p, labels = marginal(method.inside.logits), method.inside.labels
    told = uncertainty(method.inside)
    right = log_p.argmax(-1) == labels
    row: dict[str, Any] = {"passes": method.passes, **scores(log_p, labels)}
    if method.held_out is not None:
        temperature = fit_temperature(marginal(method.held_out.logits), method.held_out.labels)
        scaled = tempered(log_p, temperature)
        row |= {"temperature": temperature, "loss_scaled": nll(scaled, labels)}
        row |= {"ece_scaled": ece(scaled, labels), "adaptive_ece_scaled": adaptive_ece(scaled, labels)}
    row |= {name: float(values.mean()) for name, values in told.items() if name != "doubt"}
    kinds = ("entropy", "mutual_information")
    row |= {f"aurc_{kind}": aurc(_rounded(told[kind]), right) for kind in kinds}
    if method.outside is not None:
        elsewhere = uncertainty(method.outside)
        row |= {f"auroc_{kind}": auroc(_rounded(told[kind]), _rounded(elsewhere[kind])) for kind in kinds}
    return row


def _rounded(values: torch.Tensor) -> torch.Tensor:
    # one sample has a mutual information of 0, to rounding: the noise shall not rank rows
    return (values * 1e9).round() / 1e9
