"""Effect tables: what a lesson shows is measured on the shipped experts before the lesson is written.

    python data/results/effects/make.py            # all lessons
    python data/results/effects/make.py 02 --seeds 1 --out runs/effects

A measure gives one number a row of the evaluation set, for one seed: a difference paired by row, or what becomes one.
Its mean has an interval over rows for each seed, and a t-interval over seeds. An effect that lies inside its interval
over seeds is a null result here, and the lessons say so.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.posterior import FixedBatches, fix_batches, marginal, merged_sample, uncertainty
from adamix_lab.analysis.statistics import t_interval
from adamix_lab.core.errors import one_of, unknown
from adamix_lab.core.files import write_text
from adamix_lab.core.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.experiments.contrasts import Budget
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.generation.shipped import EXPERTS as WRITER_EXPERTS
from adamix_lab.generation.shipped import TASK, load_texts
from adamix_lab.generation.tasks import load_generation_task
from adamix_lab.lessons.ablations import is_run, open_results, right_rows
from adamix_lab.lessons.answers import GRID, Answers, answers_of, load_answers
from adamix_lab.lessons.consistency import agreed_and_wrong, pairwise_kl
from adamix_lab.lessons.generation import covered
from adamix_lab.lessons.landscape import NAMES, Faces, load_faces
from adamix_lab.lessons.merging import aligned, permuted_copies
from adamix_lab.lessons.posterior import (
    bayes_weights,
    estimates,
    merge_distance,
    pulled_answers,
    route_distance,
    samples_of,
)
from adamix_lab.lessons.routing import by_expert, favourite_share, flips, gate_load, specialist_gain
from adamix_lab.lessons.your_own import EXPERTS, fresh_loras, read_loras
from adamix_lab.tasks.tasks import load_task
from adamix_lab.training.evaluation import evaluate
from adamix_lab.training.shipped import SEEDS, TWINS, load_twin

HERE = Path(__file__).resolve().parent
Measure = Callable[[int], Tensor]  # seed -> [rows]
Measures = dict[str, tuple[str, Measure]]  # effect: (unit, measure)
Score = Callable[[Any], Tensor]  # of a run's answers, or of what was measured between its experts: [rows]
COLUMNS = (
    "effect", "unit", "mean", "half_width", "verdict", "by_seed", "half_width_over_rows", "seeds", "rows", "seconds",
)  # fmt: skip  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """One line of a table.

    Attributes:
        effect: in words: what minus what.
        unit: "points" (of 100 rows), "nats", or "share".
        values: the mean over rows, one a seed.
        over_rows: half of the 95 % interval over rows, one a seed.
        rows: how many.
        seconds: the measurement took.
    """

    effect: str
    unit: str
    values: tuple[float, ...]
    over_rows: tuple[float, ...]
    rows: int
    seconds: float

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    @property
    def half_width(self) -> float:
        """Half of the 95 % t-interval over seeds."""
        return t_interval(self.values).half_width

    @property
    def verdict(self) -> str:
        """Whether the interval over seeds leaves 0 out: "effect", "null result", or "one seed"."""
        if len(self.values) == 1:
            return "one seed"
        return "effect" if abs(self.mean) > self.half_width else "null result"

    def row(self) -> dict[str, str]:
        """The line as text."""
        digits = 4 if self.unit == "nats" else 2

        def listed(values: Sequence[float]) -> str:
            return " ".join("" if math.isnan(value) else f"{value:.{digits}f}" for value in values)

        told = (
            self.effect, self.unit, listed([self.mean]), listed([self.half_width]), self.verdict, listed(self.values),
            listed(self.over_rows), str(len(self.values)), str(self.rows), f"{self.seconds:.1f}",
        )  # fmt: skip
        return dict(zip(COLUMNS, told, strict=True))


def measure_effect(effect: str, unit: str, function: Measure, seeds: Sequence[int] = SEEDS) -> Effect:
    """Runs one measure over seeds; points are shares times 100.

    Seeds whose runs are not stored are left out, and the table says how many there were. Raises ValueError for an
    unknown unit, FileNotFoundError where no seed is there.
    """
    one_of("unit", unit, ("points", "nats"))
    start = time.perf_counter()
    scale = 100.0 if unit == "points" else 1.0
    values, widths, rows = [], [], 0
    missing: list[FileNotFoundError] = []
    for seed in seeds:
        try:
            of_rows = function(seed).double() * scale
        except FileNotFoundError as error:
            missing.append(error)
            continue
        rows = len(of_rows)
        values.append(float(of_rows.mean()))
        widths.append(t_interval(of_rows).half_width)
    if not values and missing:
        raise missing[0]
    return Effect(effect, unit, tuple(values), tuple(widths), rows, time.perf_counter() - start)


def measure_effects(
    measures: Measures, seeds: Sequence[int] = SEEDS, say: Callable[[str], None] = print
) -> list[Effect]:
    """A lesson's measures, one after another."""
    found = []
    for effect, (unit, function) in measures.items():
        found.append(measure_effect(effect, unit, function, seeds))
        row = found[-1].row()
        say(f"{effect}: {row['mean']} ± {row['half_width']} {unit}, {row['verdict']}")
    return found


