"""Judging the claims: estimates of every part, Holm's correction over all of them, a verdict and its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adamix_lab.analysis.statistics import Estimate, holm, t_interval
from adamix_lab.experiments.claims import CLAIMS, ROWS, SEEDS, SIGNIFICANT, SMALL_BELOW, Claim, Part
from adamix_lab.experiments.contrasts import Budget, OnTask, Scores
from adamix_lab.experiments.results import settings_of, variant_called

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided by these runs"


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


def judge(scores: Scores, budget: Budget = "steps", claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """All claims at one budget."""
    sizes = training_rows(scores)
    measured = [[_measure(part, scores, budget, sizes) for part in claim.parts] for claim in claims]
    # Two claims may rest on one comparison: it counts once.
    ps = {
        (each.part.contrast, each.part.tasks): each.estimate.p
        for parts in measured
        for each in parts
        if each.estimate is not None and each.part.rule == "above"
    }
    adjusted = dict(zip(ps, holm(list(ps.values())), strict=True))
    verdicts = []
    for claim, parts in zip(claims, measured, strict=True):
        decided = tuple(
            _decide(
                replace(each, adjusted=adjusted.get((each.part.contrast, each.part.tasks), math.nan)), scores, len(ps)
            )
            for each in parts
        )
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
    for task, rows in ROWS.items():
        samples = [sample for sample in settings_of(scores.results, "rows", task) if isinstance(sample, int)]
        sizes[task] = min([rows, *samples])
    return sizes


def _measure(part: Part, scores: Scores, budget: Budget, sizes: Mapping[str, int]) -> Finding:
    """The part's estimate, or why there is none."""
    if part.rule == "equal":
        return Finding(part, OPEN, "")
    tasks = scores.tasks(part.contrast.few_shot)
    if part.tasks == "small":
        tasks = [task for task in tasks if sizes.get(task, SMALL_BELOW) < SMALL_BELOW]
    found = [scores.on_task(part.contrast, task, budget) for task in tasks]
    there = [each for each in found if each.by_seed]
    if not there:
        absent = list(dict.fromkeys(side for task in tasks for side in scores.absent(part.contrast, task, budget)))
        what = f"not run: {', '.join(absent)}." if absent else "no runs of that kind."
        return Finding(part, OPEN, what)
    enough = tuple(each for each in there if len(each.by_seed) >= SEEDS)
    if not enough:
        most = max(len(each.by_seed) for each in there)
        return Finding(
            part,
            OPEN,
            f"{most} seed{'s' if most > 1 else ''} in pairs, and fewer than {SEEDS} decide nothing.",
            tuple(there),
        )
    if part.rule != "above":  # two that learned nothing are alike, too
        enough = tuple(each for each in enough if scores.learned(part.contrast, each.task, budget, part.margin))
        if not enough:
            return Finding(part, OPEN, "no task is known to have been learned: scores above chance, with predictions.")
    groups = _groups(part, enough, sizes)
    if groups is None:
        named = ", ".join(each.task for each in enough)
        return Finding(part, OPEN, f"tasks of few and of many training rows are needed, and these are {named}.", enough)
    seeds = sorted(set.intersection(*(set(each.by_seed) for each in enough)))
    if len(seeds) < SEEDS:
        return Finding(part, OPEN, f"the tasks have {len(seeds)} seeds in common, fewer than {SEEDS}.", enough)
    small, large = groups
    values = [
        float(np.mean([each.by_seed[seed] for each in small]))
        - (float(np.mean([each.by_seed[seed] for each in large])) if large else 0.0)
        for seed in seeds
    ]
    return Finding(part, OPEN, "", enough, t_interval(values))


def _groups(part: Part, on: Sequence[OnTask], sizes: Mapping[str, int]) -> tuple[list[OnTask], list[OnTask]] | None:
    if part.tasks != "small against large":
        return list(on), []
    small = [each for each in on if sizes.get(each.task, SMALL_BELOW) < SMALL_BELOW]
    large = [each for each in on if sizes.get(each.task, 0) >= SMALL_BELOW]
    return (small, large) if small and large else None


