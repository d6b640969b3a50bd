"""What is measured for each lesson, as differences paired by row on what every route answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import torch
from torch import Tensor

from adamix_lab.analysis.posterior import marginal
from adamix_lab.analysis.samples import FixedBatches, fix_batches, merged_sample
from adamix_lab.core.errors import unknown
from adamix_lab.core.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.answers import GRID, Answers, answers_of, load_answers
from adamix_lab.lessons.combining_effects import exporting
from adamix_lab.lessons.consistency import agreed_and_wrong, pairwise_kl
from adamix_lab.lessons.effects import Measure
from adamix_lab.lessons.measures_ablations import RESULT_SEEDS, ablations
from adamix_lab.lessons.measures_landscape import landscapes
from adamix_lab.lessons.measures_posterior import posterior
from adamix_lab.lessons.measures_writing import writing
from adamix_lab.lessons.merging import aligned, permuted_copies
from adamix_lab.lessons.routing import by_expert, favourite_share, flips, gate_load, specialist_gain
from adamix_lab.tasks.tasks import load_task
from adamix_lab.training.evaluation import evaluate
from adamix_lab.training.shipped import SEEDS, load_twin

Measures = dict[str, tuple[str, Measure]]
Score = Callable[[Answers], Tensor]  # [rows]


def merged_minus_experts(answers: Answers, of: str = "right") -> Tensor:
    """The merge against the mean of its experts, each alone: `[rows]`; of: "right" or "loss"."""
    alone: Tensor = getattr(answers, of)[:, answers.fixed].mean(1)
    return getattr(answers, f"merged_{of}") - alone


def between(first: str, second: str, score: Score) -> Measure:
    """A score of one run minus that of another, row by row."""
    return lambda seed: score(load_answers(first, seed)) - score(load_answers(second, seed))


def on(name: str, score: Score) -> Measure:
    """A score of one run."""
    return lambda seed: score(load_answers(name, seed))


GAP = partial(merged_minus_experts, of="right")
LOSS_GAP = partial(merged_minus_experts, of="loss")


def experts_alone(answers: Answers, of: str = "right") -> Tensor:
    """Mean over the experts, each alone, `[rows]`."""
    value: Tensor = getattr(answers, of)[:, answers.fixed].mean(1)
    return value


# -- 00 ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _switched_off(seed: int) -> Tensor:
    mixture, tokenizer = load_twin("adamix", seed)
    with mixture.disabled():
        return evaluate(mixture, load_task("aspects"), tokenizer)[0].right.float()


def tour() -> Measures:
    """Lesson 00."""
    return {
        "AdaMix merged minus the same with the adapters off": (
            "points", lambda seed: load_answers("adamix", seed).merged_right - _switched_off(seed)),
        "AdaMix: merged minus its experts alone": ("points", on("adamix", GAP)),
        "trained apart: merged minus its experts alone": ("points", on("apart", GAP)),
        "experts alone: trained apart minus AdaMix": ("points", between("apart", "adamix", experts_alone)),
        "merged: trained apart minus AdaMix": ("points", between("apart", "adamix", lambda a: a.merged_right)),
    }  # fmt: skip


# -- 01 ---------------------------------------------------------------------------------------------------

ONE_SIDED = ("both", "neither", "not_both", "twice", "as_was")


@lru_cache(maxsize=1)
def _constructions() -> list[str]:
    return [str(row["construction"]) for row in load_task("aspects").evaluation]


def gain_of_specialists(answers: Answers, site: int, of: str = "right") -> Tensor:
    """`specialist_gain` of one block's experts, `[rows]`."""
    values = answers.right if of == "right" else -answers.loss
    return specialist_gain(by_expert(answers, values)[:, site], _constructions())


def one_sided_from_contrasts(answers: Answers) -> Tensor:
    """Accuracy where all aspects of a sentence share a judgement minus where they differ (data/aspects/README.md).

    As a number a row, +1 / share of the first kind or -1 / share of the second, so that the mean is the difference.
    """
    one_sided = torch.tensor([name in ONE_SIDED for name in _constructions()])
    signs = one_sided / one_sided.float().mean() - (~one_sided) / (~one_sided).float().mean()
    return answers.right.mean(1) * signs


def best_from_worst_expert(answers: Answers, site: int) -> Tensor:
    """Accuracy of the expert that half of the rows finds best minus the worst's, on the other half's rows."""
    values = by_expert(answers, answers.right)[:, site]
    first = torch.arange(len(values)) % 2 == 0
    means = values[first].mean(0)
    return values[~first, int(means.argmax())] - values[~first, int(means.argmin())]


def loss_of_specialists(answers: Answers, site: int) -> Tensor:
    """The loss of an expert chosen by construction minus that of one for all, `[rows]`, in nats."""
    return -gain_of_specialists(answers, site, "loss")


def routing() -> Measures:
    """Lesson 01."""
    measures: Measures = {
        "constructions: one-sided minus contrasts, accuracy": ("points", on("adamix", one_sided_from_contrasts)),
    }
    for site, block in enumerate(("block 5", "block 6")):
        measures |= {
            f"{block}: best minus worst expert, accuracy": (
                "points", on("adamix", partial(best_from_worst_expert, site=site))),
            f"{block}: an expert chosen by construction minus one for all, accuracy": (
                "points", on("adamix", partial(gain_of_specialists, site=site))),
            f"{block}: an expert chosen by construction minus one for all, loss": (
                "nats", on("adamix", partial(loss_of_specialists, site=site))),
        }  # fmt: skip
    for name in ("adamix", "no-consistency", "unshared-tied", "apart"):
        measures[f"{name}: routes that flip when one expert changes"] = (
            "points", on(name, lambda a: flips(a).mean(1)))  # fmt: skip
    measures["flips: no-consistency minus AdaMix"] = (
        "points", between("no-consistency", "adamix", lambda a: flips(a).mean(1)))  # fmt: skip
    return measures | {
        "a gate without balancing: tokens of the busiest expert, above 1 in 4": ("points", favourite_share),
        "a balanced gate: load of a construction from the mean load, above chance": ("points", gate_load),
    }


