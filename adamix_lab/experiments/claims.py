"""The paper's twelve claims, and what results say of each: estimates of its parts, Holm over all, a verdict, a reason.

`data/paper/claims.yaml` has the claims and, in words, the rules by which they are decided; both were written before the
runs that are judged by them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from adamix_lab.analysis.statistics import Estimate, holm, t_interval
from adamix_lab.experiments.contrasts import Budget, Contrast, OnTask, Scores, Side, mean_by_seed
from adamix_lab.experiments.results import settings_of
from adamix_lab.experiments.tables import read_paper

SEEDS = 3  # fewer decide nothing
MARGIN = 1.0  # points that count as alike: the paper's own seeds spread further on small tasks (Table 6)
SIGNIFICANT = 0.05
SMALL_BELOW = 10_000  # training rows
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided by these runs"

Rule = Literal["above", "alike", "not below", "equal"]
Tasks = Literal["all", "small", "small against large"]


@dataclass(frozen=True)
class Part:
    """One thing that a claim says; `claims.yaml` explains its rules.

    Attributes:
        says: it, in words.
        contrast: what is compared.
        rule: by which it is decided.
        tasks: the mean is over all tasks, over those of few training rows, or the mean over those minus the mean
            over the others.
        most_steps: it is about a first side that may take so many times the steps of the second; it can fail only
            where it was given them.
        count: for "equal", the column that is counted.
    """

    says: str
    contrast: Contrast
    rule: Rule = "above"
    tasks: Tasks = "all"
    most_steps: float | None = None
    count: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its number here, what it says, where the paper says it, its parts."""

    number: int
    says: str
    source: str
    parts: tuple[Part, ...]
    remark: str = ""


@dataclass(frozen=True)
class Finding:
    """What a part of a claim came to.

    Attributes:
        on: the tasks that count, each with its seeds.
        estimate: of the mean over tasks; None where nothing could be compared.
        adjusted: Holm's p over all parts of all claims; nan where the rule uses no p.
    """

    part: Part
    verdict: str
    why: str
    on: tuple[OnTask, ...] = ()
    estimate: Estimate | None = None
    adjusted: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict at a budget, and why."""

    claim: Claim
    verdict: str
    findings: tuple[Finding, ...]

    @property
    def why(self) -> str:
        """The reasons of its parts."""
        return " ".join(f"({n}) {f.part.says}: {f.why}" for n, f in enumerate(self.findings, 1))


def read_claims() -> list[Claim]:
    """The twelve claims."""
    entries = read_paper("claims.yaml")["claims"]
    return [Claim(**{**entry, "parts": tuple(_part(**part) for part in entry["parts"])}) for entry in entries]


def _part(
    says: str,
    contrast: dict[str, float],
    measure: Literal["score", "loss"] = "score",
    few_shot: bool = False,
    **more: Any,
) -> Part:
    terms = tuple((float(weight), Side.named(name)) for name, weight in contrast.items())
    return Part(says, Contrast(terms, measure, few_shot), **more)


def read_rules() -> list[str]:
    """The rules in words, a line each; the last is about all of them."""
    rules: dict[str, str] = read_paper("claims.yaml")["rules"]
    return [text if name == "all" else f"{name}: {text}" for name, text in rules.items()]


# -- deciding ---------------------------------------------------------------------------------------------


def verdicts_of(scores: Scores, budget: Budget = "steps") -> list[Verdict]:
    """The verdicts on all claims at one budget."""
    claims, sizes = read_claims(), training_rows(scores)
    found = [[_estimate(part, scores, budget, sizes) for part in claim.parts] for claim in claims]
    tests = {  # two claims may rest on one comparison: it counts once
        (each.part.contrast, each.part.tasks): each.estimate.p
        for findings in found
        for each in findings
        if each.estimate is not None and each.part.rule == "above"
    }
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    verdicts = []
    for claim, findings in zip(claims, found, strict=True):
        decided = tuple(_decide(each, scores, adjusted) for each in findings)
        verdicts.append(Verdict(claim, overall([each.verdict for each in decided]), decided))
    return verdicts


def overall(verdicts: Sequence[str]) -> str:
    """Of several parts: fails where one does, holds where all do."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if all(verdict == HOLDS for verdict in verdicts) else OPEN


def training_rows(scores: Scores) -> dict[str, int]:
    """Training rows a task: the sample that its runs took, or what the data set has; unknown tasks are left out."""
    sizes = {}
    for task, rows in read_paper("claims.yaml")["training_rows"].items():
        samples = [sample for sample in settings_of(scores.results, "rows", task) if isinstance(sample, int)]
        sizes[task] = min([rows, *samples])
    return sizes


