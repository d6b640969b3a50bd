"""The report of a results folder: verdicts on the paper's claims, its tables beside ours, figures, costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adamix_lab.analysis.statistics import Estimate
from adamix_lab.core.files import write_text
from adamix_lab.experiments.claims import MARGIN, RULES, SEEDS, SIGNIFICANT
from adamix_lab.experiments.contrasts import Scores
from adamix_lab.experiments.document import Block, Bullets, Grid, Heading, Paragraph, write_report
from adamix_lab.experiments.figures import figures
from adamix_lab.experiments.measured import BUDGETS, Measured, columns_of, detail_rows, measure
from adamix_lab.experiments.overview import absolute, costs, provenance, what_was_run
from adamix_lab.experiments.results import read_results
from adamix_lab.experiments.tables import TABLES, Table
from adamix_lab.experiments.verdicts import Verdict, judge

NOT_RUN = "not run"
HOW = (
    "Differences are in points (metrics times 100) and between runs of the same seed, task by task; brackets are 95 % "
    "t-intervals over seeds, n their number. A star marks p < 0.05 after Holm's correction over all tasks and lines of "
    "the table and budget. Intervals over examples (paired bootstrap of 1,000 draws, the same rows for both sides and "
    "all seeds) are in differences.csv: they say how far other test rows would move it, intervals over seeds how far "
    "other runs would. The paper's numbers come from other backbones, trained for longer: signs and rough sizes "
    "compare, absolute numbers do not.",
    "Equal steps: both sides took as many optimiser steps; an AdaMix step has two views and costs about twice the "
    "operations. Equal compute: the other side trained with as many operations as AdaMix's steps took.",
)


def report(folder: Path, out: Path | None = None, say: Callable[[str], None] = print) -> list[Verdict]:
    """Writes report.md (with pictures), report.html (one file), differences.csv and verdicts.csv; prints the verdicts.

    Args:
        folder: holds results.parquet; predictions.parquet and curves.parquet are used where they are.
        out: for the report; None takes `folder / "report"`.
        say: takes lines.

    Returns the verdicts at equal steps. Raises ValueError for results that are not whole or lack columns.
    """
    results = read_results(folder)
    scores, out = Scores(results), out or folder / "report"
    verdicts, by_compute = judge(scores), judge(scores, "compute")
    measured = {table.name: measure(table, scores, results.predictions is not None) for table in TABLES}
    blocks: list[Block] = [
        Heading("What was run"), what_was_run(results), Bullets(provenance(results)),
        Heading("The paper's claims"), _verdicts(verdicts, by_compute),
        Paragraph("The rules, written before the runs (adamix_lab/experiments/claims.py):"), Bullets(_rules()),
        Heading("The paper's tables, as differences between variants"), *(Paragraph(text) for text in HOW),
    ]  # fmt: skip
    for table in TABLES:
        blocks += [Heading(f"{table.name}. {table.title}", 3), _beside(table, measured[table.name], scores)]
        blocks += [Paragraph(table.remark)] if table.remark else []
    blocks += [Heading("The paper's figures"), *figures(scores)]
    blocks += [Heading("Scores"), absolute(scores), Heading("Costs"), costs(results)]
    paths = write_report(blocks, out, "The paper's claims, measured here")
    _write_csv(out / "differences.csv", [row for table in TABLES for row in detail_rows(table, measured[table.name])])
    _write_csv(out / "verdicts.csv", _verdict_rows(verdicts, by_compute))
    for verdict in verdicts:
        say(f"{verdict.claim.number:>2}. {verdict.claim.says}: {verdict.verdict}")
    say(f"written: {paths[0]}, {paths[1]}")
    return verdicts


def _rules() -> list[str]:
    named = {name: text for name, text in RULES.items() if name != "all"}
    return [f"{name}: {text}" for name, text in named.items()] + [RULES["all"]]


def _verdicts(verdicts: Sequence[Verdict], by_compute: Sequence[Verdict]) -> Grid:
    rows = []
    for steps, compute in zip(verdicts, by_compute, strict=True):
        claim = steps.claim
        rows.append(
            [
                f"{claim.number}",
                claim.says,
                claim.source,
                steps.verdict,
                _at_compute(compute),
                f"{steps.why} {claim.remark}",
            ]
        )
    heads = ("", "claim", "where", "at equal steps", "at equal compute", "why (at equal steps)")
    caption = (
        f"Verdicts: at least {SEEDS} seeds, p < {SIGNIFICANT} after Holm's correction, margins of {MARGIN:g} point."
    )
    return Grid(heads, rows, caption)


def _at_compute(verdict: Verdict) -> str:
    """The verdict where other variants have runs of that budget; claims about one model's strategies have none."""
    variants = {side.variant for f in verdict.findings for _, side in f.part.contrast.terms}
    if len(variants) == 1 or all(f.part.rule == "equal" or f.part.most_steps for f in verdict.findings):
        return "–"
    return verdict.verdict if any(f.estimate is not None or f.on for f in verdict.findings) else NOT_RUN


