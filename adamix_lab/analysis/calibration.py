"""Calibration: whether what a model gives 80 % is right in 80 % of the cases.

Bins are right-closed, `(low, high]`, so that a probability of exactly 1 lies in the last one (torchmetrics closes them
on the left and gives 1.0 a bin of its own; elsewhere the two agree).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from adamix_lab.analysis.posterior import (
    FixedBatches,
    Samples,
    drawn_routes,
    every_route,
    fix_batches,
    marginal,
    merged_sample,
    token_samples,
    uncertainty,
)
from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.tree import LIMIT
from adamix_lab.tasks.tasks import Task

if TYPE_CHECKING:
    from pandas import DataFrame


BINS = 15


def confidences(log_p: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(the answered class's probability, whether it is right), `[rows]` each, float64."""
    if not len(labels):
        raise LabError("No rows to calibrate on: expected at least one.")
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
        raise LabError("No rows to fit a temperature on: expected a held-out slice of the training rows.")
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
        raise LabError(f"temperature = {temperature}: expected a number above 0 (1 changes nothing).")
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


# -- acting on uncertainty: answering only what is sure (risk against coverage), and noticing text from elsewhere ----


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
        raise LabError(f"{len(inside)} rows inside and {len(outside)} outside: expected at least one of each.")
    truth = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return float(roc_auc_score(truth.numpy(), torch.cat([inside, outside]).double().numpy()))


def _check(uncertainty: Tensor, right: Tensor) -> None:
    if uncertainty.shape != right.shape or uncertainty.dim() != 1 or not len(right):
        raise LabError(
            f"Uncertainty of shape {list(uncertainty.shape)} and answers of {list(right.shape)}: expected one number a "
            "row for both, and at least one row."
        )


# -- uncertainty of several methods on the same rows: calibration, selection, and text from elsewhere, in one table ---


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


# -- inference strategies side by side (Table 7, Figures 5 and 6), random ones over many draws -----------------------
# Where every route is known (the tree), a random strategy is a look-up: uniform routes are uniform picks among all of
# them. Where not, routes are drawn once and everything picks among those.


ENSEMBLES = (2, 4, 8, 16)
Draw = Callable[[Tensor, Generator], Tensor]


def compare_strategies(
    mixture: MixtureModel,
    task: Task,
    tokenizer: Any,
    draws: int = 200,
    token_draws: int = 20,
    seed: int = 0,
    limit: int = LIMIT,
    rows: int | None = None,
    batch_size: int = 16,
    max_length: int = 128,
) -> DataFrame:
    """Every strategy on the same batches, one tidy row a draw: see `strategy_table` for the columns.

    Args:
        mixture: the trained mixture.
        task: judged on its evaluation rows.
        tokenizer: of the model.
        draws: of each random strategy.
        token_draws: of a route a token, which shares nothing between draws.
        seed: of the draws.
        limit: go through all routes where there are at most so many; else draw as many as `draws`.
        rows: only the first so many evaluation rows.
        batch_size: rows a batch, which share a route in "random".
        max_length: tokens a row.

    Raises ValueError for draws below 1, no rows, or a regression.
    """
    fixed = fix_batches(mixture, task, tokenizer, task.evaluation[:rows], batch_size, max_length)
    routes = every_route(fixed, limit) if mixture.space.number <= limit else drawn_routes(fixed, draws, seed)
    tokens = token_samples(fixed, token_draws, seed)
    experts = fixed_experts(fixed)
    table = strategy_table(fixed, routes, merged_sample(fixed), experts, tokens, draws, seed)
    return table.assign(task=task.name)


def fixed_experts(fixed: FixedBatches) -> Samples:
    """Each expert everywhere: one sample an expert, in their order."""
    space = fixed.mixture.space
    routes = torch.stack([space.fixed(expert) for expert in range(space.experts)])
    answers = fixed.gather(
        lambda model, batch, n: torch.stack([model(selection=route, **batch).logits for route in routes], 1)
    )
    return Samples(answers, fixed.labels, "fixed", routes=routes)


