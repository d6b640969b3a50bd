"""Results on disk: a folder a run, and the tidy tables that gather all of them; reading, checking, printing them.

    OUT/KEY/settings.json      what the run is, and the digests of files that it reads rows from
    OUT/KEY/work/              checkpoints and log while it is under way
    OUT/KEY/error.txt          what went wrong, if anything
    OUT/KEY/*.parquet          its results, predictions and curves
    OUT/results.parquet, predictions.parquet, curves.parquet

A run is finished when its `results.parquet` is there: that file is written last, under another name, and renamed.
One process writes here: the one that hands out the runs. Workers send bytes.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adamix_lab.analysis.calibration import adaptive_ece, fit_temperature
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.core.errors import LabError, extra
from adamix_lab.core.files import read_json, require_file, safe_join, sha256_of, write_atomically, write_text
from adamix_lab.experiments.settings import BUDGETS, Run, with_side
from adamix_lab.tasks.loading import files_of
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import Evaluation

if TYPE_CHECKING:
    from pandas import DataFrame, Series

RESULTS, PREDICTIONS, CURVES = "results.parquet", "predictions.parquet", "curves.parquet"
COLUMNS = {
    RESULTS: "run task variant method experts size share consistency routing examples seed steps compute strategy "
    "metric primary value seconds evaluation_seconds operations trained stored inference device versions date settings",
    PREDICTIONS: "run strategy row label prediction probability_of_label",
    CURVES: "run step loss task_loss consistency",
}
SETTINGS, WORK, ERROR = "settings.json", "work", "error.txt"
FILES = "files"  # in the settings


# -- a run's folder ----------------------------------------------------------------------------------------------


def begin(out: Path, run: Run) -> Path:
    """The run's folder, with its settings in it, and with what its files of rows are known by (`check_files`)."""
    place = out / run.key
    if not finished(out, run):
        settings = {name: value for name, value in asdict(run).items() if name != "folder"}  # where rows lay is private
        write_text(place / SETTINGS, json.dumps({**settings, FILES: files_now(run)}, indent=1) + "\n")
    return place


def files_now(run: Run) -> dict[str, str]:
    """The files that a run's rows lie in: the first digits of the sha256 of each, by name.

    None for an embedded task, one from the Hub, and where the run itself will say what is wrong with them.
    """
    try:
        return {path.name: sha256_of(path)[:16] for path in files_of(run.source, run.part)}
    except (LabError, OSError):
        return {}


def check_files(runs: Sequence[Run], out: Path) -> None:
    """Raises LabError where a run in `out`, finished or under way, began with other rows than its task's files hold.

    What failed begins anew with the rows of now. Earlier versions told no digests: their runs are taken as they are.
    """
    now = {(run.task, run.part): run for run in runs}
    for path in sorted(out.glob(f"*/{SETTINGS}")):
        known = read_json(path, "what a run began with. Delete its folder.")
        run, told = now.get((known.get("task"), known.get("part"))), known.get(FILES)
        if run is None or not told or (path.parent / ERROR).is_file():
            continue
        for name, digest in files_now(run).items():
            if told.get(name) != digest:
                raise LabError(
                    f"{name} ({run.source}) changed since run {path.parent.name} in {out} read it: expected it as it "
                    "was. Put it back, or give another --out for the rows of now."
                )


def finish(place: Path, files: Mapping[str, bytes]) -> None:
    """Writes a run's files, its results last.

    Raises OSError where the disk is full: the run is then not finished, and whatever was before is whole.
    """
    for name in sorted(files, key=lambda name: name == RESULTS):
        write_atomically(safe_join(place, name), methodcaller("write_bytes", files[name]))
    (place / ERROR).unlink(missing_ok=True)
    shutil.rmtree(place / WORK, ignore_errors=True)


def finished(out: Path, run: Run) -> bool:
    """Whether the run's tables are there."""
    return all((out / run.key / name).is_file() for name in COLUMNS)


def state(out: Path, run: Run) -> str:
    """Of a run: "finished", "failed" or "waiting"."""
    if finished(out, run):
        return "finished"
    return "failed" if (out / run.key / ERROR).is_file() else "waiting"


# -- a run's tables ----------------------------------------------------------------------------------------------


