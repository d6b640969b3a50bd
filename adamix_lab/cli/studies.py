"""Commands that compare: presets, baselines, tasks by methods, few examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adamix_lab.cli.options import Folder

if TYPE_CHECKING:
    from adamix_lab.experiments.grid import Grid


def presets(
    name: Annotated[str | None, typer.Argument(help="A preset, to print its values; none lists the names.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Settings of the paper, of the authors' code, and for laptops, each value with its source."""
    from adamix_lab.training.presets import describe_preset, load_presets
    from adamix_lab.training.presets import preset as chosen_preset

    if name is None:
        names = list(load_presets())
        print(json.dumps(names, indent=2) if as_json else "\n".join(names))
        return
    chosen = chosen_preset(name)
    print(json.dumps(chosen.to_dict(), indent=2) if as_json else describe_preset(chosen))


def baselines(
    task: Annotated[str, typer.Option(help='"aspects" (embedded), or a folder or file.')] = "aspects",
    model: Annotated[str, typer.Option(help='"minilm" (embedded), a local folder, or a Hub name.')] = "minilm",
    rows: Annotated[int | None, typer.Option(help="A seeded sample of so many training rows.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps of each at equal steps.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = 32,
    size: Annotated[int, typer.Option(help="Bottleneck size of every adapter.")] = 16,
    experts: Annotated[int, typer.Option(help="M of AdaMix, and of the controls that multiply.")] = 4,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    search: Annotated[bool, typer.Option(help="Choose each rate of three on a slice of the training rows.")] = True,
    only: Annotated[list[str] | None, typer.Option(help="Once for each baseline; default: all.")] = None,
    out: Folder = Path("runs/baselines"),
) -> None:
    """Compares AdaMix with its baselines at equal steps and equal compute; a killed run goes on where it was."""
    from dataclasses import replace

    from adamix_lab.experiments.grid import Grid, shipped_grid

    grid = shipped_grid(
        "baselines", methods=only or (), task=task, backbone=model, rows=rows, steps=steps, batch_size=batch_size,
        experts=experts, seed=seed,
    )  # fmt: skip
    runs = tuple(run if run.method == "lora" else replace(run, size=size, variant="") for run in grid.runs)
    perform(Grid(runs, replace(grid.search, steps=max(1, steps // 4)) if grid.search and search else None), out)


def table(
    folder: Annotated[Path, typer.Option(help="Holds a folder a task: cola, sst2, mrpc, ...")],
    steps: Annotated[int, typer.Option(help="Optimiser steps of every method.")] = 100,
    task: Annotated[list[str] | None, typer.Option(help="Once for each task; default: all in the folder.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="probe, lora, single, adamix; default: all.")] = None,
    model: Annotated[str, typer.Option(help='"minilm" (embedded), a local folder, or a Hub name.')] = "minilm",
    rows: Annotated[int | None, typer.Option(help="A seeded sample of so many training rows.")] = None,
    evaluation_rows: Annotated[int | None, typer.Option(help="A sample to be judged on; default: all.")] = None,
    top_blocks: Annotated[int | None, typer.Option(help="Adapt only so many blocks from the top.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens a row.")] = 128,
    out: Folder = Path("runs/table"),
) -> None:
    """Every task by every method under one budget: metric, seconds, parameters. A killed run goes on where it was."""
    from adamix_lab.experiments.grid import shipped_grid, tasks_in

    settings = {"steps": steps, "backbone": model, "rows": rows, "top_blocks": top_blocks, "max_length": max_length}
    settings |= {"folder": str(folder), "evaluation_rows": evaluation_rows}
    perform(shipped_grid("table", task or tasks_in(folder), method or (), **settings), out)


def few_shot(
    task: Annotated[str, typer.Option(help='"sst2" and its like, a folder or file, or a Hub name.')],
    folder: Annotated[Path | None, typer.Option(help="Holds a folder a task (sst2, ...); default: Hub.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs with seeds 0, 1, ...")] = 5,
    examples: Annotated[int, typer.Option(help="Labelled examples in all.")] = 30,
    per_class: Annotated[int | None, typer.Option(help="So many of each class, instead.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the examples.")] = 50,
    method: Annotated[list[str] | None, typer.Option(help="probe, single, adamix; default: all.")] = None,
    model: Annotated[str, typer.Option(help='"minilm" (embedded), a local folder, or a Hub name.')] = "minilm",
    prompt: Annotated[bool, typer.Option(help="Answer with label words (a masked-LM backbone).")] = False,
    top_blocks: Annotated[int, typer.Option(help="Adapt so many blocks from the top; 0 adapts all.")] = 2,
    out: Folder = Path("runs/few-shot"),
) -> None:
    """Few labelled examples, no validation set, several seeds: mean and interval, as the paper's Table 6."""
    import math
    from dataclasses import replace

    from adamix_lab.core.errors import one_of
    from adamix_lab.experiments.grid import shipped_grid
    from adamix_lab.tasks.prompts import PROMPTS
    from adamix_lab.tasks.tasks import few_shot as drawn
    from adamix_lab.tasks.tasks import load_task

    rows = drawn(load_task(task, folder=folder and folder / task), examples, per_class=per_class)
    if prompt:
        one_of("Task with a prompt", rows.name, PROMPTS)
    number = len(rows.train)
    settings = {"task": task, "folder": folder and str(folder), "backbone": model, "examples": number, "prompt": prompt}
    settings |= {"top_blocks": top_blocks or None, "steps": math.ceil(epochs * math.ceil(number / 16))}
    grid = shipped_grid("few-shot", methods=method or (), **settings)
    runs = [replace(run, seed=seed) for seed in range(seeds) for run in grid.runs if run.seed == 0]
    perform(replace(grid, runs=tuple(runs)), out)


def perform(grid: Grid, out: Path) -> None:
    """Performs a shipped grid and prints its table. Exits with 1 where a run failed."""
    from adamix_lab.experiments.ablation import ablate

    if ablate(grid, out)[1]:
        raise typer.Exit(1)
