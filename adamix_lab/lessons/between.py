"""Lesson 05: losses row by row at points between experts, and as far away in random directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.points import Point, dot, filter_normalised
from adamix_lab.analysis.stacked import above_prefix, logits_at
from adamix_lab.core.model import MixtureModel, evaluating
from adamix_lab.core.routing import generator_for
from adamix_lab.tasks.batches import encode, sequential
from adamix_lab.tasks.tasks import Task

DIRECTIONS = 2  # from each expert
AT_ONCE = 32  # points a pass


@torch.no_grad()
def losses_of_rows(mixture: MixtureModel, task: Task, tokenizer: Any, points: Point, rows: int | None = None) -> Tensor:
    """Negative log-likelihood in nats, `[rows, K]`, at K stacked points `[K, ...]`, in the order of the rows.

    rows: the first so many of the evaluation set; None takes all.
    """
    examples = encode(task.evaluation[:rows], task, tokenizer)
    number = len(next(iter(points.values())))
    losses = torch.empty(len(examples), number)
    with evaluating(mixture):
        top, cache = above_prefix(mixture)
        for indices, batch in sequential(examples, 64, tokenizer.pad_token_id or 0):
            ready = cache(batch)
            for start in range(0, number, AT_ONCE):
                some = {name: weights[start : start + AT_ONCE] for name, weights in points.items()}
                log_p = logits_at(top, ready, some).float().log_softmax(-1)  # [K, B, C]
                gold = batch["labels"].expand(len(log_p), -1).unsqueeze(-1)
                losses[indices, start : start + AT_ONCE] = -log_p.gather(-1, gold).squeeze(-1).T
    return losses


def moved(point: Point, direction: Point, distance: float) -> Point:
    """The point, so far along a direction over the experts' weights; the head stays. Distance in the weights' norm."""
    apart = {name: weight for name, weight in direction.items() if name.startswith("experts.")}
    scale = distance / math.sqrt(dot(apart, apart))
    return {name: weight + scale * apart[name] if name in apart else weight for name, weight in point.items()}


def half_way(first: Point, second: Point) -> float:
    """Half of the distance between two points: how far the middle of their segment is from either."""
    apart = {name: second[name] - first[name] for name in first}
    return math.sqrt(dot(apart, apart)) / 2


def random_points(experts: Sequence[Point], seed: int, directions: int = DIRECTIONS) -> list[Point]:
    """From each expert along random, filter-normalised directions, as far as the middles of its segments on average."""
    found = []
    for n, expert in enumerate(experts):
        distances = [half_way(expert, other) for other in experts if other is not expert]
        for draw in range(directions):
            direction = filter_normalised(expert, generator_for(seed, n, draw))
            found.append(moved(expert, direction, sum(distances) / len(distances)))
    return found
