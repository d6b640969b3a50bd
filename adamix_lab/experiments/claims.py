"""What the paper says, and what results say of it: the numbers it prints, its twelve claims, and verdicts on these.

All that is printed is data in `data/paper`: `tableN.csv`, `tables.yaml` with the comparison here that stands beside a
difference of two rows, and `claims.yaml` with the claims and, in words, the rules by which they are decided; both were
written before the runs that are judged by them. Another backbone's absolute numbers do not compare; differences between
variants of one backbone do, with care. Of a claim's parts there are estimates, a correction over all, a verdict.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import yaml

from adamix_lab.analysis.statistics import ALIKE, NOT_SHOWN, SHOWN, SMALLEST, Estimate, Judged, verdict_of
from adamix_lab.core.errors import unknown
from adamix_lab.experiments.contrasts import (
    Budget,
    Contrast,
    Measure,
    OnTask,
    Scores,
    Side,
    mean_by_seed,
    mean_estimate,
    minus,
)
from adamix_lab.experiments.results import settings_of
from adamix_lab.tasks.tasks import data_root

PRINTED = (1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14)
SEEDS = 3  # fewer decide nothing
MARGIN = SMALLEST["points"]  # the paper's own seeds spread further on small tasks (Table 6)
SMALL_BELOW = 10_000  # training rows
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided by these runs"

Rule = Literal["above", "alike", "not below", "equal"]
Tasks = Literal["all", "small", "small against large"]
Row = dict[str, str]


# -- what is printed --------------------------------------------------------------------------------------


def read_paper(name: str) -> Any:
    """A file of `data/paper`: the rows of a .csv, as they are printed, what a .yaml holds, or another's text."""
    readers = {".csv": lambda file: list(csv.DictReader(file)), ".yaml": yaml.safe_load}
    path = data_root() / "paper" / name
    with path.open(encoding="utf-8", newline="") as file:
        return readers.get(path.suffix, lambda file: file.read())(file)


def printed_table(number: int) -> list[Row]:
    """The rows of a table as they are printed. Raises ValueError for a table that is not there."""
    if number not in PRINTED:
        raise unknown("Table of the paper", number, map(str, PRINTED))
    rows: list[Row] = read_paper(f"table{number}.csv")
    return rows


def printed(number: int, **which: str) -> dict[str, float]:
    """The numbers of one row by column, e.g. `printed(8, model="AdaMix")`; empty cells are left out.

    Raises ValueError where no row, or more than one, is meant.
    """
    rows = [row for row in printed_table(number) if all(row.get(key) == value for key, value in which.items())]
    if len(rows) != 1:
        key = next(iter(which))
        raise unknown(f"{key} of Table {number}", which[key], {row[key] for row in printed_table(number) if key in row})
    numbers = {}
    for column, text in rows[0].items():
        try:
            numbers[column] = float(text)
        except ValueError:
            continue  # names, sizes such as "0.8M", empty cells
    return numbers


def printed_difference(number: int, first: Row, second: Row) -> dict[str, float]:
    """One row minus another, by column, in the table's own unit (points)."""
    a, b = printed(number, **first), printed(number, **second)
    return {column: round(a[column] - b[column], 2) for column in a if column in b}


# -- its tables, and what stands beside them ----------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One comparison of a table.

    Attributes:
        says: the two sides in words.
        contrast: ours.
        printed: the paper's difference by column, `average` included where there is one.
    """

    says: str
    contrast: Contrast
    printed: dict[str, float]


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    columns: printed column to (task, metric here); metric None is the task's primary one.
    """

    name: str
    title: str
    columns: dict[str, tuple[str, str | None]]
    lines: tuple[Line, ...]
    few_shot: bool = False
    remark: str = ""


def read_tables() -> list[Table]:
    """The paper's nine tables whose differences can be measured here."""
    return [_table(**entry) for entry in read_paper("tables.yaml")]


def _table(
    columns: list[str], lines: list[dict[str, Any]], renamed: dict[str, list[Any]] | None = None, **more: Any
) -> Table:
    places = {name: (name, None) for name in columns} | {name: (t, m) for name, (t, m) in (renamed or {}).items()}
    few_shot = more.get("few_shot", False)
    return Table(columns=places, lines=tuple(_line(**line, few_shot=few_shot) for line in lines), **more)


