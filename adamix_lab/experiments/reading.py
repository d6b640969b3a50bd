"""A results folder read and checked: what was run, and what every table and claim is computed from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.core.errors import near_misses

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS, PREDICTIONS, CURVES = "results.parquet", "predictions.parquet", "curves.parquet"
COLUMNS = {
    RESULTS: (
        "run", "task", "variant", "method", "experts", "size", "share", "consistency", "routing", "examples", "seed",
        "steps", "compute", "strategy", "metric", "primary", "value", "seconds", "evaluation_seconds", "operations",
        "trained", "stored", "inference", "device", "versions", "date", "settings",
    ),
    PREDICTIONS: ("run", "strategy", "row", "label", "prediction"),
    CURVES: ("run", "step", "loss"),
}  # fmt: skip


@dataclass(frozen=True)
class Results:
    """What a results folder holds.

    Attributes:
        table: one row a run, strategy and metric.
        predictions: one row a run, strategy and example; None where there are none.
        curves: one row a run and logged step; None where there are none.
        notes: what a reader must know: what is missing, what was left out.
    """

    table: DataFrame
    predictions: DataFrame | None = None
    curves: DataFrame | None = None
    notes: tuple[str, ...] = field(default=())


def read_results(folder: Path) -> Results:
    """The folder's results, with predictions and curves where they are.

    Raises FileNotFoundError without results; ValueError for a file that is not whole, lacks columns, or holds no row;
    ImportError where pandas or pyarrow is missing.
    """
    if not (folder / RESULTS).is_file():
        raise FileNotFoundError(
            f"{folder / RESULTS} is not there: expected a folder of results. Make one with adamix-lab ablate GRID.yaml "
            "--out FOLDER, or name another."
        )
    table = read_parquet(folder / RESULTS, COLUMNS[RESULTS])
    if not len(table):
        raise ValueError(f"{folder / RESULTS} holds no results: expected a row at least. Let a run finish first.")
    parts: dict[str, DataFrame | None] = {}
    notes = []
    for name, used in ((PREDICTIONS, "intervals over examples"), (CURVES, "training losses (Figure 7, claim 6)")):
        parts[name] = read_parquet(folder / name, COLUMNS[name]) if (folder / name).is_file() else None
        if parts[name] is None:
            notes.append(f"{name} is not there: {used} are missing.")
    return check(Results(table, parts[PREDICTIONS], parts[CURVES], tuple(notes)))


def check(results: Results) -> Results:
    """The results without values that are not finite, which a note counts."""
    table, notes = results.table, list(results.notes)
    finite = table["value"].map(lambda value: math.isfinite(value))
    if not finite.all():
        lost = table.loc[~finite, ["task", "variant", "metric"]].drop_duplicates().to_numpy().tolist()
        named = "; ".join(", ".join(map(str, each)) for each in lost[:5])
        notes.append(f"{int((~finite).sum())} values are not finite and are left out ({named}).")
    return Results(table[finite], results.predictions, results.curves, tuple(notes))


def read_parquet(path: Path, columns: Sequence[str]) -> DataFrame:
    """A table of results with at least these columns.

    Raises FileNotFoundError where there is none, ValueError where it is cut short, no Parquet, or lacks columns,
    ImportError where pandas or pyarrow is missing.
    """
    try:
        import pandas as pd
        import pyarrow
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Results are Parquet files and need {error.name}: run pip install 'adamix-lab[analysis,plots]'."
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: expected a table that adamix-lab ablate wrote.")
    try:
        table = pd.read_parquet(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole Parquet file ({str(error).splitlines()[0]}): expected one that adamix-lab ablate "
            "wrote. It may have been cut short by a copy or a full disk. Run the grid again: tables are gathered anew "
            "from its finished runs."
        ) from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        close = near_misses(missing[0], table.columns)
        hint = f" {missing[0]!r} may be what it calls {close[0]!r}." if close else ""
        raise ValueError(
            f"{path} lacks {', '.join(missing)}: expected results of this version of AdaMix Lab.{hint} "
            "Gather them again with the version that reads them."
        )
    return table


def tasks_of(results: Results) -> list[str]:
    """Every task, in the order of the file."""
    return list(dict.fromkeys(results.table["task"]))


def variants_of(results: Results) -> list[str]:
    """Every variant, in the order of the file."""
    return list(dict.fromkeys(results.table["variant"]))


def variant_called(results: Results, name: str) -> str | None:
    """The variant with that name, whatever its capitals; else the first of that method (`lora r=8` for `lora`)."""
    known = variants_of(results)
    for variant in known:
        if variant.lower() == name.lower():
            return variant
    return next((variant for variant in known if variant.lower().startswith(f"{name.lower()} r=")), None)


def settings_of(results: Results, name: str, task: str | None = None) -> list[Any]:
    """The different values of one of the runs' settings, of one task or all; runs without it are left out."""
    found = []
    table = results.table if task is None else results.table[results.table["task"] == task]
    for text in dict.fromkeys(table["settings"]):
        try:
            settings = json.loads(text)
        except (TypeError, ValueError):
            continue
        if isinstance(settings, dict) and name in settings and settings[name] not in found:
            found.append(settings[name])
    return found


def missing_seeds(results: Results) -> list[str]:
    """Where a variant has fewer seeds than others on the same task with as many examples, a line each."""
    lines = []
    for (task, examples), part in results.table.groupby(["task", "examples"], sort=False):
        seeds = set(part["seed"])
        for (variant, compute), own in part.groupby(["variant", "compute"], sort=False):
            if absent := sorted(seeds - set(own["seed"])):
                where = f"{task}, {examples} examples" if examples else str(task)
                budget = " at equal compute" if compute == "compute" else ""
                lines.append(f"{variant} on {where}{budget} lacks seed{_list(absent)}.")
    return lines


def several_runs(results: Results) -> list[str]:
    """Where one variant has several runs of a seed (other rates, steps, or numbers of examples), a line each."""
    runs = results.table.drop_duplicates("run")
    runs = runs.assign(few=runs["examples"] > 0)
    lines = []
    for (task, variant), part in runs.groupby(["task", "variant"], sort=False):
        if part.groupby(["compute", "few", "seed"])["run"].nunique().max() > 1:
            lines.append(f"{variant} on {task} has several runs of one seed and budget: their mean stands for them.")
    return lines


def _list(numbers: Sequence[int]) -> str:
    return ("s " if len(numbers) > 1 else " ") + ", ".join(map(str, numbers))