def strategy_table(
    fixed: FixedBatches,
    routes: Samples,
    merged: Samples,
    experts: Samples,
    tokens: Samples,
    draws: int = 200,
    seed: int = 0,
    sizes: Sequence[int] = ENSEMBLES,
) -> DataFrame:
    """The table from samples that are there.

    Columns: strategy ("merged", "fixed", "random-route": one for all rows, "random": one a batch, "random-example",
    "random-token", "ensemble", "exact" or, of drawn routes, "monte-carlo"), average (of what, where something is
    averaged), passes (an answer takes), draw (its number; of "fixed" the expert), accuracy, loss in nats, brier, ece,
    adaptive_ece, rows, routes, seed.
    """
    import pandas as pd

    positive("draws", draws)
    found = [
        {"strategy": strategy, "average": average, "passes": passes, "draw": n, **scores(log_p, routes.labels)}
        for strategy, average, passes, n, log_p in _answers(
            fixed, routes, merged, experts, tokens, draws, seed, tuple(sizes)
        )
    ]
    return pd.DataFrame(found).assign(rows=len(fixed), routes=fixed.mixture.space.number, seed=seed)


def summary(table: DataFrame) -> DataFrame:
    """One row a strategy: mean, standard deviation, least and largest accuracy over its draws, mean loss and ece."""
    columns = ["strategy", "average", "passes"]
    told = table.groupby(columns, sort=False, dropna=False).agg(
        draws=("accuracy", "size"),
        accuracy=("accuracy", "mean"),
        accuracy_sd=("accuracy", "std"),
        worst=("accuracy", "min"),
        best=("accuracy", "max"),
        loss=("loss", "mean"),
        loss_sd=("loss", "std"),
        brier=("brier", "mean"),
        ece=("ece", "mean"),
    )
    return told.reset_index()


def _answers(
    fixed: FixedBatches,
    routes: Samples,
    merged: Samples,
    experts: Samples,
    tokens: Samples,
    draws: int,
    seed: int,
    sizes: tuple[int, ...],
) -> Iterator[tuple[str, str, int, int, Tensor]]:
    """(strategy, average, passes, number of the draw, log-probabilities `[rows, C]`)."""
    yield "merged", "weights", 1, 0, merged.log_probabilities[:, 0]
    for expert in range(len(experts)):
        yield "fixed", "none", 1, expert, experts.log_probabilities[:, expert]
    log_p = routes.log_probabilities
    for number, (strategy, draw) in enumerate(_scopes(fixed).items()):
        for n in range(draws):
            yield strategy, "none", 1, n, draw(log_p, generator_for(seed, number, n))
    for n in range(len(tokens)):
        yield "random-token", "none", 1, n, tokens.log_probabilities[:, n]
    for size in sizes:
        for n in range(draws):
            picked = torch.randint(len(routes), (size,), generator=generator_for(seed, len(_scopes(fixed)) + size, n))
            for average in ("logits", "probabilities"):
                yield "ensemble", average, size, n, marginal(routes.logits[:, picked], average)
    for average in ("logits", "probabilities"):
        name = "exact" if routes.exact else "monte-carlo"
        yield name, average, len(routes), 0, marginal(routes.logits, average)


def _scopes(fixed: FixedBatches) -> dict[str, Draw]:
    """What shares a route, as a function from all routes' log-probabilities `[rows, S, C]` to one answer a row."""
    batch_of = torch.empty(len(fixed), dtype=torch.long)
    for number, (rows, _) in enumerate(fixed.batches):
        batch_of[rows] = number
    everyone, each = torch.zeros_like(batch_of), torch.arange(len(fixed))
    return {
        "random-route": _sharing(everyone, 1),
        "random": _sharing(batch_of, len(fixed.batches)),
        "random-example": _sharing(each, len(fixed)),
    }


def _sharing(group: Tensor, groups: int) -> Draw:
    def draw(log_p: Tensor, generator: Generator) -> Tensor:
        picked = torch.randint(log_p.shape[1], (groups,), generator=generator)
        return log_p[torch.arange(len(group)), picked[group]]

    return draw
