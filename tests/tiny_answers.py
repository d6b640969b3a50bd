"""Answers of 16 routes to made-up rows, with known properties."""

from __future__ import annotations

import torch

from adamix_lab.core.routing import RouteSpace, generator_for
from adamix_lab.lessons.answers import Answers

SPACE = RouteSpace(((4, 1), (4, 1)))


def answers(rows: int = 40, noise: float = 1.0, seed: int = 0) -> Answers:
    """Two classes; each route's log-odds are the label's with noise of its own."""
    generator = generator_for(seed)
    labels = torch.randint(2, (rows,), generator=generator)
    odds = (2.0 * labels - 1)[:, None] + noise * torch.randn(rows, 16, generator=generator)
    return of_odds(odds, labels)


def of_odds(odds: torch.Tensor, labels: torch.Tensor) -> Answers:
    def log_p(values: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(values), values], -1).log_softmax(-1)

    return Answers(log_p(odds), log_p(odds.mean(1)), labels, SPACE.enumerate())