def _verdict_rows(verdicts: Sequence[Verdict], by_compute: Sequence[Verdict]) -> list[dict[str, Any]]:
    rows = []
    for steps, compute in zip(verdicts, by_compute, strict=True):
        for n, finding in enumerate(steps.findings):
            estimate = finding.estimate or Estimate(math.nan, math.nan, math.nan, math.nan, 0)
            rows.append(
                {
                    "claim": steps.claim.number, "part": n + 1, "says": finding.part.says,
                    "contrast": str(finding.part.contrast), "rule": finding.part.rule, "tasks": finding.part.tasks,
                    "verdict": finding.verdict, "verdict_of_claim": steps.verdict,
                    "verdict_at_equal_compute": _at_compute(compute), "difference": estimate.mean, "low": estimate.low,
                    "high": estimate.high, "seeds": estimate.number, "p": estimate.p, "p_holm": finding.adjusted,
                    "why": finding.why,
                }
            )  # fmt: skip
    return rows


def _beside(table: Table, found: Sequence[Measured], scores: Scores) -> Grid:
    """The paper's differences and ours, a group of rows a comparison."""
    columns = list(columns_of(table, scores))
    rows = []
    for each in found:
        run = [column for column in columns if any(column in own for own in each.ours.values())]
        here = [each.printed[column] for column in run if column in each.printed]
        whole = [each.printed[column] for column in table.columns if column in each.printed]
        printed = [_signed(each.printed.get(column)) for column in columns]
        rows.append([each.line.says, "paper", *printed, _signed(_mean(here)), _signed(_mean(whole))])
        for budget in BUDGETS:
            own = each.ours[budget]
            if budget == "compute" and not own:
                continue
            cells = [estimate_cell(own[c].estimate, each.adjusted[budget, c]) if c in own else NOT_RUN for c in columns]
            average = each.mean[budget]
            mean = NOT_RUN if average is None else estimate_cell(average)
            rows.append([each.line.says, f"here, equal {budget}", *cells, mean, "–"])
    heads = ("difference", "whose", *columns, "mean of tasks run here", "mean of the paper's tasks")
    return Grid(heads, rows, f"{table.name}, as differences in points")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def estimate_cell(estimate: Estimate, adjusted: float = math.nan) -> str:
    """`+0.3 (-0.2 to +0.8), n = 5`, with a star where it is told from 0 after the correction."""
    if estimate.number == 1:
        return f"{estimate.mean:+.1f}, n = 1"
    star = "*" if adjusted < SIGNIFICANT else ""
    return f"{estimate.mean:+.1f}{star} ({estimate.low:+.1f} to {estimate.high:+.1f}), n = {estimate.number}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pandas as pd

    write_text(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
