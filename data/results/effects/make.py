"""Effect tables: what a lesson shows is measured before the lesson is written.

    python data/results/effects/make.py                                     # all lessons
    python data/results/effects/make.py 02 --seeds 1 --out runs/effects

What is measured stands in `measures.yaml`; here are the scores. A measure gives one number a row of the evaluation set,
for one seed: a difference paired by row, or what becomes one. Its interval counts seeds and rows, both of which could
have been others, and is corrected for the effects of its family: those of its lesson, or of the `family` that its entry
names. `adamix_lab.analysis.statistics` says what is shown, alike, or not shown.
"""

from __future__ import annotations

import inspect
import json
import math
import pkgutil
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import typer
import yaml
from torch import Tensor

from adamix_lab.analysis.points import aligned, permuted_copies
from adamix_lab.analysis.posterior import (
    FixedBatches,
    Samples,
    fix_batches,
    marginal,
    merged_sample,
    total_variation,
    uncertainty,
)
from adamix_lab.analysis.statistics import SMALLEST, line_of, rows_variance
from adamix_lab.baselines.making import linear_probe
from adamix_lab.core.errors import one_of, unknown
from adamix_lab.core.files import write_text
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.experiments.contrasts import Budget, Scores, Side
from adamix_lab.experiments.results import PREDICTIONS
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.generation.comparison import EXPERTS as WRITER_EXPERTS
from adamix_lab.generation.comparison import TASK, load_texts
from adamix_lab.generation.tasks import coverage, load_generation_task
from adamix_lab.lessons.ablations import open_results
from adamix_lab.lessons.answers import Answers, answers_of, changed_twin, load_answers
from adamix_lab.lessons.posterior import bayes_weights, rescaled, samples_of
from adamix_lab.lessons.routing import by_construction, by_expert, train_gates
from adamix_lab.lessons.your_own import EXPERTS, fresh_loras, read_loras
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import TextsCut
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.shipped import SENTENCE_SEEDS, SENTENCES, load_twin, sentences

HERE = Path(__file__).resolve().parent
LESSONS: dict[str, list[dict[str, Any]]] = yaml.safe_load((HERE / "measures.yaml").read_text(encoding="utf-8"))
ASPECTS, RESULTS = range(10), range(5)  # seeds, where they are there
DIGITS = {"points": 3, "nats": 5}  # as stored; verdicts are of the stored numbers


class Measure(NamedTuple):
    """How an effect is measured: a unit, from a seed to `[rows]`, which seeds, and a family that is judged together."""

    unit: str
    function: Callable[[int], Tensor]
    seeds: Sequence[int] = ASPECTS
    family: str = ""


@dataclass(frozen=True)
class Effect:
    """One line of a table.

    Attributes:
        effect: in words: what minus what.
        unit: "points" (of 100 rows) or "nats".
        values: the mean over rows, one a seed.
        rows_error: what the choice of rows adds to the mean's standard error (`rows_variance`'s root).
        rows: how many.
        seconds: the measurement took.
        family: of effects that are judged together.
    """

    effect: str
    unit: str
    values: tuple[float, ...]
    rows_error: float
    rows: int
    seconds: float = 0.0
    family: str = ""

    def row(self, comparisons: int = 1) -> dict[str, str]:
        """The line as text, judged as one of so many comparisons."""
        digits = DIGITS[self.unit]
        line = line_of(self.effect, self.unit, self.values, self.rows_error, comparisons, digits)
        return line | {"family": self.family, "rows": str(self.rows), "seconds": f"{self.seconds:.1f}"}


def measure_effect(effect: str, measure: Measure) -> Effect:
    """Runs one measure over its seeds; points are shares times 100.

    Seeds whose runs are not stored are left out, and the table says how many there were. Raises ValueError for an
    unknown unit, FileNotFoundError where no seed is there.
    """
    unit, start = measure.unit, time.perf_counter()
    one_of("unit", unit, SMALLEST)
    found, missing = [], []
    for seed in measure.seeds:
        try:
            found.append(measure.function(seed).double() * (100.0 if unit == "points" else 1.0))
        except FileNotFoundError as error:
            missing.append(error)
    if missing and not found:
        raise missing[0]
    values = tuple(round(float(rows.mean()), DIGITS[unit]) for rows in found)
    over_rows = round(math.sqrt(variance_over_rows(found)), DIGITS[unit])
    return Effect(effect, unit, values, over_rows, len(found[-1]), time.perf_counter() - start, measure.family)