def write_effects(path: Path, effects: Sequence[Effect]) -> Path:
    """The table as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(effect.row() for effect in effects)
    write_text(path, text.getvalue())
    return path


def on(name: str, score: Score, load: Callable[[str, int], Any] = load_answers) -> Measure:
    """A score of one run."""
    return lambda seed: score(load(name, seed))


def between(first: str, second: str, score: Score, load: Callable[[str, int], Any] = load_answers) -> Measure:
    """A score of one run minus that of another, row by row."""
    return lambda seed: score(load(first, seed)) - score(load(second, seed))


def signs(first: Tensor) -> Tensor:
    """+1 / share of rows of a first kind, -1 / share of the others, `[rows]`: a mean over rows becomes a difference."""
    return first / first.float().mean() - (~first) / (~first).float().mean()


# -- lessons 00 to 03: differences paired by row on what every route answers ------------------------------


def merged_minus_experts(answers: Answers, of: str = "right") -> Tensor:
    """The merge against the mean of its experts, each alone: `[rows]`; of: "right" or "loss"."""
    alone: Tensor = getattr(answers, of)[:, answers.fixed].mean(1)
    return getattr(answers, f"merged_{of}") - alone


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

    As a number a row, so that the mean is the difference.
    """
    return answers.right.mean(1) * signs(torch.tensor([name in ONE_SIDED for name in _constructions()]))


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


# -- 04: the merge against drawn routes, averages, Bayes' weights, doubt and calibration ------------------

SHARES = {"1": 1.0, "1/2": 0.5, "1/4": 0.25, "1/8": 0.125}


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


def of_pulled(name: str, share: str, score: Score, minus: bool = False) -> Measure:
    """A score of a run whose experts are pulled together; minus: minus that of the experts as trained, row by row."""

    def measure(seed: int) -> Tensor:
        answers = pulled_runs(name, seed)
        return score(answers[share]) - (score(answers["1"]) if minus else 0.0)

    return measure


