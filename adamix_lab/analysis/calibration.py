"""How good and how sure answers are: calibration, tables of methods and of strategies, and mistakes.

Calibration is whether what a model gives 80 % is right in 80 % of the cases. Bins are right-closed, `(low, high]`, so
that a probability of exactly 1 lies in the last one (torchmetrics closes them on the left and gives 1.0 a bin of its
own; elsewhere the two agree).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from adamix_lab.analysis.posterior import (
    FixedBatches,
    Samples,
    fixed_experts,
    marginal,
    merged_sample,
    token_samples,
    uncertainty,
)
from adamix_lab.core.errors import LabError, positive
from adamix_lab.core.routing import generator_for
from adamix_lab.tasks.tasks import Row, Task

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
    rows = {"bin": _equal_width(confidence, bins), "confidence": confidence, "accuracy": right}
    groups = pd.DataFrame({name: values.numpy() for name, values in rows.items()}).groupby("bin")
    means = groups.mean()
    table = means.assign(low=means.index / bins, high=(means.index + 1) / bins, count=groups.size())
    return table[["low", "high", "count", "confidence", "accuracy"]].reset_index(drop=True)


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


def auroc(inside: Tensor, outside: Tensor) -> float:
    """The chance that a row from outside is less sure than one from inside (ties count half): 0.5 tells nothing.

    inside, outside: uncertainties `[rows]` of the task's own rows and of text from elsewhere.
    """
    from sklearn.metrics import roc_auc_score

    if not len(inside) or not len(outside):
        raise LabError(f"{len(inside)} rows inside and {len(outside)} outside: expected at least one of each.")
    truth = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return float(roc_auc_score(truth.numpy(), torch.cat([inside, outside]).double().numpy()))


# -- uncertainty of several methods on the same rows: calibration, and text from elsewhere, in one table --------------


@dataclass(frozen=True)
class Method:
    """A method's samples on rows from several places, and how many passes an answer takes.

    Attributes:
        samples: "inside": judged on, with labels; "held_out" of training: fits the temperature (none without it);
            "outside": another task's text, labels unused (not looked at without it).
        passes: an answer takes.
    """

    samples: Mapping[str, Samples]
    passes: int = 1


def compare_uncertainty(methods: Mapping[str, Method]) -> DataFrame:
    """One row a method, every measure from the same functions.

    Columns: method, passes, accuracy, loss, brier, ece, adaptive_ece (of the marginal); temperature and what loss and
    ece become with it; entropy, expected_entropy, mutual_information, disagreement (means over rows); auroc_entropy and
    auroc_mutual_information (text from elsewhere; 0.5 where a method has one sample and so no mutual information).
    """
    import pandas as pd

    return pd.DataFrame([{"method": name, **_row(method)} for name, method in methods.items()])


def _row(method: Method) -> dict[str, Any]:
    samples = method.samples
    log_p, labels = marginal(samples["inside"].logits), samples["inside"].labels
    inside = uncertainty(samples["inside"])
    row: dict[str, Any] = {"passes": method.passes, **scores(log_p, labels)}
    if "held_out" in samples:
        temperature = fit_temperature(marginal(samples["held_out"].logits), samples["held_out"].labels)
        scaled = tempered(log_p, temperature)
        row |= {"temperature": temperature, "loss_scaled": nll(scaled, labels)}
        row |= {"ece_scaled": ece(scaled, labels), "adaptive_ece_scaled": adaptive_ece(scaled, labels)}
    row |= {name: float(values.mean()) for name, values in inside.items() if name != "doubt"}
    if "outside" in samples:
        outside = uncertainty(samples["outside"])
        for kind in ("entropy", "mutual_information"):
            # one sample has a mutual information of 0, to rounding: the noise shall not rank rows
            row[f"auroc_{kind}"] = auroc(*(found[kind].round(decimals=9) for found in (inside, outside)))
    return row


# -- inference strategies side by side (Table 7, Figures 5 and 6), random ones over many draws -----------------------
# Where every route is known (the tree), a random strategy is a look-up: uniform routes are uniform picks among all of
# them. Where not, routes are drawn once and everything picks among those.


ENSEMBLES = (2, 4, 8, 16)
AVERAGES = ("logits", "probabilities")


def strategy_table(
    fixed: FixedBatches, routes: Samples, draws: int = 200, token_draws: int = 20, seed: int = 0
) -> DataFrame:
    """Every strategy on the same rows, one tidy row a draw.

    Args:
        fixed: the rows; those of a batch share a route in "random".
        routes: their answers under all routes, or some that were drawn.
        draws: of each random strategy.
        token_draws: of a route a token, which shares nothing between draws.
        seed: of the draws.

    Columns: strategy ("merged", "fixed", "random-route": one for all rows, "random": one a batch, "random-example",
    "random-token", "ensemble", "exact" or, of drawn routes, "monte-carlo"), average (of what, where something is
    averaged), passes (an answer takes), draw (its number; of "fixed" the expert), accuracy, loss in nats, brier, ece,
    adaptive_ece, rows, routes, seed. Raises ValueError for draws below 1.
    """
    import pandas as pd

    positive("draws", draws)
    log_p, scopes, rows = routes.log_probabilities, _scopes(fixed), []

    def add(strategy: str, average: str, passes: int, draw: int, answers: Tensor) -> None:
        row = {"strategy": strategy, "average": average, "passes": passes, "draw": draw}
        rows.append({**row, **scores(answers, routes.labels)})

    add("merged", "weights", 1, 0, merged_sample(fixed).log_probabilities[:, 0])
    for n, answers in enumerate(fixed_experts(fixed).log_probabilities.unbind(1)):
        add("fixed", "none", 1, n, answers)
    for number, (strategy, groups) in enumerate(scopes.items()):
        for n in range(draws):
            add(strategy, "none", 1, n, _share_routes(log_p, groups, generator_for(seed, number, n)))
    for n, answers in enumerate(token_samples(fixed, token_draws, seed).log_probabilities.unbind(1)):
        add("random-token", "none", 1, n, answers)
    for size in ENSEMBLES:
        for n in range(draws):
            picked = torch.randint(len(routes), (size,), generator=generator_for(seed, len(scopes) + size, n))
            for average in AVERAGES:
                add("ensemble", average, size, n, marginal(routes.logits[:, picked], average))
    for average in AVERAGES:
        name = "exact" if routes.exact else "monte-carlo"
        add(name, average, len(routes), 0, marginal(routes.logits, average))
    return pd.DataFrame(rows).assign(rows=len(fixed), routes=fixed.mixture.space.number, seed=seed)


def summary(table: DataFrame) -> DataFrame:
    """One row a strategy: mean, standard deviation, least and largest accuracy over its draws, mean loss and ece."""
    columns = ["strategy", "average", "passes"]
    summary = table.groupby(columns, sort=False, dropna=False).agg(
        draws=("accuracy", "size"), accuracy=("accuracy", "mean"), accuracy_sd=("accuracy", "std"),
        worst=("accuracy", "min"), best=("accuracy", "max"), loss=("loss", "mean"), loss_sd=("loss", "std"),
        brier=("brier", "mean"), ece=("ece", "mean"),
    )  # fmt: skip
    return summary.reset_index()


def _scopes(fixed: FixedBatches) -> dict[str, Tensor]:
    """What shares a route: the number of each row's group, `[rows]`."""
    batch_of = torch.empty(len(fixed), dtype=torch.long)
    for number, (rows, _) in enumerate(fixed.batches):
        batch_of[rows] = number
    return {"random-route": torch.zeros_like(batch_of), "random": batch_of, "random-example": torch.arange(len(fixed))}