def variance_over_rows(found: Sequence[Tensor]) -> float:
    """`rows_variance` of seeds that answer the same rows `[rows]`.

    Where rows differ in number (those that a seed's model answers wrongly), all of their spread counts.
    """
    if len({len(rows) for rows in found}) == 1:
        return rows_variance(torch.stack(list(found)).numpy())
    return statistics.fmean(float(rows.var()) / len(rows) for rows in found)


def write_effects(path: Path, effects: Sequence[Effect]) -> Path:
    """The table as CSV, each effect judged among those of its family."""
    sizes = Counter(effect.family for effect in effects)
    table = pd.DataFrame([effect.row(sizes[effect.family]) for effect in effects])
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
    return path


# -- what is measured -------------------------------------------------------------------------------------


def measures_of(lesson: str) -> dict[str, Measure]:
    """What is measured for a lesson ("00", "01", ...). Raises ValueError for an unknown one."""
    if lesson not in LESSONS:
        raise unknown("Lesson", lesson, LESSONS)
    return {
        entry["effect"].format(**entry): Measure(
            entry["unit"], measure_of(entry), seeds_of(entry), entry.get("family", lesson)
        )
        for entry in repeated(LESSONS[lesson])
    }


def seeds_of(entry: Mapping[str, Any]) -> Sequence[int]:
    """The seeds of what an entry measures; those that are not stored are left out later."""
    if entry.get("results") in ("cells", "measured") or "data" in entry:
        return SENTENCE_SEEDS
    return RESULTS if "results" in entry else ASPECTS