# -- 02 ---------------------------------------------------------------------------------------------------


def consistency() -> Measures:
    """Lesson 02."""
    measures: Measures = {
        "trained apart: merged minus its experts alone": ("points", on("apart", GAP)),
        "trained apart: merged minus its experts alone, loss": ("nats", on("apart", LOSS_GAP)),
    }
    scores: dict[str, tuple[str, Score]] = {
        "pairwise KL of routes": ("nats", pairwise_kl),
        "a random route, accuracy": ("points", lambda a: a.right.mean(1)),
        "a random route, loss": ("nats", lambda a: a.loss.mean(1)),
        "merged, accuracy": ("points", lambda a: a.merged_right),
        "merged minus its experts alone, accuracy": ("points", GAP),
        "merged minus its experts alone, loss": ("nats", LOSS_GAP),
        "all routes agree on a wrong answer": ("points", agreed_and_wrong),
    }
    for weight, name in list(GRID.items())[1:]:
        for what, (unit, score) in scores.items():
            measures[f"{what}: weight {weight} minus weight 0"] = (unit, between(name, GRID[0], score))
    return measures


# -- 03 ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def aligned_answers(seed: int) -> Answers:
    """Experts trained apart, their units aligned to expert 0's."""
    mixture, tokenizer = load_twin("apart", seed)
    load_trained(mixture, aligned({name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}))
    return answers_of(mixture, load_task("aspects"), tokenizer)


def permuted_gap(seed: int, draws: int = 4) -> Tensor:
    """Permuted copies of one adapter: merged minus that adapter, `[rows]`, mean over the four adapters and draws."""
    mixture, tokenizer = load_twin("apart", seed)
    fixed = fix_batches(mixture, load_task("aspects"), tokenizer, batch_size=64)
    trained = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}
    gaps = []
    for expert in range(mixture.space.experts):
        alone = _merged_right(fixed, mixture, trained | _all(trained, expert))
        for draw in range(draws):
            copies = permuted_copies(trained, expert, generator_for(seed, expert, draw))
            gaps.append(_merged_right(fixed, mixture, copies) - alone)
    return torch.stack(gaps).mean(0)


def _all(tensors: dict[str, Tensor], expert: int) -> dict[str, Tensor]:
    # copies as the expert is: their merge is the expert
    return {
        name: stacked[expert].expand_as(stacked) for name, stacked in tensors.items() if name.startswith("experts.")
    }


def _merged_right(fixed: FixedBatches, mixture: MixtureModel, tensors: dict[str, Tensor]) -> Tensor:
    load_trained(mixture, tensors)
    return (merged_sample(fixed).logits[:, 0].argmax(-1) == fixed.labels).float()


def ensemble_right(answers: Answers) -> Tensor:
    """Whether the average over all routes' probabilities answers rightly, `[rows]`, as 0 and 1."""
    return (marginal(answers.routes).argmax(-1) == answers.labels).float()


def merging() -> Measures:
    """Lesson 03."""
    twins = ("adamix", "no-consistency", "unshared-tied", "apart")
    measures: Measures = {}
    for name in twins:
        measures[f"{name}: merged minus its experts alone"] = ("points", on(name, GAP))
        measures[f"{name}: merged minus its experts alone, loss"] = ("nats", on(name, LOSS_GAP))
        measures[f"{name}: merged minus the ensemble of all routes"] = (
            "points", on(name, lambda a: a.merged_right - ensemble_right(a)))  # fmt: skip
    for first, second in itertools.combinations(twins, 2):
        measures[f"the gap of the merge: {first} minus {second}"] = ("points", between(first, second, GAP))
    return measures | {
        "permuted copies of one expert: merged minus that expert": ("points", permuted_gap),
        "trained apart, units aligned: merged minus its experts alone": (
            "points", lambda s: GAP(aligned_answers(s))),
        "trained apart, merged: aligned minus not": (
            "points", lambda s: aligned_answers(s).merged_right - load_answers("apart", s).merged_right),
        "merged: trained apart and aligned minus AdaMix": (
            "points", lambda s: aligned_answers(s).merged_right - load_answers("adamix", s).merged_right),
    }  # fmt: skip


LESSONS: Mapping[str, Callable[[], Measures]] = {
    "00": tour,
    "01": routing,
    "02": consistency,
    "03": merging,
    "04": posterior,
    "05": landscapes,
    "06": writing,
    "07": ablations,
    "08": exporting,
}


def measures_of(lesson: str) -> Measures:
    """What is measured for a lesson ("00", "01", ...). Raises ValueError for an unknown one."""
    if lesson not in LESSONS:
        raise unknown("Lesson", lesson, LESSONS)
    return LESSONS[lesson]()


def seeds_of(lesson: str) -> int:
    """How many seeds of what a lesson measures are shipped."""
    return len(RESULT_SEEDS if lesson == "07" else SEEDS)