def tables(
    run: Run, results: Sequence[tuple[str, Evaluation]], curve: Sequence[Mapping[str, Any]], **facts: float
) -> dict[str, bytes]:
    """The files of a run's results, (name of further rows, evaluation). facts: what the run took, as the columns."""
    found, settings, held_out = versions(), vars(run), run.judged_on == "slice"
    names = "variant method experts size share consistency routing examples seed compute".split()
    common = {
        "run": run.key,
        "task": task_name(run),
        **{name: settings[name] for name in names},
        **facts,
        "device": found["device"],
        "versions": json.dumps(found, sort_keys=True),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": json.dumps({n: v for n, v in settings.items() if n not in ("folder", "variant")}, sort_keys=True),
    }
    own = {result.strategy: result for name, result in reversed(results) if not name}  # of random draws, the first
    rows = {
        RESULTS: [common | row for name, result in results for row in metric_rows(result, name, held_out)],
        PREDICTIONS: [{"run": run.key, **row} for result in own.values() for row in prediction_rows(result)],
        CURVES: [{"run": run.key, **row} for row in curve],
    }
    return {name: parquet(name, table) for name, table in rows.items()}


def task_name(run: Run) -> str:
    """The task as tables call it: with wrong labels it is another task."""
    rows = "" if run.rows is None else f", {run.rows} rows"
    return f"{run.task}{rows}, {run.label_noise:.0%} noise" if run.label_noise else run.task


def metric_rows(result: Evaluation, further: str = "", held_out: bool = False) -> list[dict[str, Any]]:
    """The task's metrics, its own first (`primary`), loss and calibration; those of further rows carry their name.

    held_out: rows of a slice of train; of the merge on them the temperature that fits them, too.
    """
    suffix = f", {further}" if further else ""
    values = {**result.main_metrics, "loss": result.loss}
    if result.kind == "classes" and result.strategy != "alone":  # of adapters trained apart its answers are one's
        values["adaptive_ece"] = adaptive_ece(result.log_probabilities, result.labels)
    if held_out and result.log_probabilities.shape[-1] > 1 and math.isfinite(result.loss):
        values["temperature"] = fit_temperature(result.log_probabilities, result.labels.long())
    return [
        {"strategy": result.strategy, "metric": name + suffix, "primary": not (n or further), "value": float(value)}
        for n, (name, value) in enumerate(values.items())
    ]


def prediction_rows(result: Evaluation) -> list[dict[str, Any]]:
    """One row an example: label, prediction, and the label's probability (nan for a regression)."""
    log_p, labels = result.log_probabilities, result.labels
    likely = torch.full(labels.shape, math.nan)
    if log_p.shape[-1] > 1:
        likely = log_p.gather(1, labels.long().unsqueeze(1)).exp().squeeze(1)
    names = ("label", "prediction", "probability_of_label")
    values = zip(*(column.double().tolist() for column in (labels, result.predictions, likely)), strict=True)
    return [
        {"strategy": result.strategy, "row": n, **dict(zip(names, row, strict=True))} for n, row in enumerate(values)
    ]