def repeated(entries: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The entries of a lesson one by one, every `each` written out."""
    for entry in entries:
        for fields in entry.get("each", [{}]):
            for measure in entry.get("measures", [entry]):
                yield {"unit": "points", **fields, **measure}


def measure_of(entry: Mapping[str, Any]) -> Callable[[int], Tensor]:
    """An entry's score, less that with the fields of `minus` where it has them, row by row."""
    score = entry["score"]
    function = pkgutil.resolve_name(score) if ":" in score else globals()[score]
    parameters = list(inspect.signature(function).parameters)

    def scored(seed: int, fields: Mapping[str, Any]) -> Tensor:
        options = {name: fields[name] for name in parameters if name in fields}
        if parameters[0] == "answers":
            options["answers"] = answers_under(fields["run"], seed, fields.get("data"))
        else:
            options["seed"] = seed
        found: Tensor = function(**options)
        return found

    def measure(seed: int) -> Tensor:
        found = scored(seed, entry)
        return found - scored(seed, {**entry, **entry["minus"]}) if "minus" in entry else found

    return measure


def answers_under(run: str, seed: int, data: str | None = None) -> Answers:
    """What a run answers on "aspects" or other data. On "aspects", "aligned" is trained apart, then aligned."""
    if data:
        return load_answers(run, seed, data=data)
    return aligned_answers(seed) if run == "aligned" else load_answers(run, seed)


def signs(first: Tensor) -> Tensor:
    """+1 / share of rows of a first kind, -1 / share of the others, `[rows]`: a mean over rows becomes a difference."""
    return first / first.float().mean() - (~first) / (~first).float().mean()


def chosen(values: Tensor, highest: bool) -> Tensor:
    """The column of `[rows, K]` that half of the rows find highest (or lowest), on the other half, `[rows / 2]`."""
    first = torch.arange(len(values)) % 2 == 0
    means = values[first].mean(0)
    return values[~first, int(means.argmax() if highest else means.argmin())]


# -- lessons 00 to 03: on what every route answers, accuracy ("points") or loss ("nats") ------------------


SAYS: dict[str, Callable[[Answers], Tensor]] = {  # log-probabilities `[rows, C]`
    "merged": lambda answers: answers.merged,
    "all": lambda answers: marginal(answers.routes),
    "logits": lambda answers: marginal(answers.routes, "logits"),
    "experts": lambda answers: marginal(answers.routes[:, answers.fixed]),
}


def answered(answers: Answers, whose: str = "merged", unit: str = "points", scaled: bool = False) -> Tensor:
    """Whether the answer is right, as 0 and 1 ("points"), or its loss ("nats"): `[rows]`.

    whose: the merge's, an average over all routes or the experts (`SAYS`), or the mean of such scores over all routes,
    each alone ("route"), or the experts ("alone"). scaled: at the temperature that fits the other half of the rows.
    """
    if whose in ("route", "alone"):
        scores = answers.right if unit == "points" else answers.loss
        return (scores if whose == "route" else scores[:, answers.fixed]).mean(1)
    log_p = said(answers, whose, scaled)
    return (log_p.argmax(-1) == answers.labels).float() if unit == "points" else loss_of(log_p, answers.labels)


def said(answers: Answers, whose: str, scaled: bool = False) -> Tensor:
    """Log-probabilities `[rows, C]` of what `answered` takes."""
    one_of("whose", whose, SAYS)
    log_p = SAYS[whose](answers)
    return rescaled(log_p, answers.labels) if scaled else log_p


def loss_of(log_p: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood in nats: `[rows, C]` to `[rows]`."""
    return -log_p.gather(-1, labels[:, None]).squeeze(-1)


def merged_minus_experts(answers: Answers, unit: str = "points") -> Tensor:
    """The merge against the mean of its experts, each alone: `[rows]`."""
    return answered(answers, "merged", unit) - answered(answers, "alone", unit)


@lru_cache(maxsize=1)
def _constructions() -> list[str]:
    return [str(row["construction"]) for row in load_task("aspects").evaluation]


def specialist_gain(values: Tensor, constructions: Sequence[str]) -> Tensor:
    """What it pays to choose an expert for each construction rather than one for all, on rows that did not choose.

    The rows are split in two halves; each half chooses for the other. With specialists the gain is above 0; where
    experts differ by chance alone it is 0 on average.

    Args:
        values: higher is better, `[rows, M]`.
        constructions: of each row.

    Returns:
        The gain on each row, `[rows]`.
    """
    _, number, _ = by_construction(values, constructions)
    half = torch.arange(len(values)) % 2
    gain = torch.zeros(len(values))
    for judged in (0, 1):
        chooses, pays = half != judged, half == judged
        overall = int(values[chooses].mean(0).argmax())
        for kind in number.unique():
            own = int(values[chooses & (number == kind)].mean(0).argmax())
            here = pays & (number == kind)
            gain[here] = values[here, own] - values[here, overall]
    return gain


def best_from_worst_expert(answers: Answers, site: int) -> Tensor:
    """Accuracy of the expert that half of the rows finds best minus the worst's, on the other half's rows."""
    values = by_expert(answers, answers.right)[:, site]
    return chosen(values, highest=True) - chosen(values, highest=False)


def chosen_by_construction(answers: Answers, site: int, unit: str = "points") -> Tensor:
    """An expert of a block chosen for each construction minus one for all, `[rows]`."""
    scores = answers.right if unit == "points" else -answers.loss  # a lower loss is better
    gain = specialist_gain(by_expert(answers, scores)[:, site], _constructions())
    return gain if unit == "points" else -gain


def flips(answers: Answers) -> Tensor:
    """Whether changing one expert in one block changes the answer, `[rows, routes]`, as 0 and 1."""
    said = answers.routes.argmax(-1)  # [rows, routes]
    neighbours = (answers.index[:, None, :, 0] != answers.index[None, :, :, 0]).sum(-1) == 1
    return ((said[:, :, None] != said[:, None, :]) & neighbours).any(-1).float()


def flipping(answers: Answers) -> Tensor:
    """The share of routes whose answer one changed expert changes, `[rows]`."""
    return flips(answers).mean(1)


def answer_differently(answers: Answers) -> Tensor:
    """The share of pairs of routes that give a row different answers, `[rows]`."""
    number = answers.right.shape[1]
    ones = answers.routes.argmax(-1).float().sum(1)
    return 2 * ones * (number - ones) / (number * (number - 1))


def merge_differs(answers: Answers) -> Tensor:
    """Whether the merge answers otherwise than the average over all routes' probabilities, `[rows]`, as 0 and 1."""
    return (answers.merged.argmax(-1) != marginal(answers.routes).argmax(-1)).float()


def gate_load(seed: int) -> Tensor:
    """How far the load of a row's construction lies from the mean load, less the same for shuffled rows: `[rows]`.

    Total variation, mean over sites, of balanced gates on AdaMix's experts. Shuffling gives what chance alone does.
    """
    loads = _on_adamix(seed, balance=0.1)
    names = [str(row["construction"]) for row in load_task("aspects").evaluation[: len(loads)]]
    mixed = torch.randperm(len(names), generator=generator_for(seed)).tolist()
    return _from_mean(loads, names) - _from_mean(loads, [names[n] for n in mixed])


def favourite_share(seed: int) -> Tensor:
    """Share of each row's tokens that the busiest expert serves without a balancing loss, less 1/M: `[rows]`."""
    loads = _on_adamix(seed, balance=0.0)  # [rows, sites, M]
    busiest = loads.mean(0).argmax(-1)
    return (loads[:, range(len(busiest)), busiest] - 1 / loads.shape[-1]).mean(1)


def _on_adamix(seed: int, balance: float) -> Tensor:
    mixture, tokenizer = load_twin("adamix", seed)
    return train_gates(mixture, load_task("aspects"), tokenizer, balance=balance, seed=seed)


def _from_mean(loads: Tensor, names: Sequence[str]) -> Tensor:
    _, number, means = by_construction(loads, names)
    return 0.5 * (means - loads.mean(0)).abs().sum(-1).mean(-1)[number]


@lru_cache(maxsize=4)
def aligned_answers(seed: int) -> Answers:
    """Experts trained apart, their units aligned to expert 0's."""
    mixture, tokenizer = changed_twin(aligned, "apart", seed)
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
    return {name: w[expert].expand_as(w) for name, w in tensors.items() if name.startswith("experts.")}


def _merged_right(fixed: FixedBatches, mixture: MixtureModel, tensors: dict[str, Tensor]) -> Tensor:
    load_trained(mixture, tensors)
    return (merged_sample(fixed).logits[:, 0].argmax(-1) == fixed.labels).float()


# -- 05 and 06: merged weights against averages of answers, Bayes' weights, calibration and doubt ----------


def overconfidence_under(answers: Answers, whose: str, scaled: bool) -> Tensor:
    """Confidence minus whether the answer is right, `[rows]`."""
    return overconfidence(said(answers, whose, scaled), answers.labels)


def overconfidence(log_p: Tensor, labels: Tensor) -> Tensor:
    """Confidence minus whether the answer is right: `[..., rows, C]` to `[..., rows]`."""
    best, answer = log_p.exp().max(-1)
    return best - (answer == labels).float()


def above_ensemble(answers: Answers) -> Tensor:
    """Loss of the merge minus that of all routes' averaged logits (the paper's L_AM - L_Ens), `[rows]`, in nats."""
    return answered(answers, "merged", "nats") - answered(answers, "logits", "nats")


def route_distance(answers: Answers) -> Tensor:
    """Total variation between one route's answer and the exact marginal, mean over routes, `[rows]`."""
    return total_variation(answers.routes, marginal(answers.routes).unsqueeze(1)).mean(1)


def merge_distance(answers: Answers) -> Tensor:
    """Total variation between the merge's answer and the exact marginal, `[rows]`."""
    return total_variation(answers.merged, marginal(answers.routes))


def merge_minus_route(answers: Answers) -> Tensor:
    """How much farther from the exact marginal the merge is than one drawn route, `[rows]`."""
    return merge_distance(answers) - route_distance(answers)


def bayes_minus_uniform(answers: Answers) -> Tensor:
    """Loss of routes weighed by Bayes' rule minus uniformly: each half of the rows weighs for the other, `[rows]`."""
    half = torch.arange(len(answers.labels)) % 2
    found = -loss_of(marginal(answers.routes.double()), answers.labels)
    for mine in (0, 1):
        weights = bayes_weights(answers, half != mine)
        weighed = (answers.routes[half == mine].double() + weights.log()[:, None]).logsumexp(1)
        found[half == mine] += loss_of(weighed, answers.labels[half == mine])
    return found


def among(answers: Answers, which: str) -> Samples:
    """All "routes" as samples, or the "experts" alone."""
    one_of("which", which, ("routes", "experts"))
    if which == "routes":
        return samples_of(answers)[0]
    return Samples(answers.routes[:, answers.fixed], answers.labels)


def doubt_between(answers: Answers, which: str) -> Tensor:
    """The mutual information of answer and sample, `[rows]`, in nats."""
    return uncertainty(among(answers, which))["mutual_information"]


def noticing(answers: Answers, which: str, kind: str) -> Tensor:
    """For each row that is answered wrongly, the share of right rows that are less in doubt, `[wrong]`.

    Its mean is the area under the ROC curve (ties count half); differences of two kinds of `posterior.uncertainty` are
    paired by row.
    """
    samples = among(answers, which)
    wrong = marginal(samples.logits).argmax(-1) != answers.labels
    value = uncertainty(samples)[kind]
    here, others = value[wrong, None], value[~wrong]
    return (others < here).double().mean(1) + 0.5 * (others == here).double().mean(1)


# -- 09: slot coverage of shipped writers under ways of decoding, paired by source ------------------------


def coverage_by(strategy: str, seed: int) -> Tensor:
    """Share of slots realised by a strategy, or by the four experts, each alone, on average ("alone"): `[sources]`."""
    texts, sources = load_texts(seed), load_generation_task(TASK).sources
    names = [f"fixed-{n}" for n in range(WRITER_EXPERTS)] if strategy == "alone" else [strategy]
    return torch.tensor([coverage(texts[name], sources) for name in names]).mean(0)


# -- 07: AdaMix minus its opponents, paired by row, on shipped results and on what learners of sentences answer -----


def own_rows(scores: Scores, task: str, variant: str, seed: int, budget: Budget = "steps", unit: str = "points") -> Any:
    """Of each row of a task, whether a run, merged, answers it rightly ("points", 0.0 and 1.0), or its loss: `[rows]`.

    Raises FileNotFoundError where the run or its predictions are not there.
    """
    answers, cell = scores.results.predictions, scores.cell(task, Side(variant), budget)
    runs = cell.loc[cell["seed"] == seed, "run"]
    if answers is None or runs.empty:
        raise FileNotFoundError(
            f"Predictions of {variant} on {task}, seed {seed}, are not there: expected them in {PREDICTIONS}. Run the "
            "grid to its end."
        )
    own = answers[(answers["run"] == runs.iloc[0]) & (answers["strategy"] == "merged")].sort_values("row")
    if unit == "nats":
        return -np.log(np.maximum(own["probability_of_label"].to_numpy(float), 1e-38))
    return (own["label"] == own["prediction"]).to_numpy(float)


def ahead(seed: int, results: str, task: str, variant: str, budget: Budget, unit: str) -> Tensor:
    """AdaMix minus the variant, `[rows]`: right answers or losses; AdaMix's own steps are its equal compute, too."""
    scores = open_results(results)
    first, second = (own_rows(scores, task, name, seed, budget, unit) for name in ("AdaMix", variant))
    return torch.from_numpy(first - second)


def ahead_of(seed: int, data: str, against: str, unit: str) -> Tensor:
    """AdaMix minus another learner of "noisy" or "clean" sentences, or the linear probe: `[rows]`."""
    first = load_answers("adamix", seed, data=data)
    second = probe(data, seed) if against == "probe" else load_answers(against, seed, data=data)
    return answered(first, unit=unit) - answered(second, unit=unit)


@lru_cache(maxsize=20)
def probe(data: str, seed: int) -> Answers:
    """The tuned linear probe of the rows that a seed's learners have, as a route of its own."""
    task = sentences(data, seed)
    model, tokenizer = load_backbone("minilm", task.num_labels, pooling="cls")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextsCut)  # all learners read as much of the rows
        found = linear_probe(model.eval(), task, tokenizer, SENTENCES.max_length)
    log_p = found.log_probabilities
    return Answers(log_p[:, None], log_p, found.labels, torch.zeros(1, 1, 1, dtype=torch.long))


def few_shot(seed: int, task: str, against: str) -> Tensor:
    """AdaMix's accuracy with 30 examples minus another method's, `[1]`: no rows are stored."""
    cells = json.loads((HERE.parent / "archive" / "fewshot.json").read_text(encoding="utf-8"))[task]["cells"]
    found = {cell["method"]: cell["metrics"]["accuracy"] for cell in cells if cell["seed"] == seed}
    if not found:
        raise FileNotFoundError(f"Seed {seed} of few-shot {task} is not there.")
    return torch.tensor([found["AdaMix"] - found[against]])


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


@lru_cache(maxsize=20)
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


def lora_score(kind: str, seed: int, way: str, unit: str) -> Tensor:
    """`[rows]`: 1 where the answer is right ("points"), or the loss ("nats"); "alone" is the mean of the experts.

    way "chance" is always the more frequent class; it has no loss.
    """
    labels = lora_rows().labels
    if way == "chance":
        return (labels == labels.mode().values).float()
    if way == "alone":
        return torch.stack([lora_score(kind, seed, expert, unit) for expert in ALONE]).mean(0)
    answers = lora_answers(kind, seed)[way]
    return (answers.argmax(-1) == labels).float() if unit == "points" else loss_of(answers, labels)


# -- all lessons ------------------------------------------------------------------------------------------


def main(lessons: Annotated[list[str] | None, typer.Argument()] = None, out: Path = HERE, seeds: int = 0) -> None:
    """Effect tables of lessons 00, 01, ... (all of them where none is named).

    --out: a folder, beside this file by default. --seeds: at most so many, all that are shipped by default.
    """
    for lesson in lessons or LESSONS:
        effects = []
        for effect, measure in measures_of(lesson).items():
            effects.append(measure_effect(effect, measure._replace(seeds=measure.seeds[: seeds or None])))
            print(f"measured: {effect}", flush=True)
        print(write_effects(out / f"{lesson}.csv", effects))


if __name__ == "__main__":
    typer.run(main)