def posterior() -> Measures:
    """Lesson 04."""
    measures: Measures = {
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


# -- 05: heights above the mean of the experts, and what random directions show of them -------------------


def height(found: Faces, size: int) -> Tensor:
    """Mean over groups of so many experts, `[rows]`, in nats."""
    return found.height(size).mean(1)


def chosen_pair(found: Faces, highest: bool) -> Tensor:
    """The height of the pair that half of the rows find highest (or lowest), on the other half, `[rows / 2]`."""
    heights = found.height(2)
    first = torch.arange(len(heights)) % 2 == 0
    means = heights[first].mean(0)
    return heights[~first, int(means.argmax() if highest else means.argmin())]


def four_above_lowest(found: Faces) -> Tensor:
    """All four's height less that of the pair that half of the rows find lowest, on the other half, `[rows / 2]`."""
    return height(found, 4)[1::2] - chosen_pair(found, highest=False)


def landscapes() -> Measures:
    """Lesson 05."""
    heights: dict[str, Score] = {
        f"{name} above their mean loss": partial(height, size=size) for size, name in NAMES.items()
    }
    pairs: dict[str, Score] = {
        "the middle of all four above that of two": lambda found: height(found, 4) - height(found, 2),
        "the highest of six pairs, its middle above the chord": partial(chosen_pair, highest=True),
        "the lowest of six pairs, its middle above the chord": partial(chosen_pair, highest=False),
        "the middle of all four above the lowest of six pairs": four_above_lowest,
    }
    rises: dict[str, Score] = {
        "rise in a random direction, as far as the middle of two": lambda found: found.random_rise().mean(1),
        "rise toward another expert minus in a random direction, as far": (
            lambda found: found.toward_rise().mean(1) - found.random_rise().mean(1)
        ),
    }

    def of_twins(scores: dict[str, Score]) -> Measures:
        return {f"{t}: {what}": ("nats", on(t, score, load_faces)) for t in TWINS for what, score in scores.items()}

    differences: Measures = {
        f"{what}: {twin} minus AdaMix": ("nats", between(twin, "adamix", score, load_faces))
        for twin in ("no-consistency", "unshared-tied", "apart")
        for what, score in heights.items()
    }
    return of_twins(heights | pairs) | differences | of_twins(rises)


# -- 06: slot coverage of shipped writers under ways of decoding, paired by source ------------------------


def expert_coverage(seed: int) -> Tensor:
    """Mean coverage of the four experts, each alone, `[sources]`."""
    return torch.stack([covered(f"fixed-{n}", seed) for n in range(WRITER_EXPERTS)]).mean(0)


def coverage_difference(first: str, second: str) -> Measure:
    """Coverage of one strategy minus that of another, source by source."""
    return lambda seed: covered(first, seed) - covered(second, seed)


def seen_from_held_out(seed: int) -> Tensor:
    """The merge's coverage of pairs seen in training minus of pairs held out, as a number a source."""
    seen = [row["group"] == "seen" for row in load_generation_task(TASK).evaluation]
    return covered("merged", seed) * signs(torch.tensor(seen))


def same_text(first: str, second: str) -> Measure:
    """Whether two strategies wrote the same text, `[sources]`, as 0 and 1."""

    def measure(seed: int) -> Tensor:
        texts = load_texts("adamix", seed)
        return torch.tensor([float(a == b) for a, b in zip(texts[first], texts[second], strict=True)])

    return measure


def writing() -> Measures:
    """Lesson 06."""
    measures: dict[str, Measure] = {
        "slots realised: merged": lambda seed: covered("merged", seed),
        "slots realised: an expert alone (mean of 4)": expert_coverage,
        "slots realised: a new route every token": lambda seed: covered("anew", seed),
        "slots realised: merged minus an expert alone": lambda seed: covered("merged", seed) - expert_coverage(seed),
        "slots realised: one random route a text minus a new route every token": coverage_difference("random", "anew"),
        "slots realised: merged minus a new route every token": coverage_difference("merged", "anew"),
        "slots realised, merged: 4 beams minus greedy": coverage_difference("merged, 4 beams", "merged"),
        "slots realised, merged: pairs seen in training minus pairs held out": seen_from_held_out,
        "texts that two experts alone write alike": same_text("fixed-0", "fixed-1"),
        "texts that an expert alone and the merge write alike": same_text("fixed-0", "merged"),
    }
    return {effect: ("points", measure) for effect, measure in measures.items()}


# -- 07: accuracy of AdaMix minus its variants', paired by row, on the shipped results --------------------

RESULT_SEEDS = range(5)  # of the results
CORE = {"tasks": ("rte", "mrpc", "sst2"), "variants": ("single", "no consistency", "no sharing")}


def ahead(seed: int, name: str, task: str, variant: str, budget: Budget = "steps") -> Tensor:
    """AdaMix right minus the variant right, `[rows]`; AdaMix's own steps are its equal compute, too."""
    scores = open_results(name)
    other = right_rows(scores, task, variant, seed, budget)
    return torch.from_numpy(right_rows(scores, task, "AdaMix", seed) - other)


def ablations() -> Measures:
    """Lesson 07; what is measured on results that are not shipped is left out."""
    wanted: list[tuple[str, str, str, Budget]] = [
        *(("core", task, variant, "steps") for task in CORE["tasks"] for variant in CORE["variants"]),
        ("budget", "aspects", "single", "steps"),
        ("budget", "aspects", "single", "compute"),
        ("budget", "aspects", "no consistency", "steps"),
    ]
    return {
        f"{task}, accuracy at equal {budget}: AdaMix minus {variant}": (
            "points", partial(ahead, name=name, task=task, variant=variant, budget=budget))
        for name, task, variant, budget in wanted
        if is_run(name, task, variant, budget)
    }  # fmt: skip


# -- 08: LoRA experts merged in several ways, on the same rows, for three seeds ---------------------------

# Factors on mean(B) mean(A): what peft's "linear" makes of M equal weights w, sqrt(w) on each A and each B: w M².
LINEAR = {"linear at 1/M²": 1.0, "linear at 1/M": float(EXPERTS), "linear at 1": float(EXPERTS**2)}
PRODUCTS = "mean of products"
EVERY = 4  # evaluation rows that are looked at: each fourth
ALONE = tuple(f"expert {n}" for n in range(EXPERTS))


def merged_weights(a: Tensor, b: Tensor, way: str) -> dict[str, Tensor]:
    """One site's A `[M, r, in]` and B `[M or 1, out, r]` merged: a name of LINEAR, PRODUCTS, or one of ALONE.

    PRODUCTS is one LoRA of rank M r, A `[M r, in]` and B `[out, M r]`: what peft's "cat" gives at 1/M.
    """
    b = b.expand(len(a), -1, -1)
    if way in ALONE:
        return {"A": a[ALONE.index(way)], "B": b[ALONE.index(way)]}
    if way == PRODUCTS:
        return {"A": a.flatten(0, 1), "B": b.permute(1, 0, 2).flatten(1) / len(a)}
    return {"A": a.mean(0), "B": LINEAR[way] * b.mean(0)}


@lru_cache(maxsize=1)
def lora_rows() -> FixedBatches:
    """The evaluation rows that are looked at."""
    # one frozen prefix for every seed and kind: only the last block and the head differ
    mixture, tokenizer = fresh_loras("tied", 0)
    task = load_task("aspects")
    return fix_batches(mixture.eval(), task, tokenizer, task.evaluation[::EVERY], batch_size=64)


@lru_cache(maxsize=8)
def lora_answers(kind: str, seed: int) -> dict[str, Tensor]:
    """`{way: [rows, C]}` of a shipped kind on the evaluation rows."""
    tensors, fixed = read_loras(kind, seed), lora_rows()
    for path, module in fixed.mixture.head.items():
        module.load_state_dict({name: tensors[f"head.{path}.{name}"] for name in module.state_dict()})

    def under(way: str) -> Tensor:
        selection = {
            path: merged_weights(tensors[f"experts.{path}.A"], tensors[f"experts.{path}.B"], way)
            for path in fixed.mixture.sites
        }

        def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
            with cut_last_block(model.model):
                return model(selection=selection, **batch).logits  # type: ignore[no-any-return]

        return fixed.gather(answer).log_softmax(-1)

    return {way: under(way) for way in (*LINEAR, PRODUCTS, *ALONE)}


def lora_score(kind: str, seed: int, way: str, of: str) -> Tensor:
    """`[rows]`: 1 where the answer is right ("points"), or the loss ("nats"); "alone" is the mean of the experts.

    way "chance" is always the more frequent class; it has no loss.
    """
    if way == "chance":
        labels = lora_rows().labels
        return (labels == labels.mode().values).float()
    if way == "alone":
        return torch.stack([lora_score(kind, seed, expert, of) for expert in ALONE]).mean(0)
    answers, labels = lora_answers(kind, seed)[way], lora_rows().labels
    if of == "points":
        return (answers.argmax(-1) == labels).float()
    return -answers.gather(1, labels[:, None])[:, 0]


def score_difference(kind: str, way: str, other: str, of: str) -> Measure:
    """One way's score minus another's, row by row."""
    return lambda seed: lora_score(kind, seed, way, of) - lora_score(kind, seed, other, of)


def exporting() -> Measures:
    """Lesson 08."""
    factors = "linear at 1/M²"
    asked = [
        ("adamix", "AdaMix: merged minus its experts alone", factors, "alone"),
        ("adamix", "AdaMix: peft's linear at 1/M minus merged", "linear at 1/M", factors),
        ("adamix", "AdaMix: peft's linear at 1 minus merged", "linear at 1", factors),
        ("tied", "tied: mean of products minus experts alone", PRODUCTS, "alone"),
        ("tied", "tied: mean of factors minus experts alone", factors, "alone"),
        ("tied", "tied: mean of factors minus mean of products", factors, PRODUCTS),
        ("tied", "tied: peft's linear at 1/M minus mean of products", "linear at 1/M", PRODUCTS),
    ]
    learned = {
        f"{name}: merged minus always the more frequent class, accuracy": (
            "points", score_difference(kind, way, "chance", "points"))
        for kind, name, way in (("adamix", "AdaMix", factors), ("tied", "tied", PRODUCTS))
    }  # fmt: skip
    return learned | {
        f"{name}{what}": (of, score_difference(kind, way, other, of))
        for kind, name, way, other in asked
        for of, what in (("points", ", accuracy"), ("nats", ", loss"))
    }


# -- all lessons ------------------------------------------------------------------------------------------

LESSONS: Mapping[str, Callable[[], Measures]] = {
    "00": tour, "01": routing, "02": consistency, "03": merging, "04": posterior, "05": landscapes, "06": writing,
    "07": ablations, "08": exporting,
}  # fmt: skip


def measures_of(lesson: str) -> Measures:
    """What is measured for a lesson ("00", "01", ...). Raises ValueError for an unknown one."""
    if lesson not in LESSONS:
        raise unknown("Lesson", lesson, LESSONS)
    return LESSONS[lesson]()


def seeds_of(lesson: str) -> int:
    """How many seeds of what a lesson measures are shipped."""
    return len(RESULT_SEEDS if lesson == "07" else SEEDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="00, 01, ...; default: all")
    parser.add_argument("--out", type=Path, default=HERE, help="default: beside this file")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ...; default: as many as are shipped")
    options = parser.parse_args()
    for lesson in options.lessons or LESSONS:
        seeds = range(options.seeds or seeds_of(lesson))
        print(write_effects(options.out / f"{lesson}.csv", measure_effects(measures_of(lesson), seeds)))


if __name__ == "__main__":
    main()
