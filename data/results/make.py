"""Finished runs of a grid as tables that are committed, and as folders again, where a grid goes on on another machine.

    python data/results/make.py pack runs/fairly data/results/fairly/cls
    python data/results/make.py unpack data/results/fairly/cls runs/fairly

Trials of rates and stops, in `search/`, go along, so that none is done twice. A run's settings stand in its table;
what its files of rows were known by does not go along: put the same rows where `--folder` says.
"""

import shutil
from functools import partial
from pathlib import Path

import typer

from adamix_lab.core.files import safe_join, write_atomically
from adamix_lab.experiments.ablation import TRIALS
from adamix_lab.experiments.results import COLUMNS, RESULTS, gather, read_table

app = typer.Typer(add_completion=False)


@app.command()
def pack(runs: Path, tables: Path) -> None:
    """Gathers the finished runs and trials of a folder into tables."""
    for part in (place for place in (runs, runs / TRIALS) if any(place.glob(f"*/{RESULTS}"))):
        gather(part)
        for name in COLUMNS:
            write_atomically(tables / part.relative_to(runs) / name, partial(shutil.copyfile, part / name))
            if part != runs:  # a table there would be taken for that of a run called "search"
                (part / name).unlink()


@app.command()
def unpack(tables: Path, runs: Path) -> None:
    """Makes a folder a run again; one that is finished there already stays as it is."""
    for part in (place for place in (tables, tables / TRIALS) if (place / RESULTS).is_file()):
        to, every = runs / part.relative_to(tables), {name: read_table(part / name) for name in COLUMNS}
        for run in (each for each in every[RESULTS]["run"].unique() if not (to / each / RESULTS).is_file()):
            for name in reversed(COLUMNS):  # results last: with them it is finished
                write = every[name][every[name]["run"] == run].to_parquet
                write_atomically(safe_join(to, run) / name, partial(write, index=False, write_page_checksum=True))


if __name__ == "__main__":
    app()
