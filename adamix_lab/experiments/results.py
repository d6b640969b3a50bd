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
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.core.files import inside, write_atomically, write_text
from adamix_lab.experiments.reading import read_parquet
from adamix_lab.experiments.running import SETTINGS, WORK
from adamix_lab.experiments.settings import FORMAT, Run

if TYPE_CHECKING:
    from pandas import DataFrame

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
        write_atomically(inside(place, name), lambda path, data=data: _write(path, data))  # type: ignore[misc]
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
        path = inside(place, name)
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
