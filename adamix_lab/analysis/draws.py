"""Inference strategies side by side (Table 7, Figures 5 and 6), random ones with their distribution over many draws.

Where every route is known (the tree), a random strategy is a look-up: uniform routes are uniform picks among all of
them. Where not, routes are drawn once and everything picks among those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from adamix_lab.analysis.calibration import scores
from adamix_lab.analysis.posterior import marginal
from adamix_lab.analysis.samples import (
    FixedBatches,
    Samples,
    drawn_routes,
    every_route,
    fix_batches,
    merged_sample,
    token_samples,
)
from adamix_lab.core.errors import positive
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.tree import LIMIT
from adamix_lab.tasks.tasks import Task

if TYPE_CHECKING:
    from pandas import DataFrame

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
