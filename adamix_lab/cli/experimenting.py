"""Commands that run grids of experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adamix_lab.cli.options import Folder


def ablate(
    grid: Annotated[Path, typer.Argument(help="A grid, such as data/grids/quick.yaml.")],
    minutes: Annotated[float | None, typer.Option(help="Only a slice of so many minutes, in the grid's order.")] = None,
    workers: Annotated[int, typer.Option(help="Runs at once on this machine (or SLURM jobs).")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each run; default: the cores, shared.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help='"tcp://HOST:PORT" (dask), "ray", or "slurm"; default: this machine.')
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Holds a folder a task (rte, sst2, ...); default: Hub.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of every run, instead of the grid's.")] = None,
    snapshots: Annotated[bool, typer.Option(help="Keep the experts at three stages of training.")] = True,
    together: Annotated[int, typer.Option(help="So many runs of equal shape train as one program (for a GPU).")] = 1,
    only_list: Annotated[bool, typer.Option("--list", help="List the runs and their states, and run nothing.")] = False,
    out: Folder = Path("runs/ablation"),
) -> None:
    """Performs a grid of runs, resumably, and prints variants by strategies with intervals over seeds."""
    from adamix_lab.experiments.ablation import ablate as perform
    from adamix_lab.experiments.ablation import listed
    from adamix_lab.experiments.grid import read_grid
    from adamix_lab.experiments.performing import Engine

    changes = {"folder": None if folder is None else str(folder), "steps": steps}
    runs = read_grid(grid, **{name: value for name, value in changes.items() if value is not None})
    if only_list:
        print("\n".join(listed(runs, out)))
        return
    results, failed = perform(runs, out, Engine(workers, threads, cluster, minutes, snapshots, together))
    if results is not None:
        from adamix_lab.experiments.report import report

        report(out)
    if failed:
        raise typer.Exit(1)
