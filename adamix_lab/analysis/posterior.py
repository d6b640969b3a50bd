"""Routes as random variables (Eq. 7): the marginal, how fast an estimate of it converges, and what is uncertain.

An interpretation, not inference: the distribution over routes is fixed and uniform. It was not fitted to data, so the
"posterior" of the paper's section 3.5 is no posterior in Bayes' sense, and more routes bring an estimate nearer to the
average over routes, not nearer to the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adamix_lab.analysis.samples import Samples
from adamix_lab.core.errors import one_of, positive
from adamix_lab.core.routing import generator_for

if TYPE_CHECKING:
    from pandas import DataFrame

SIZES = (1, 2, 4, 8, 16, 32, 64)


def marginal(logits: Tensor, average: str = "probabilities", axis: int = 1) -> Tensor:
    """Log-probabilities of the average over samples: `[rows, samples, C]` to `[rows, C]`.

    average: "probabilities" (Eq. 7), or "logits" (the paper's ensemble).
    """
    one_of("average", average, ("probabilities", "logits"))
    if average == "logits":
        return logits.mean(axis).log_softmax(-1)
    return logits.log_softmax(-1).logsumexp(axis) - math.log(logits.shape[axis])


def entropy(log_p: Tensor) -> Tensor:
    """-sum p log p over the last axis, in nats."""
    return -(log_p.exp() * log_p).nan_to_num().sum(-1)  # 0 log 0 = 0


def uncertainty(samples: Samples) -> dict[str, Tensor]:
    """What is uncertain about each row, `[rows]` each, in nats.

    Returns:
        entropy: of the marginal, H[mean p].
        expected_entropy: the mean of the samples' own entropies.
        mutual_information: entropy - expected_entropy, at least 0: how much knowing the route would tell.
        disagreement: the chance that two samples (drawn with replacement) answer differently.
        doubt: 1 - the marginal's largest probability.
    """
    log_p = samples.logits.double().log_softmax(-1)
    mean = marginal(samples.logits.double())
    whole, expected = entropy(mean), entropy(log_p).mean(1)
    votes = torch.nn.functional.one_hot(log_p.argmax(-1), log_p.shape[-1]).double().mean(1)
    return {
        "entropy": whole,
        "expected_entropy": expected,
        "mutual_information": (whole - expected).clamp_min(0),  # rounding alone takes it below
        "disagreement": 1 - votes.square().sum(-1),
        "doubt": 1 - mean.exp().amax(-1),
    }


def distance(log_p: Tensor, reference: Tensor) -> Tensor:
    """Total variation, half of the summed absolute differences of probabilities: `[..., rows, C]` to `[..., rows]`."""
    return 0.5 * (log_p.exp() - reference.exp()).abs().sum(-1)


def convergence(
    samples: Samples, merged: Samples, sizes: Sequence[int] = SIZES, draws: int = 200, seed: int = 0
) -> DataFrame:
    """How near estimates from T routes, drawn with replacement, come to the exact marginal: one row a T.

    Columns: T; `error` (mean over draws and rows of the total variation) and its 10 % and 90 % quantiles over draws;
    `bias` (the same distance of the mean over draws, which itself shrinks as 1/sqrt(draws)); `rms` and `predicted_rms`
    (root mean square of a probability's error; the one-route value over sqrt(T)); `loss`, its standard deviation over
    draws, and `loss_bias` against the exact marginal's loss (above 0 by Jensen, about 1/T). The row of T = 0 is the
    merge, which is no estimate.

    Raises ValueError unless the samples are every route, for T = 0, and for draws below 1.
    """
    import pandas as pd

    if not samples.exact:
        raise ValueError(
            f"{len(samples)} drawn routes are no exact marginal to converge to: expected every route (every_route)."
        )
    for size in sizes:
        positive("T", size)
    positive("draws", draws)
    reference = marginal(samples.logits.double())
    p = samples.log_probabilities.double().exp()
    exact_loss = _loss(reference, samples.labels)
    one_route = (p - p.mean(1, keepdim=True)).square().mean()
    rows: list[dict[str, Any]] = []
    for size in sizes:
        generator = generator_for(seed, size)
        picked = torch.randint(len(samples), (draws, size), generator=generator)
        estimates = torch.stack([p[:, numbers].mean(1) for numbers in picked])  # [draws, rows, C]
        errors = distance(estimates.log(), reference).mean(-1)
        losses = torch.stack([_loss(estimate.log(), samples.labels) for estimate in estimates])
        low, high = errors.quantile(torch.tensor([0.1, 0.9], dtype=torch.double)).tolist()
        rows.append(
            {
                "what": "routes",
                "T": size,
                "error": float(errors.mean()),
                "error_low": low,
                "error_high": high,
                "bias": float(distance(estimates.mean(0).log(), reference).mean()),
                "rms": float((estimates - reference.exp()).square().mean().sqrt()),
                "predicted_rms": float((one_route / size).sqrt()),
                "loss": float(losses.mean()),
                "loss_sd": float(losses.std()) if draws > 1 else 0.0,
                "loss_bias": float(losses.mean() - exact_loss),
            }
        )
    rows.append(_merged_row(merged, reference, exact_loss))
    return pd.DataFrame(rows).assign(draws=draws, seed=seed, exact_loss=float(exact_loss))


def worth(table: DataFrame) -> float:
    """The T at which an estimate is as near to the exact marginal as the merge, by log-log interpolation.

    Outside of the table's range it follows the 1/sqrt(T) line: below 1 where one route is nearer on average.
    """
    routes = table[table["what"] == "routes"].sort_values("T")
    merged = float(table.loc[table["what"] == "merged", "error"].iloc[0])
    sizes = [float(size) for size in routes["T"]]
    errors = [max(float(error), 1e-12) for error in routes["error"]]
    if merged <= 1e-12:
        return math.inf
    for n in range(1, len(sizes)):
        if errors[n] <= merged <= errors[n - 1]:
            share = math.log(errors[n - 1] / merged) / math.log(errors[n - 1] / errors[n])
            return sizes[n - 1] * (sizes[n] / sizes[n - 1]) ** share
    end = 0 if merged > errors[0] else -1
    return sizes[end] * (errors[end] / merged) ** 2


def _merged_row(merged: Samples, reference: Tensor, exact_loss: Tensor) -> dict[str, Any]:
    log_p = merged.log_probabilities[:, 0].double()
    errors = distance(log_p, reference)
    loss = _loss(log_p, merged.labels)
    return {
        "what": "merged",
        "T": 0,
        "error": float(errors.mean()),
        "bias": float(errors.mean()),
        "rms": float((log_p.exp() - reference.exp()).square().mean().sqrt()),
        "loss": float(loss),
        "loss_bias": float(loss - exact_loss),
    }


def _loss(log_p: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.nll_loss(log_p, labels)