def parquet(name: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A table as the bytes of a Parquet file. Raises ImportError where pandas or pyarrow is missing."""
    table = frame(rows, COLUMNS[name].split())
    if name == PREDICTIONS:
        table["probability_of_label"] = table["probability_of_label"].astype("float32")
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, write_page_checksum=True)
    return buffer.getvalue()


# -- the tables of all runs --------------------------------------------------------------------------------------


def gather(out: Path, names: Mapping[str, str] | None = None) -> DataFrame:
    """Puts the tables of all finished runs together and writes them; returns the results.

    names: of variants, by the keys of runs that were named anew.

    Raises ValueError where nothing is finished, a run's file is not whole, or a task was judged on different rows.
    """
    pd = _pandas()
    places = sorted(path.parent for path in out.glob(f"*/{RESULTS}"))
    if not places:
        raise LabError(f"{out} holds no finished run: expected one at least. Run `adamix-lab ablate` first.")
    tables = {}
    for name in COLUMNS:
        parts = [read_table(place / name) for place in places]
        if strange := [place for place, part in zip(places, parts, strict=True) if set(part["run"]) - {place.name}]:
            raise LabError(f"{strange[0] / name} is of another run: expected its folder's own. Delete that folder.")
        tables[name] = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    anew = tables[RESULTS]["run"].map(names or {})
    tables[RESULTS]["variant"] = anew.where(anew.notna(), tables[RESULTS]["variant"])
    _same_rows(tables[RESULTS], tables[PREDICTIONS])
    for name, table in tables.items():
        write_atomically(out / name, partial(table.to_parquet, index=False, write_page_checksum=True))
    return tables[RESULTS]


def _same_rows(results: DataFrame, predictions: DataFrame) -> None:
    """Refuses a table that would compare answers to different rows of one task."""
    seen: dict[tuple[Any, ...], tuple[str, bytes]] = {}
    settings = results.drop_duplicates("run").set_index("run")["settings"].map(json.loads)
    for run, rows in predictions.drop_duplicates(["run", "row"]).sort_values("row").groupby("run"):
        known, labels = settings[run], rows["label"].to_numpy().tobytes()
        names = ["task", "rows", "evaluation_rows", "judged_on", "part"]
        if known.get("judged_on") == "slice":  # of the run's own training rows
            names += ["label_noise", "sample" if known.get("sample") is not None else "seed"]
        where = tuple(known.get(name) for name in names)
        first = seen.setdefault(where, (str(run), labels))
        if first[1] != labels:
            raise LabError(
                f"Runs {first[0]} and {run} of task {known['task']!r} were judged on different rows: expected the same "
                "rows for each. Delete the folders of those that do not belong, or give another --out."
            )


# -- reading -----------------------------------------------------------------------------------------------------


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
    notes: tuple[str, ...] = ()


def read_results(folder: Path) -> Results:
    """The folder's results, with predictions and curves where they are; values that are not finite are left out.

    Raises FileNotFoundError without results; ValueError for a file that is not whole, lacks columns, or holds no row;
    ImportError where pandas or pyarrow is missing.
    """
    table = read_table(folder / RESULTS)
    if not len(table):
        raise LabError(f"{folder / RESULTS} holds no results: expected a row at least. Let a run finish first.")
    parts: dict[str, DataFrame | None] = {}
    notes = []
    for name, used in ((PREDICTIONS, "intervals over examples"), (CURVES, "training losses (claim 6)")):
        parts[name] = read_table(folder / name) if (folder / name).is_file() else None
        if parts[name] is None:
            notes.append(f"{name} is not there: {used} are missing.")
        elif set(parts[name]["run"]) - set(table["run"]):  # type: ignore[index]
            raise LabError(f"{folder / name} has runs that {RESULTS} has not: expected the tables of one grid.")
    finite = table["value"].map(math.isfinite)
    if not finite.all():
        lost = table.loc[~finite, ["task", "variant", "metric"]].drop_duplicates().to_numpy().tolist()
        named = "; ".join(", ".join(map(str, each)) for each in lost[:5])
        notes.append(f"{int((~finite).sum())} values are not finite and are left out ({named}).")
    return Results(table[finite], parts[PREDICTIONS], parts[CURVES], tuple(notes))


def read_table(path: Path) -> DataFrame:
    """One of the three tables, with all columns that a run writes.

    Raises FileNotFoundError where there is none, ValueError where it is cut short, no Parquet, or lacks columns,
    ImportError where pandas or pyarrow is missing.
    """
    pd = _pandas()
    import pyarrow

    require_file(path, "a table that adamix-lab ablate GRID.yaml --out FOLDER wrote. Make one, or name another folder.")
    try:
        table = pd.read_parquet(path, page_checksum_verification=True)
    except (OSError, ValueError, KeyError, RecursionError, pyarrow.ArrowException) as error:
        raise LabError(
            f"{path} is not a whole Parquet file ({' '.join(str(error).split())[:200]}): expected one that adamix-lab "
            "ablate wrote. It may have been cut short by a copy or a full disk. Delete it and run the grid again: a "
            "run's table is made anew, tables of all runs are gathered anew."
        ) from error
    missing = [name for name in COLUMNS[path.name].split() if name not in table.columns]
    if missing:
        raise LabError(
            f"{path} lacks {', '.join(missing)}: expected results of this version of AdaMix Lab, not "
            f"{list(table.columns)}. Gather them again with the version that reads them."
        )
    return table


def frame(rows: Sequence[Any], columns: Sequence[str] | None = None) -> DataFrame:
    """A table of rows. Raises ImportError where pandas or pyarrow is missing."""
    return _pandas().DataFrame(rows, columns=columns)  # type: ignore[no-any-return]


def _pandas() -> Any:
    with extra("experiments"):
        import pandas
        import pyarrow  # noqa: F401
    return pandas


def variant_called(results: Results, name: str) -> str | None:
    """The variant with that name, whatever its capitals; for `lora` the first of any size (`lora r=8`), too."""
    lower = {str(variant): str(variant).lower() for variant in results.table["variant"].unique()}
    same = [variant for variant in lower if lower[variant] == name.lower()]
    sizes = [variant for variant in lower if name.lower() == "lora" and lower[variant].startswith("lora r=")]
    return next(iter(same + sizes), None)  # another size of AdaMix is another question


def settings_of(results: Results, name: str, task: str | None = None) -> list[Any]:
    """The different values of one of the runs' settings, of one task or all; runs without it are left out."""
    table = results.table if task is None else results.table[results.table["task"] == task]
    known = [json.loads(text) for text in dict.fromkeys(table["settings"])]
    return list(dict.fromkeys(settings[name] for settings in known if name in settings))


def missing_seeds(results: Results) -> list[str]:
    """Where a variant has fewer seeds than others on the same task with as many examples, a line each."""
    lines = []
    for (task, examples), part in results.table.groupby(["task", "examples"], sort=False):
        seeds = set(part["seed"])
        for (variant, compute), own in part.groupby(["variant", "compute"], sort=False):
            if absent := sorted(seeds - set(own["seed"])):
                where = f"{task}, {examples} examples" if examples else str(task)
                budget = "" if compute == "steps" else f" at {BUDGETS[compute]}"
                lacking = ("s " if len(absent) > 1 else " ") + ", ".join(map(str, absent))
                lines.append(f"{variant} on {where}{budget} lacks seed{lacking}.")
    return lines


def several_runs(results: Results) -> list[str]:
    """Where one variant has several runs of a seed (other rates, steps, or numbers of examples), a line each."""
    runs = results.table.drop_duplicates("run").assign(few=lambda runs: runs["examples"] > 0)
    lines = []
    for (task, variant), part in runs.groupby(["task", "variant"], sort=False):
        if part.groupby(["compute", "few", "seed"])["run"].nunique().max() > 1:
            lines.append(f"{variant} on {task} has several runs of one seed and budget: their mean stands for them.")
    return lines


# -- printing ----------------------------------------------------------------------------------------------------


def unit(metric: str) -> str:
    """What stands behind a metric times 100: shares are per cent, correlations are not."""
    return " %" if metric.partition(",")[0] in ("accuracy", "f1") else ""


def in_words(table: DataFrame) -> DataFrame:
    """The table as a reader is told it: AdaMix with the side that it shares, and what is equal (`budget`)."""
    sides = table[["variant", "method", "share"]].to_numpy()
    few = (", " + table["examples"].astype(str) + " examples").where(table["examples"] > 0, "")
    return table.assign(variant=[with_side(*each) for each in sides], budget=table["compute"].map(BUDGETS) + few)


def in_points(values: Any) -> str:
    """A metric's values times 100, as `format_interval` has them."""
    return format_interval(100 * values)


def score_cells(table: DataFrame, names: Sequence[str], show: Callable[[Any], str] = in_points) -> Series[Any]:
    """Cells by the columns `names`, as `show` makes them of the values, one a seed (a run's random draws are one)."""
    by_seed = table["value"].groupby([table[name] for name in (*names, "seed")], sort=False).mean()
    return by_seed.groupby(level=list(names), sort=False).agg(show)


def measures(results: DataFrame) -> DataFrame:
    """All that was measured of the merge, a row a task, budget and variant: metrics times 100, losses in nats.

    A second row, "scaled", is at the temperature that fits a slice of the training rows, where a search held one out.
    Cells are empty of what a run did not measure.
    """
    table = in_words(results[results["strategy"].isin(("merged", "scaled"))])
    names, small = ["task", "budget", "variant", "strategy", "metric"], table["metric"].str.contains("loss|temperature")
    cells = [score_cells(table[~small], names), score_cells(table[small], names, partial(format_interval, digits=3))]
    wide = _pandas().concat(cells).unstack(fill_value="", sort=False)
    return wide[list(table["metric"].unique())].reset_index().sort_values(["task", "budget"], kind="stable")


def summary(results: DataFrame) -> str:
    """A table for each task and budget: its own metric of each strategy, and what a run costs.

    All that was measured of the merged models stands at the end.
    """
    own, lines = in_words(results[results["primary"]]), []
    for (task, budget), part in own.groupby(["task", "budget"], sort=False):
        metric = part["metric"].iloc[0]
        lines += ["", f"{task}, {budget}: {metric} x 100{' (%)' if unit(metric) else ''}"]
        costs = part.groupby("variant", sort=False).agg(
            seeds=("seed", "nunique"), steps=("steps", "first"), seconds=("seconds", "mean"),
            trained=("trained", "first"), stored=("stored", "first"), inference=("inference", "first"),
        )  # fmt: skip
        scores = score_cells(part, ["variant", "strategy"]).unstack(sort=False)
        lines.append(scores.join(costs.map("{:,.0f}".format)).to_string(na_rep="", index_names=False))
    lines += ["", "merged: metrics x 100, losses in nats", measures(results).to_string(index=False)]
    return "\n".join(lines)