def _estimate(part: Part, scores: Scores, budget: Budget, sizes: Mapping[str, int]) -> Finding:
    """The part's estimate, or why there is none."""
    if part.rule == "equal":
        return _equal(part, scores)
    undecided = partial(Finding, part, OPEN)
    small = {task for task, rows in sizes.items() if rows < SMALL_BELOW}
    tasks = [task for task in scores.tasks(part.contrast.few_shot) if part.tasks != "small" or task in small]
    on = tuple(each for task in tasks if (each := scores.on_task(part.contrast, task, budget)).by_seed)
    if not on:
        absent = list(dict.fromkeys(side for task in tasks for side in scores.absent(part.contrast, task, budget)))
        return undecided(f"not run: {', '.join(absent)}." if absent else "no runs of that kind.")
    most = max(len(each.by_seed) for each in on)
    if most < SEEDS:
        pairs = f"{most} seed{'s' if most > 1 else ''} in pairs"
        return undecided(f"{pairs}, and fewer than {SEEDS} decide nothing.", on)
    on = tuple(each for each in on if len(each.by_seed) >= SEEDS)
    if part.rule != "above":  # two that learned nothing are alike, too
        on = tuple(each for each in on if scores.learned(part.contrast, each.task, budget, MARGIN))
        if not on:
            return undecided("no task is known to have been learned: scores above chance, with predictions.")
    plus, less = on, on[:0]
    if part.tasks == "small against large":
        plus = tuple(each for each in on if each.task in small)
        less = tuple(each for each in on if each.task in sizes and each.task not in small)
        if not (plus and less):
            named = ", ".join(each.task for each in on)
            return undecided(f"tasks of few and of many training rows are needed, and these are {named}.", on)
    seeds = mean_by_seed(on)
    if len(seeds) < SEEDS:
        return undecided(f"the tasks have {len(seeds)} seeds in common, fewer than {SEEDS}.", on)
    a, b = mean_by_seed(plus), mean_by_seed(less)
    return undecided("", on, t_interval([a[seed] - b.get(seed, 0.0) for seed in seeds]))


def _decide(finding: Finding, scores: Scores, adjusted: Mapping[Any, float]) -> Finding:
    part, estimate = finding.part, finding.estimate
    if estimate is None:
        return finding
    finding = replace(finding, adjusted=adjusted.get((part.contrast, part.tasks), math.nan))
    verdict, why = _above(finding, estimate, len(adjusted)) if part.rule == "above" else _within(part, estimate)
    if part.most_steps is not None and verdict != OPEN:
        verdict, why = _limit_by_steps(finding, part.most_steps, scores, verdict, why)
    digits, unit = (3, "nats") if part.contrast.measure == "loss" else (1, "points")
    interval = f"({estimate.low:+.{digits}f} to {estimate.high:+.{digits}f})"
    tasks = f"({', '.join(each.task for each in finding.on)}; {estimate.number} seeds)"
    return replace(finding, verdict=verdict, why=f"{estimate.mean:+.{digits}f} {unit} {interval} {tasks}; {why}")


def _above(finding: Finding, estimate: Estimate, comparisons: int) -> tuple[str, str]:
    if math.isnan(estimate.p):
        return OPEN, "every seed gives the same number, so there is no spread to judge by."
    corrected = f"corrected for {comparisons} comparisons, p = {finding.adjusted:.2g}"
    if finding.adjusted >= SIGNIFICANT:
        bare = "; before the correction it would be" if estimate.p < SIGNIFICANT else ""
        return OPEN, f"{corrected}: not told from 0{bare}."
    on = finding.on if finding.part.tasks != "small against large" else ()
    single = [each.estimate for each in on]
    against = [
        each.task
        for each, own, p in zip(on, single, holm([own.p for own in single]), strict=True)
        if own.mean * estimate.mean < 0 and p < SIGNIFICANT
    ]
    if against:
        return OPEN, f"the tasks disagree: {', '.join(against)} goes the other way."
    return (HOLDS if estimate.mean > 0 else FAILS), f"{corrected}."


def _within(part: Part, estimate: Estimate) -> tuple[str, str]:
    margin = f"the margin of {MARGIN:g} point."
    if estimate.low > -MARGIN and (part.rule == "not below" or estimate.high < MARGIN):
        return HOLDS, f"the interval keeps to {margin}"
    if estimate.high < -MARGIN or (part.rule == "alike" and estimate.low > MARGIN):
        return FAILS, f"the interval lies outside {margin}"
    return OPEN, f"the interval reaches across {margin}"


def _limit_by_steps(finding: Finding, most: float, scores: Scores, verdict: str, why: str) -> tuple[str, str]:
    """What was given in steps limits what the verdict may be."""
    table = scores.results.table
    here = table[(table["compute"] == "steps") & table["task"].isin([each.task for each in finding.on])]
    first, second = (
        here.loc[here["variant"] == scores.variant(side.variant), "steps"] for _, side in finding.part.contrast.terms
    )
    ratio = float(first.max() / second.min()) if len(first) and len(second) else math.nan
    given = f" AdaMix took {ratio:.2g} times the steps."
    if verdict == FAILS and not ratio >= most:
        return OPEN, f"{why}{given} Runs with {most:g} times the steps were not made."
    if verdict == HOLDS and ratio > most:
        return OPEN, f"{why}{given} That is more than the claim is about."
    return verdict, why + given


def _equal(part: Part, scores: Scores) -> Finding:
    table = scores.results.table[scores.results.table["examples"] == 0]
    counts = []
    for _, side in part.contrast.terms:
        own = table[table["variant"] == scores.variant(side.variant)]
        if not len(own):
            return Finding(part, OPEN, f"not run: {side}.")
        counts.append({task: sorted({*map(int, values)}) for task, values in own.groupby("task")[part.count]})
    first, second = counts
    tasks = [task for task in first if task in second]
    if not tasks:
        return Finding(part, OPEN, "no task has both.")
    for task in tasks:
        if first[task] != second[task] or len(first[task]) > 1:
            return Finding(part, FAILS, f"on {task} they are {listed(first[task])} against {listed(second[task])}.")
    numbers = sorted({first[task][0] for task in tasks})
    return Finding(part, HOLDS, f"{listed(numbers)} on {', '.join(tasks)}.")


def listed(numbers: Sequence[int]) -> str:
    """`1,000 or 2,000`."""
    return " or ".join(f"{number:,}" for number in numbers)
