"""Results on disk: a folder a run, with an atomic marker of its end, and the tidy tables that gather all of them.

    OUT/KEY/settings.json      what the run is
    OUT/KEY/work/              checkpoints and log while it is under way
    OUT/KEY/error.txt          what went wrong, if anything
    OUT/KEY/*.parquet          its results, predictions and curves; experts-*.safetensors: the experts, by stage
    OUT/KEY/finished.json      written last: the files with their hashes
    OUT/sets/NAME/             members and checkpoints of a set that trains as one program, while it is under way
    OUT/results.parquet, predictions.parquet, curves.parquet

One process writes here: the driver. Workers send bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.core.errors import near_misses
from adamix_lab.core.files import safe_join, write_atomically, write_text
from adamix_lab.experiments.grid import FORMAT, Run
from adamix_lab.experiments.running import SETTINGS, WORK

if TYPE_CHECKING:
    from pandas import DataFrame


# -- reading -----------------------------------------------------------------------------------------------------
#
# A results folder read and checked: what was run, and what every table and claim is computed from.


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


FINISHED = "finished.json"
ERROR = "error.txt"
TABLES = {
    "results": "run task variant method experts size share consistency routing examples seed steps compute strategy "
    "metric primary value seconds evaluation_seconds operations trained stored inference device versions date settings",
    "predictions": "run strategy row label prediction probability_of_label",
    "curves": "run step loss task_loss consistency",
}


def place_of(out: Path, run: Run) -> Path:
    """The run's folder."""
    return out / run.key


def begin(out: Path, run: Run) -> Path:
    """The run's folder with its settings in it; a new name for the same run replaces the old one."""
    place = place_of(out, run)
    text = json.dumps({"format": FORMAT, "run": run.key, "settings": asdict(run)}, indent=1) + "\n"
    path = place / SETTINGS
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return place


def finish(place: Path, files: Mapping[str, bytes], notes: Iterable[str] = ()) -> None:
    """Writes a run's files, and behind all of them the marker of its end.

    Raises OSError where the disk is full: the run is then not finished, and whatever was before is whole.
    """
    for name, data in files.items():
        write_atomically(safe_join(place, name), lambda path, data=data: _write(path, data))  # type: ignore[misc]
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    marker = {"format": FORMAT, "run": place.name, "files": hashes, "notes": list(notes)}
    write_text(place / FINISHED, json.dumps(marker, indent=1) + "\n")
    (place / ERROR).unlink(missing_ok=True)
    shutil.rmtree(place / WORK, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def fail(place: Path, error: str) -> None:
    """Keeps an error's text in the run's folder."""
    write_text(place / ERROR, error.rstrip() + "\n")


def state(out: Path, run: Run) -> str:
    """One of "finished", "damaged" (a file is not what the marker says), "failed", "under way", "waiting".

    Raises ValueError for a folder of another version's results.
    """
    place = place_of(out, run)
    if (place / FINISHED).is_file():
        return "damaged" if damage(place) else "finished"
    if (place / ERROR).is_file():
        return "failed"
    return "under way" if (place / WORK).is_dir() else "waiting"


def damage(place: Path) -> str:
    """What is wrong with a finished run's files; "" where nothing is. Raises ValueError for another version's."""
    marker = _marker(place / FINISHED)
    for name, digest in marker["files"].items():
        path = safe_join(place, name)
        if not path.is_file():
            return f"{path} is not there"
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return f"{path} is not whole, or was changed"
    return ""


def error_of(out: Path, run: Run) -> str:
    """The last line of the run's error; "" where it has none."""
    path = place_of(out, run) / ERROR
    lines = path.read_text(encoding="utf-8").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else ""


def check_versions(out: Path) -> None:
    """Refuses a folder that holds runs of another version. Raises ValueError that names the first."""
    for path in sorted(out.glob(f"*/{SETTINGS}")):
        _marker(path)


def _marker(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): delete the folder {path.parent} to run it anew.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        given = found.get("format") if isinstance(found, dict) else found
        raise ValueError(
            f"{path} holds results of format {given!r}: expected {FORMAT}. Give another --out, or use the version of "
            "adamix_lab that wrote them. Nothing was changed."
        )
    return found


def gather(out: Path) -> DataFrame:
    """Puts the tables of all finished runs together and writes them; returns the results.

    The variant's name comes from settings.json, so that a run that was named anew is shown under its new name.

    Raises ValueError where nothing is finished, a run's file is not whole, or a task was judged on different rows.
    """
    import pandas as pd

    check_versions(out)
    places = sorted(path.parent for path in out.glob(f"*/{FINISHED}"))
    if not places:
        raise ValueError(f"{out} holds no finished run: expected one at least. Run `adamix-lab ablate` first.")
    for place in places:
        if wrong := damage(place):
            raise ValueError(f"{wrong}: expected what the run wrote. Run the grid again; that run is made anew.")
    tables: dict[str, Any] = {}
    for name in TABLES:
        parts = [read_table(place / f"{name}.parquet", name) for place in places]
        tables[name] = pd.concat(parts, ignore_index=True)
    names = {place.name: _marker(place / SETTINGS)["settings"]["variant"] for place in places}
    tables["results"]["variant"] = tables["results"]["run"].map(names)
    _same_rows(tables["results"], tables["predictions"])
    for name, table in tables.items():
        write_table(out / f"{name}.parquet", table)
    return tables["results"]


def write_table(path: Path, table: DataFrame) -> None:
    """A Parquet file, written atomically. Raises OSError where the disk is full; the old file is whole."""
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))


def read_table(path: Path, name: str) -> DataFrame:
    """One of the three tables, with all columns that a run writes. Raises as `reading.read_parquet`."""
    return read_parquet(path, TABLES[name].split())


def _same_rows(results: DataFrame, predictions: DataFrame) -> None:
    """Refuses a table that would compare answers to different rows of one task."""
    digests: dict[tuple[Any, ...], tuple[str, str]] = {}
    first = results.drop_duplicates("run")
    setting = {run: json.loads(text) for run, text in zip(first["run"], first["settings"], strict=True)}
    for run, rows in predictions.groupby("run"):
        labels = rows[rows["strategy"] == rows["strategy"].iloc[0]].sort_values("row")["label"]
        digest = hashlib.sha256(labels.to_numpy().tobytes()).hexdigest()
        known = setting[str(run)]
        key = tuple(known[name] for name in ("task", "rows", "evaluation_rows", "judged_on"))
        other, seen = digests.setdefault(key, (str(run), digest))
        if seen != digest:
            raise ValueError(
                f"Runs {other} and {run} of task {known['task']!r} were judged on different rows: expected the same "
                "rows for each. Delete the folders of those that do not belong, or give another --out."
            )
