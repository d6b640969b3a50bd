"""Lesson 04: the average over routes, and which part of the doubt is about the route."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.checks.telling import call, likely, match, passed, same, wrong


def check_marginal(average: Callable[[Tensor], Tensor]) -> None:
    """Checks `average(logits)`: the mean of the routes' probabilities, `[rows, routes, C]` to `[rows, C]`."""
    for rows, routes, classes in ((5, 4, 3), (4, 4, 2), (1, 3, 4)):
        logits = 3 * torch.randn(rows, routes, classes, generator=generator_for(rows, routes, classes))
        came = _tensor(call(average, logits.clone()), "The average", (rows, classes))
        what, rule = f"The average over {routes} routes", "the mean of their probabilities"
        match(what, rule, logits.softmax(-1).mean(1), came, _other_averages(logits))
    passed("check_marginal")


def check_split(split: Callable[[Tensor], Sequence[Tensor]]) -> None:
    """Checks `split(p)`: (H of the mean, mean of the routes' H, their difference), nats, `[rows]` each.

    p: probabilities `[rows, routes, C]`, all above 0.
    """
    names = ("H, the entropy of the average", "E, the mean entropy of a route", "I, the mutual information")
    for rows, routes, classes in ((4, 5, 3), (3, 4, 2)):
        p = (2 * torch.randn(rows, routes, classes, generator=generator_for(routes, classes))).softmax(-1)
        answer = call(split, p.clone())
        if not isinstance(answer, tuple | list) or len(answer) != 3:
            wrong("The answer", "three tensors: H, E, I", type(answer).__name__)
        whole, own = _entropy(p.mean(1)), _entropy(p).mean(1)
        mistakes = {
            "That is in bits: use the natural logarithm.": 1 / torch.log(torch.tensor(2.0)),
            "That is the mean over classes: sum over them.": torch.tensor(1 / classes),
            "The sign is the other way round.": torch.tensor(-1.0),
            "That is the sum over routes: take the mean.": torch.tensor(float(routes)),
        }
        for name, expected, came in zip(names, (whole, own, whole - own), answer, strict=True):
            value = _tensor(came, name, (rows,))
            if not same(value, expected):
                others = {cause: factor * expected for cause, factor in mistakes.items()}
                if name.startswith("H"):
                    others["That is the mean of the routes' entropies: average first, then the entropy."] = own
                if name.startswith("E"):
                    others["That is the entropy of the average: take each route's entropy, then the mean."] = whole
                    others["That is one route's entropy: take the mean over routes."] = _entropy(p)[:, 0]
                wrong(f"{name}, in nats", "another value", "a wrong one", likely(value, others))
    passed("check_split")


def _other_averages(logits: Tensor) -> dict[str, Tensor]:
    p = logits.softmax(-1)
    of_mean = logits.mean(1).softmax(-1)
    votes = torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).float()
    return {
        "The logits were averaged, then the softmax taken: a sure route counts more than its share.": of_mean,
        "These are logits: take each route's softmax first.": logits.mean(1),
        "These are log-probabilities: Eq. 7 averages probabilities.": p.mean(1).log(),
        "These are averaged log-probabilities: Eq. 7 averages probabilities.": p.log().mean(1),
        "That is a vote: each route's answer without how sure it is.": votes.mean(1),
        "That is the sum over routes: take the mean.": p.sum(1),
        "The softmax ran over the routes: each route's classes must sum to 1 (dim=-1).": logits.softmax(1).mean(1),
        "That is one route alone.": p[:, 0],
    }


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(-1)


def _tensor(value: object, what: str, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        came = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        wrong(what, f"a tensor {list(shape)}", came, "Which axis is averaged, which is kept?")
    return value.float()
