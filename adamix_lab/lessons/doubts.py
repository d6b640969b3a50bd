"""Lesson 04, further: calibration of routes, their average and the merge; acting on doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adamix_lab.analysis.calibration import adaptive_ece, ece
from adamix_lab.analysis.plots import Picture
from adamix_lab.analysis.posterior import entropy, marginal, uncertainty
from adamix_lab.analysis.selective import risk_coverage
from adamix_lab.lessons.answers import Answers
from adamix_lab.lessons.marginals import samples_of

if TYPE_CHECKING:
    from pandas import DataFrame


def calibrations(runs: Sequence[Answers]) -> DataFrame:
    """Calibration errors in points, a row a seed: one route (the first), all of them, the merge; both kinds of bins."""
    import pandas as pd

    rows = []
    for answers in runs:
        told = {
            "one route": answers.routes[:, 0],
            "all routes": marginal(answers.routes),
            "merge": answers.merged,
        }
        kinds = {"ECE": ece, "adaptive": adaptive_ece}
        rows.append(
            {f"{name}, {kind}": 100 * error(log_p, answers.labels) for name, log_p in told.items()
             for kind, error in kinds.items()}
        )  # fmt: skip
    return pd.DataFrame(rows, index=[f"seed {n}" for n in range(len(rows))])


def risks(answers: Answers) -> Picture:
    """Wrong answers among the surest rows: all routes sorted by entropy and by mutual information, the merge."""
    import pandas as pd

    from adamix_lab.analysis.pictures_uncertainty import risk_coverage as draw

    right = marginal(answers.routes).argmax(-1) == answers.labels
    told = uncertainty(samples_of(answers)[0])
    tables = {
        "exact, by entropy": risk_coverage(told["entropy"], right),
        "routes, by mutual information": risk_coverage(told["mutual_information"], right),
        "merged, by entropy": risk_coverage(entropy(answers.merged), answers.merged_right),
    }
    return draw(pd.concat([table.assign(method=name) for name, table in tables.items()]))
