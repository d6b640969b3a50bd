"""Judging a trained run: its strategies on the same batches, as rows of tidy tables."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch

from adamix_lab.analysis.posterior import marginal
from adamix_lab.baselines.making import costs
from adamix_lab.core.model import MixtureModel
from adamix_lab.experiments.preparing import Prepared
from adamix_lab.experiments.settings import Run
from adamix_lab.fast.tree import tree_logits
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import Evaluation, Indexed, evaluate_batches, evaluating, judge
from adamix_lab.training.train import to_device

APART = 10_007  # between the seeds of a run's draws of random routes: further than seeds of runs lie apart
STRATEGIES = ("merged", "fixed", "random", "ensemble")


@dataclass(frozen=True)
class Trained:
    """A run behind its last step.

    Attributes:
        top: the model as it is judged.
        curve: rows of the learning curve.
        seconds: of training, earlier tries included.
        alone: the evaluation of adapters trained apart, each alone.
        resumed_from: the step of the checkpoint that this try went on from.
    """

    top: MixtureModel
    curve: list[dict[str, Any]]
    seconds: float
    alone: list[Evaluation] = field(default_factory=list)
    resumed_from: int | None = None


def tables_of(run: Run, prepared: Prepared, done: Trained, cost: int) -> dict[str, bytes]:
    """The run's three tables as Parquet files. cost: operations of one step."""
    start = time.perf_counter()
    results = judged(done.top, prepared.judged, prepared.task.metrics, run.seed, run.exact, run.draws) + done.alone
    judging = time.perf_counter() - start
    parts = run.experts if run.method == "apart-soup" else 1
    steps = (prepared.recipe.steps or 0) * parts
    count = costs(run.method, prepared.mixture)
    found = versions()
    common = {
        **{name: getattr(run, name) for name in ("task", "variant", "method", "experts", "size", "share")},
        **{name: getattr(run, name) for name in ("consistency", "routing", "examples", "seed", "compute")},
        "steps": steps,
        "seconds": done.seconds,
        "evaluation_seconds": judging,
        "operations": float(cost * steps),
        "trained": count.stored * parts if run.method == "apart-soup" else count.trained,
        "stored": count.stored,
        "inference": count.inference,
        "device": found["device"],
        "versions": json.dumps(found, sort_keys=True),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": json.dumps(run.identity(), sort_keys=True),
    }
    first = {result.strategy: result for result in reversed(results)}  # of random draws, the first one's predictions
    tables = {
        "results": [{"run": run.key, **common, **row} for result in results for row in metric_rows(result)],
        "predictions": [{"run": run.key, **row} for result in first.values() for row in prediction_rows(result)],
        "curves": [{"run": run.key, **row} for row in done.curve],
    }
    return {f"{name}.parquet": parquet(rows) for name, rows in tables.items()}


def judged(
    top: MixtureModel, batches: Sequence[Indexed], metrics: tuple[str, ...], seed: int, limit: int, draws: int = 1
) -> list[Evaluation]:
    """Every strategy that can differ, on the same batches; the exact average where the routes are at most `limit`.

    draws: how often random routing is judged; the first draw stands beside the other strategies, the rest at the end.
    """
    device = next(top.parameters()).device
    there = [(rows, to_device(batch, device)) for rows, batch in batches]
    several = top.space.number > 1
    names = STRATEGIES if several else STRATEGIES[:1]
    results = [evaluate_batches(top, there, name, seed, metrics) for name in names]
    if several and top.space.number <= limit:
        results.append(exact(top, there, limit, metrics))
    more = range(1, draws) if several else ()
    return results + [evaluate_batches(top, there, "random", seed + APART * draw, metrics) for draw in more]


def exact(top: MixtureModel, batches: Sequence[Indexed], limit: int, metrics: tuple[str, ...]) -> Evaluation:
    """The average over all routes: of probabilities (Eq. 7), or of a regression's numbers."""
    order: list[int] = []
    answers, labels = [], []
    with torch.no_grad(), evaluating(top):
        for rows, batch in batches:
            logits = tree_logits(top, {name: value for name, value in batch.items() if name != "labels"}, limit)
            answers.append((logits.mean(1) if logits.shape[-1] == 1 else marginal(logits)).float().cpu())
            labels.append(batch["labels"].cpu())
            order += rows
    back = torch.tensor(order).argsort()
    return judge("exact", top.space.number, torch.cat(answers)[back], torch.cat(labels)[back], metrics)


def mean_of(alone: list[Evaluation]) -> Evaluation:
    """The mean of the figures of adapters trained apart, each alone with its own head; predictions of the first."""
    metrics = {name: sum(one.metrics[name] for one in alone) / len(alone) for name in alone[0].metrics}
    loss = sum(one.loss for one in alone) / len(alone)
    return replace(alone[0], strategy="alone", metrics=metrics, loss=loss)


def metric_rows(result: Evaluation) -> list[dict[str, Any]]:
    """The task's metrics, its own first (`primary`), and the loss."""
    values = {**result.shown, "loss": result.loss}
    return [
        {"strategy": result.strategy, "metric": name, "primary": n == 0, "value": float(value)}
        for n, (name, value) in enumerate(values.items())
    ]


def prediction_rows(result: Evaluation) -> list[dict[str, Any]]:
    """One row an example: label, prediction, and the label's probability (nan for a regression)."""
    log_p, labels = result.log_probabilities, result.labels
    classes = log_p.shape[-1] > 1
    likely = log_p.gather(1, labels.long().unsqueeze(1)).exp().squeeze(1).tolist() if classes else None
    return [
        {
            "strategy": result.strategy,
            "row": n,
            "label": float(label),
            "prediction": float(prediction),
            "probability_of_label": likely[n] if likely else math.nan,
        }
        for n, (label, prediction) in enumerate(zip(labels.tolist(), result.predictions.tolist(), strict=True))
    ]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """A table as the bytes of a Parquet file. Raises ImportError where pandas or pyarrow is missing."""
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Results are Parquet tables: expected {error.name}. Run pip install 'adamix-lab[experiments]'."
        ) from error

    table = pd.DataFrame(rows)
    if "probability_of_label" in table:
        table["probability_of_label"] = table["probability_of_label"].astype("float32")
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