def _share_routes(log_p: Tensor, groups: Tensor, generator: Generator) -> Tensor:
    # one of all routes' log-probabilities `[rows, S, C]` for each row: the same for the rows of a group
    picked = torch.randint(log_p.shape[1], (int(groups.max()) + 1,), generator=generator)
    return log_p[torch.arange(len(groups)), picked[groups]]


# -- mistakes: rows that models answer apart, and wrong labels that they learned by heart ----------------------------
# What a model answers to its own training rows is an evaluation of the task judged on these:
#
#     on_train = replace(task, evaluation=task.train)
#     answers = {name: evaluate(model, on_train, tokenizer)[0].log_probabilities for name, model in models.items()}

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


def describe_mistakes(answers: Answers, task: Task, rows: Sequence[Row], most: int = 3) -> str:
    """Which wrong labels two models learned by heart: counts, and the surest examples that tell the two apart."""
    counts, table = by_heart(answers, task, rows), disagreements(answers, task, rows)
    wrong = sum(true_label(row, task) != row[task.label] for row in rows)
    parts = [f"{name} learned {repeated} by heart and sets {right} right" for name, (repeated, right) in counts.items()]
    lines = [f"{wrong} of {len(rows)} labels are wrong: {', '.join(parts)}."]
    for _, row in table[table["given"] != table["true"]].head(most).iterrows():
        text = row["text"] if len(row["text"]) <= 90 else row["text"][:87].rstrip() + "..."
        said = ", ".join(f"{name} says {row[name]}" for name in answers)
        lines.append(f'  "{text}" (labelled {row["given"]}, is {row["true"]}): {said}')
    return "\n".join(lines)
