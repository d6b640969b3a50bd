"""What is measured for lesson 04: the merge against drawn routes, averages, Bayes' weights, doubt and calibration."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from adamix_lab.analysis.posterior import marginal, uncertainty
from adamix_lab.lessons.answers import Answers, load_answers
from adamix_lab.lessons.effects import Measure
from adamix_lab.lessons.posterior import (
    bayes_weights,
    estimates,
    merge_distance,
    pulled_answers,
    route_distance,
    samples_of,
)

SHARES = {"1": 1.0, "1/2": 0.5, "1/4": 0.25, "1/8": 0.125}
Score = Callable[[Answers], Tensor]  # [rows]


def loss_of(log_p: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood in nats: `[..., rows, C]` to `[..., rows]`."""
    return -log_p.gather(-1, labels[:, None].expand(*log_p.shape[:-1], 1)).squeeze(-1)


def merge_minus_route(answers: Answers) -> Tensor:
    """How much farther from the exact marginal the merge is than one drawn route, `[rows]`."""
    return merge_distance(answers) - route_distance(answers)


def exact_minus_drawn(answers: Answers, size: int) -> Tensor:
    """Loss of the exact marginal minus that of an average of `size` drawn routes, `[rows]`, in nats."""
    return loss_of(marginal(answers.routes), answers.labels) - loss_of(estimates(answers, size), answers.labels).mean(0)


def logits_minus_probabilities(answers: Answers) -> Tensor:
    """Loss of the average of all routes' logits minus that of their probabilities, `[rows]`, in nats."""
    logits, probabilities = (marginal(answers.routes, average) for average in ("logits", "probabilities"))
    return loss_of(logits, answers.labels) - loss_of(probabilities, answers.labels)


def bayes_minus_uniform(answers: Answers) -> Tensor:
    """Loss of routes weighed by Bayes' rule minus uniformly: each half of the rows weighs for the other, `[rows]`."""
    half = torch.arange(len(answers.labels)) % 2
    found = -loss_of(marginal(answers.routes.double()), answers.labels)
    for mine in (0, 1):
        weights = bayes_weights(answers, half != mine)
        weighed = (answers.routes[half == mine].double() + weights.log()[:, None]).logsumexp(1)
        found[half == mine] += loss_of(weighed, answers.labels[half == mine])
    return found


def doubt(kind: str) -> Score:
    """One of `posterior.uncertainty`'s kinds of all routes, `[rows]`."""
    return lambda answers: uncertainty(samples_of(answers)[0])[kind]


def overconfidence(log_p: Tensor, labels: Tensor) -> Tensor:
    """Confidence minus whether the answer is right: `[..., rows, C]` to `[..., rows]`."""
    best, said = log_p.exp().max(-1)
    return best - (said == labels).float()


def route_overconfidence(answers: Answers) -> Tensor:
    """`overconfidence` of one route, mean over all, `[rows]`."""
    return overconfidence(answers.routes.transpose(0, 1), answers.labels).mean(0)


def noticing(answers: Answers, kind: str) -> Tensor:
    """For each row that all routes together answer wrongly, the share of right rows that are less in doubt, `[wrong]`.

    Its mean is the area under the ROC curve (ties count half); differences of two kinds are paired by row.
    """
    wrong = marginal(answers.routes).argmax(-1) != answers.labels
    value = doubt(kind)(answers)
    here, others = value[wrong, None], value[~wrong]
    return (others < here).double().mean(1) + 0.5 * (others == here).double().mean(1)


@lru_cache(maxsize=4)
def pulled_runs(twin: str, seed: int) -> dict[str, Answers]:
    """What a twin answers once its experts are pulled together, by share."""
    return dict(zip(SHARES, pulled_answers(twin, seed, tuple(SHARES.values())), strict=True))


def on(name: str, score: Score) -> Measure:
    """A score of one run."""
    return lambda seed: score(load_answers(name, seed))


def between(first: str, second: str, score: Score) -> Measure:
    """A score of one run minus that of another, row by row."""
    return lambda seed: score(load_answers(first, seed)) - score(load_answers(second, seed))


def of_pulled(name: str, share: str, score: Score, minus: bool = False) -> Measure:
    """A score of a run whose experts are pulled together; minus: minus that of the experts as trained, row by row."""

    def measure(seed: int) -> Tensor:
        answers = pulled_runs(name, seed)
        return score(answers[share]) - (score(answers["1"]) if minus else 0.0)

    return measure


def posterior() -> dict[str, tuple[str, Measure]]:
    """Lesson 04."""
    measures: dict[str, tuple[str, Measure]] = {
        f"{name}: distance to all routes, the merge minus one drawn route": ("points", on(name, merge_minus_route))
        for name in ("adamix", "no-consistency", "unshared-tied", "apart")
    }
    measures["the merge's distance to all routes: apart minus adamix"] = (
        "points", between("apart", "adamix", merge_distance))  # fmt: skip
    for share in list(SHARES)[1:]:
        told = f"adamix, experts pulled to {share} of their distance"
        measures |= {
            f"{told}: the merge minus one route": ("points", of_pulled("adamix", share, merge_minus_route)),
            f"{told}: the merge's distance, minus that of experts as trained": (
                "points", of_pulled("adamix", share, merge_distance, minus=True)),
        }  # fmt: skip
    for name in ("adamix", "apart"):
        measures |= {f"{name}: {effect}": (unit, on(name, score)) for effect, (unit, score) in SCORES.items()}
    return measures | {
        "mutual information: apart minus adamix": ("nats", between("apart", "adamix", doubt("mutual_information"))),
        "mutual information: no-consistency minus adamix": (
            "nats", between("no-consistency", "adamix", doubt("mutual_information"))),
        "adamix: wrong answers noticed (AUROC), mutual information minus entropy": (
            "points", on("adamix", lambda a: noticing(a, "mutual_information") - noticing(a, "entropy"))),
    }  # fmt: skip


SCORES: dict[str, tuple[str, Score]] = {
    "loss, all routes minus one": ("nats", partial(exact_minus_drawn, size=1)),
    "loss, all routes minus an average of 4": ("nats", partial(exact_minus_drawn, size=4)),
    "loss, logits averaged minus probabilities": ("nats", logits_minus_probabilities),
    "loss on other rows, Bayes' weights minus uniform": ("nats", bayes_minus_uniform),
    "doubt of all routes, entropy": ("nats", doubt("entropy")),
    "doubt of all routes, expected entropy": ("nats", doubt("expected_entropy")),
    "doubt of all routes, mutual information": ("nats", doubt("mutual_information")),
    "confidence minus accuracy, one route": ("points", route_overconfidence),
    "confidence minus accuracy, all routes": (
        "points", lambda a: overconfidence(marginal(a.routes), a.labels)),
    "confidence minus accuracy, the merge": ("points", lambda a: overconfidence(a.merged, a.labels)),
}  # fmt: skip