def _decide(finding: Finding, scores: Scores, comparisons: int) -> Finding:
    part, estimate = finding.part, finding.estimate
    if part.rule == "equal":
        return _equal(part, scores)
    if estimate is None:
        return finding
    if part.rule == "above":
        verdict, why = _above(finding, estimate, comparisons)
    else:
        verdict, why = _within(part, estimate)
    if part.most_steps is not None and verdict != OPEN:
        verdict, why = _steps(part, scores, finding.on, verdict, why)
    tasks = f" ({', '.join(each.task for each in finding.on)}; {estimate.number} seeds)"
    return replace(finding, verdict=verdict, why=f"{_shown(part, estimate)}{tasks}; {why}")


def _shown(part: Part, estimate: Estimate) -> str:
    digits, unit = (3, "nats") if part.contrast.measure == "loss" else (1, "points")
    return f"{estimate.mean:+.{digits}f} {unit} ({estimate.low:+.{digits}f} to {estimate.high:+.{digits}f})"


def _above(finding: Finding, estimate: Estimate, comparisons: int) -> tuple[str, str]:
    if math.isnan(estimate.p):
        return OPEN, "every seed gives the same number, so there is no spread to judge by."
    if finding.adjusted >= SIGNIFICANT:
        bare = "; before the correction it would be" if estimate.p < SIGNIFICANT else ""
        return OPEN, f"corrected for {comparisons} comparisons, p = {finding.adjusted:.2g}: not told from 0{bare}."
    sign = 1.0 if estimate.mean > 0 else -1.0
    single = [each.estimate for each in finding.on] if finding.part.tasks != "small against large" else []
    adjusted = holm([each.p for each in single])
    against = [
        each.task
        for each, own, p in zip(finding.on, single, adjusted, strict=False)
        if sign * own.mean < 0 and p < SIGNIFICANT
    ]
    if against:
        return OPEN, f"the tasks disagree: {', '.join(against)} goes the other way."
    return (HOLDS if sign > 0 else FAILS), f"corrected for {comparisons} comparisons, p = {finding.adjusted:.2g}."


def _within(part: Part, estimate: Estimate) -> tuple[str, str]:
    margin = part.margin
    if estimate.low > -margin and (part.rule == "not below" or estimate.high < margin):
        return HOLDS, f"the interval keeps to the margin of {margin:g} point."
    if estimate.high < -margin or (part.rule == "alike" and estimate.low > margin):
        return FAILS, f"the interval lies outside the margin of {margin:g} point."
    return OPEN, f"the interval reaches across the margin of {margin:g} point."


def _steps(part: Part, scores: Scores, on: Sequence[OnTask], verdict: str, why: str) -> tuple[str, str]:
    """What was given in steps limits what the verdict may be."""
    table = scores.results.table
    variants = [side.variant.lower() for _, side in part.contrast.terms]
    assert part.most_steps is not None
    here = table[(table["compute"] == "steps") & table["task"].isin([each.task for each in on])]
    first, second = (here.loc[here["variant"].str.lower() == name, "steps"] for name in variants)
    ratio = float(first.max() / second.min()) if len(first) and len(second) else math.nan
    given = f" AdaMix took {ratio:.2g} times the steps."
    if verdict == FAILS and not ratio >= part.most_steps:
        return OPEN, f"{why}{given} Runs with {part.most_steps:g} times the steps were not made."
    if verdict == HOLDS and ratio > part.most_steps:
        return OPEN, f"{why}{given} That is more than the claim is about."
    return verdict, why + given


def _equal(part: Part, scores: Scores) -> Finding:
    table = scores.results.table[scores.results.table["examples"] == 0]
    counts = []
    for _, side in part.contrast.terms:
        own = table[table["variant"] == variant_called(scores.results, side.variant)]
        if not len(own):
            return Finding(part, OPEN, f"not run: {side}.")
        counts.append({task: sorted(set(map(int, values))) for task, values in own.groupby("task")[part.count]})
    tasks = [task for task in counts[0] if task in counts[1]]
    if not tasks:
        return Finding(part, OPEN, "no task has both.")
    for task in tasks:
        first, second = (each[task] for each in counts)
        if first != second or len(first) > 1:
            return Finding(part, FAILS, f"on {task} they are {_listed(first)} against {_listed(second)}.")
    numbers = sorted({counts[0][task][0] for task in tasks})
    return Finding(part, HOLDS, f"{_listed(numbers)} on {', '.join(tasks)}.")


def _listed(numbers: Sequence[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers)