def _line(printed: dict[str, Any], here: list[str], few_shot: bool, says: str = "") -> Line:
    rows = dict(printed)
    number, where = rows.pop("table"), rows.pop("where", {})
    ((key, (first, second)),) = rows.items()
    difference = printed_difference(number, {key: first, **where}, {key: second, **where})
    contrast = minus(*map(Side.named, here), few_shot=few_shot)
    return Line(says or f"AdaMix − {second}", contrast, difference)


# -- its claims -------------------------------------------------------------------------------------------


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
        judged: the estimate as one of all parts of all claims.
        loss: the same comparison of the loss on the evaluation rows, its sign turned round; None where it is not known.
    """

    part: Part
    verdict: str
    why: str
    on: tuple[OnTask, ...] = ()
    estimate: Estimate | None = None
    judged: Judged | None = None
    loss: Estimate | None = None


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
    says: str, contrast: dict[str, float], measure: Measure = "score", few_shot: bool = False, **more: Any
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
    compared = {  # two claims may rest on one comparison: it counts once
        (each.part.contrast, each.part.tasks) for findings in found for each in findings if each.estimate is not None
    }
    verdicts = []
    for claim, findings in zip(claims, found, strict=True):
        decided = tuple(_decide(each, scores, len(compared)) for each in findings)
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
    if part.rule != "above" and part.contrast.measure == "score":  # two that learned nothing are alike, too
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
    return replace(undecided("", on, mean_estimate(plus, less)), loss=_loss_beside(part, scores, budget, plus, less))


def _loss_beside(
    part: Part, scores: Scores, budget: Budget, plus: Sequence[OnTask], less: Sequence[OnTask]
) -> Estimate | None:
    if part.contrast.measure != "score" or any(side.best for _, side in part.contrast.terms):
        return None
    contrast = replace(part.contrast, measure="nll", metric=None)
    on = [[scores.on_task(contrast, each.task, budget) for each in own] for own in (plus, less)]
    return mean_estimate(*on) if mean_by_seed([each for own in on for each in own]) else None


def _decide(finding: Finding, scores: Scores, comparisons: int) -> Finding:
    part, estimate = finding.part, finding.estimate
    if estimate is None:
        return finding
    judged = verdict_of(estimate, part.contrast.unit, comparisons)
    verdict, why = _by_rule(finding, judged)
    if part.most_steps is not None and verdict != OPEN:
        verdict, why = _limit_by_steps(finding, part.most_steps, scores, verdict, why)
    digits = 3 if judged.unit == "nats" else 1
    interval = f"({judged.low:+.{digits}f} to {judged.high:+.{digits}f}, corrected for {comparisons} comparisons)"
    over = "seeds and rows" if all(each.rows_variance is not None for each in finding.on) else "seeds"
    tasks = f"({', '.join(each.task for each in finding.on)}; {estimate.number} seeds; over {over})"
    why = f"{estimate.mean:+.{digits}f} {judged.unit} {interval} {tasks}: {judged.verdict}{why}"
    if (loss := finding.loss) is not None:
        why += f" The loss on the rows is lower by {loss.mean:+.3f} nats ({loss.low:+.3f} to {loss.high:+.3f}, alone)."
    return replace(finding, verdict=verdict, why=why, judged=judged)


def _by_rule(finding: Finding, judged: Judged) -> tuple[str, str]:
    """The verdict by the part's rule, and what is to be said behind the judgement."""
    rule, verdict = finding.part.rule, judged.verdict
    if rule == "not below":
        if judged.low >= -judged.smallest:
            return HOLDS, f", not below by {judged.smallest:g} or more."
        return (FAILS, ".") if verdict == SHOWN and judged.high < 0 else (OPEN, f"; {judged.possible}.")
    if rule == "alike":
        apart = judged.low > judged.smallest or judged.high < -judged.smallest
        return (HOLDS if verdict == ALIKE else FAILS if apart else OPEN), f"; {judged.possible}."
    if verdict == NOT_SHOWN:
        return OPEN, f"; {judged.possible}."
    if verdict == ALIKE:
        return FAILS, f", by less than {judged.smallest:g}."
    if against := _against(finding, judged):
        return OPEN, f", but the tasks disagree: {', '.join(against)} goes the other way."
    return (HOLDS if judged.estimate.mean > 0 else FAILS), "."


def _against(finding: Finding, judged: Judged) -> list[str]:
    # tasks on which the opposite is shown, corrected for their number
    on = finding.on if finding.part.tasks != "small against large" else ()
    own = {each.task: verdict_of(each.estimate, judged.unit, len(on)) for each in on}
    mean = judged.estimate.mean
    return [task for task, each in own.items() if each.verdict == SHOWN and each.estimate.mean * mean < 0]


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
