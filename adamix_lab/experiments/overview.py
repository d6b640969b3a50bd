"""What a results folder holds, in tables and lines: runs, provenance, scores, costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from adamix_lab.analysis.statistics import t_interval
from adamix_lab.experiments.batched import why_alone
from adamix_lab.experiments.contrasts import REFERENCE, Scores, Side
from adamix_lab.experiments.document import Grid
from adamix_lab.experiments.grid import Run
from adamix_lab.experiments.results import (
    Results,
    missing_seeds,
    settings_of,
    several_runs,
    tasks_of,
    variant_called,
    variants_of,
)

WANTED = "AdaMix, single, no consistency, no sharing, share down, r-drop, lora, houlsby, bitfit, full, head"
SWEPT = "AdaMix M=1, AdaMix M=2, AdaMix M=8, AdaMix r=4, AdaMix r=8, AdaMix r=32"


def what_was_run(results: Results) -> Grid:
    """Variants by task: seeds and steps; the variants that the claims need and nobody ran are listed as not run."""
    tasks, rows = tasks_of(results), []
    runs = results.table.drop_duplicates("run")
    for (variant, compute, examples), own in runs.groupby(["variant", "compute", "examples"], sort=False):
        kind = ("equal compute" if compute == "compute" else "equal steps") + (
            f", {examples} examples" if examples else ""
        )
        cells = []
        for task in tasks:
            here = own[own["task"] == task]
            steps = " or ".join(f"{n:,}" for n in sorted(set(here["steps"])))
            cells.append(f"{here['seed'].nunique()} seeds x {steps} steps" if len(here) else "not run")
        rows.append([str(variant), kind, *cells])
    wanted = [name for name in f"{WANTED}, {SWEPT}".split(", ") if variant_called(results, name) is None]
    rows += [[name, "", *["not run"] * len(tasks)] for name in wanted]
    return Grid(("variant", "budget", *tasks), rows, "Runs: seeds and optimiser steps, by variant and task.")


def provenance(results: Results) -> list[str]:
    """What a reader must know: devices, versions, dates, settings, and what is missing."""
    table = results.table
    lines = [f"Devices: {_several(table['device'])}. Finished: {_dates(table['date'])}."]
    versions = [_versions(text) for text in dict.fromkeys(table["versions"])]
    lines.append(f"Versions: {' | '.join(versions)}.")
    for name in ("backbone", "batch_size", "max_length", "rows", "top_blocks"):
        if values := settings_of(results, name):
            lines.append(f"{name.replace('_', ' ')}: {_several(values)}.")
    own = table[table["variant"] == variant_called(results, REFERENCE)]
    shape = sorted({(int(m), int(r)) for m, r in zip(own["experts"], own["size"], strict=True)})
    if shape and shape != [(4, 16)]:
        lines.append(f"{REFERENCE} has (experts, size) {shape}, not (4, 16), which claims 7 and 8 are worded for.")
    lines += alone_of(results)
    return [*lines, *results.notes, *missing_seeds(results), *several_runs(results)]


def alone_of(results: Results) -> list[str]:
    """Which variants no set of runs that trains as one program can hold, and why, in one line; none where all can."""
    reasons = []
    for variant, own in results.table.groupby("variant", sort=False):
        try:
            settings = json.loads(own["settings"].iloc[0])
            why = why_alone(Run.of({name: value for name, value in settings.items() if name != "format"}))
        except (TypeError, ValueError, AttributeError):
            continue
        reasons += [f"{variant} ({why})"] if why else []
    return [f"Trained one by one even where --together was given: {'; '.join(reasons)}."] if reasons else []


def _versions(text: str) -> str:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return str(text)
    if not isinstance(found, dict):
        return str(text)
    shown = {name: found[name] for name in ("adamix-lab", "torch", "transformers", "python") if name in found} or found
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _several(values: Any) -> str:
    return ", ".join("all" if value is None else str(value) for value in dict.fromkeys(values))


def _dates(values: Any) -> str:
    days = sorted(str(value)[:10] for value in values)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def absolute(scores: Scores) -> Grid:
    """Each variant's own scores, at every strategy it was judged by."""
    results = scores.results
    tasks, rows = tasks_of(results), []
    pairs = results.table[["variant", "strategy", "compute"]].drop_duplicates().itertuples(index=False)
    for variant, strategy, compute in pairs:
        for few in (False, True):
            cells, found = [], False
            for task in tasks:
                by_seed = scores.cell(task, Side(variant, strategy), compute, few)
                values = [100 * float(np.mean([value for _, value in own])) for own in by_seed.values()]
                found = found or bool(values)
                cells.append(_score(values) if values else "not run")
            if found:
                kind = ("equal compute" if compute == "compute" else "equal steps") + (", few examples" if few else "")
                rows.append([str(variant), str(strategy), kind, *cells])
    heads = ("variant", "answers by", "budget", *(f"{task} ({scores.primary.get(task, '')})" for task in tasks))
    return Grid(heads, rows, "Mean of each task's metric times 100 ± half of the 95 % t-interval over seeds.")


def _score(values: Sequence[float]) -> str:
    estimate = t_interval(values)
    if estimate.number == 1:
        return f"{estimate.mean:.1f}, n = 1"
    return f"{estimate.mean:.1f} ± {estimate.high - estimate.mean:.1f}, n = {estimate.number}"


def costs(results: Results) -> Grid:
    """Parameters, and time and operations of training relative to AdaMix on the same tasks."""
    runs = results.table[(results.table["compute"] == "steps") & (results.table["examples"] == 0)].drop_duplicates(
        "run"
    )
    reference = runs[runs["variant"] == variant_called(results, REFERENCE)].groupby("task")
    basis = {name: reference[name].median() for name in ("steps", "seconds", "operations", "evaluation_seconds")}
    rows = []
    for variant in variants_of(results):
        own = runs[runs["variant"] == variant]
        if not len(own):
            continue
        counts = [
            " or ".join(f"{n:,}" for n in sorted(set(map(int, own[k])))) for k in ("trained", "stored", "inference")
        ]
        ratios = []
        for name, base in basis.items():
            medians = own.groupby("task")[name].median()
            both = [float(medians[task] / base[task]) for task in medians.index if base.get(task, 0)]
            ratios.append(f"{float(np.mean(both)):.2f}" if both else "–")
        rows.append([variant, *counts, *ratios])
    heads = (
        "variant", "trained", "stored", "at inference", "steps", "training seconds", "training operations",
        "evaluation seconds",
    )  # fmt: skip
    note = "Times and operations as multiples of AdaMix's (medians over seeds, mean over tasks), at equal steps."
    return Grid(heads, rows, f"Parameters with the head, and costs. {note}")


def names_of(results: Results) -> list[str]:
    """The variants with runs at equal steps on all rows."""
    runs = results.table[(results.table["compute"] == "steps") & (results.table["examples"] == 0)]
    return list(dict.fromkeys(runs["variant"]))
