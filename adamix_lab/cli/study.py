"""Commands that look at trained experts and that compare: routes, landscapes, grids, reports, presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from adamix_lab.cli import options
from adamix_lab.core.files import read_config


def posterior(
    folder: Annotated[Path, options.SAVED],
    task: Annotated[str | None, options.TASK] = None,
    outside: Annotated[str | None, typer.Option(help="Another task, whose text is the outside.")] = None,
    outside_text: Annotated[list[str] | None, typer.Option(help="Its text column; twice for pairs.")] = None,
    member: Annotated[
        list[Path] | None, options.checked("A single adapter trained apart; once for each.", options.is_saved)
    ] = None,
    evaluation_rows: Annotated[int, options.EVALUATION_ROWS] = 400,
    other_rows: Annotated[int, options.count("So many rows held out of train, and from outside.")] = 200,
    draws: Annotated[int, options.count("Of each random strategy.")] = 200,
    token_draws: Annotated[int, options.count("Of a route a token.")] = 20,
    dropout: Annotated[int, options.count("Samples with dropout on; 0 leaves dropout out.", 0)] = 16,
    routes: Annotated[int | None, options.count("Draw so many routes instead of going through all.")] = None,
    seed: Annotated[int, options.SEED] = 0,
    out: Annotated[Path, options.OUT] = Path("runs/posterior"),
) -> None:
    """Routes as random variables: strategies over many draws, the exact marginal, uncertainty; tables and pictures.

    --task says where the rows of its task lie, if they have moved. Rows are seeded samples.
    """
    from adamix_lab.tasks.loading import load_task, saved_task

    own = saved_task(read_config(folder)["notes"], task)  # rows that are not there are told before torch is imported
    other = load_task(outside, text=outside_text) if outside else None
    from adamix_lab.analysis.study import Settings, write_posterior

    settings = Settings(evaluation_rows, other_rows, draws, token_draws, dropout, routes, seed)
    write_posterior(folder, out, own, settings, other, member or ())


def landscape(
    names: Annotated[
        list[str] | None, options.argument("Shipped experts, or folders that were saved.", options.is_landscape)
    ] = None,
    task: Annotated[str | None, options.TASK] = None,
    kind: Annotated[str, options.choice("", "line plane random triangle")] = "plane",
    metric: Annotated[list[str] | None, options.choice("Once each: ", "loss accuracy entropy consistency")] = None,
    seed: Annotated[int, options.SEED] = 0,
    stage: Annotated[str, options.choice("Of the training of shipped experts: ", "early middle late")] = "late",
    points: Annotated[int | None, options.count("Points along an axis.", 2)] = None,
    evaluation_rows: Annotated[int | None, options.EVALUATION_ROWS] = None,
    batch_size: Annotated[int, options.count("Rows a pass.")] = 64,
    dtype: Annotated[str, options.choice("", "float32 bfloat16")] = "float32",
    out: Annotated[Path, options.OUT] = Path("runs/landscape"),
) -> None:
    """Loss over lines, planes and mixtures of experts: arrays and pictures; a killed run goes on where it was.

    Rows are drawn, by default all. Shipped experts are those of --seed. --task gives other rows, or says
    where a folder's lie now.
    """
    from adamix_lab.tasks.loading import load_task

    settings: dict[str, Any] = {"seed": seed, "stage": stage, "steps": points, "rows": evaluation_rows}
    settings |= {"batch_size": batch_size, "dtype": dtype, "task": load_task(task) if task else None}
    from adamix_lab.analysis.study import write_landscapes

    write_landscapes(names or ["adamix"], kind, out, metric or ["loss"], **settings)


# -- comparisons -----------------------------------------------------------------------------------------------------


def ablate(
    context: typer.Context,
    grid: Annotated[str, typer.Argument(help="A grid's file, or the name of a shipped one, such as quick.")],
    task: Annotated[list[str] | None, options.TASK] = None,
    method: Annotated[list[str] | None, options.METHOD] = None,
    model: Annotated[str | None, options.MODEL] = None,
    rows: Annotated[int | None, options.ROWS] = None,
    evaluation_rows: Annotated[int | None, options.EVALUATION_ROWS] = None,
    folder: Annotated[Path | None, options.FOLDER] = None,
    steps: Annotated[int | None, options.STEPS] = None,
    search: Annotated[bool, typer.Option(help="Choose rates beforehand, where the grid says how.")] = True,
    only_list: Annotated[bool, typer.Option("--list", help="List the runs and their states, and run nothing.")] = False,
    out: Annotated[Path, options.OUT] = Path("runs/ablation"),
) -> None:
    """Performs a grid of runs, resumably, and prints variants by strategies with intervals over seeds.

    Shipped: quick, baselines (all that AdaMix is compared with), table (tasks by methods), few-shot, core, full,
    fairly, phase. --task (once for each), --model, --rows, --evaluation-rows, --folder and --steps take the place of
    the grid's. With --method (once for each) only the grid's runs of these methods are performed. Left out, --together
    is 8 where one worker trains top blocks.
    """
    from adamix_lab.experiments.grids import narrowed, read_grid
    from adamix_lab.experiments.settings import Engine

    engine = Engine(**context.obj)
    changes = {"folder": folder and str(folder), "backbone": model, "rows": rows, "steps": steps}
    changes["evaluation_rows"] = evaluation_rows
    runs = read_grid(grid, **{name: value for name, value in changes.items() if value is not None})
    runs = narrowed(runs if search else replace(runs, search=None), task or (), method or ())
    from adamix_lab.experiments.ablation import ablate as perform
    from adamix_lab.experiments.ablation import listed

    if only_list:
        print("\n".join(listed(runs, out)))
        return
    # Above a cached prefix eight runs take little memory; several workers have a run each.
    top = engine.workers == 1 and engine.cluster is None and all(run.top_blocks is not None for run in runs.runs)
    if top and "together" not in context.obj:
        engine = replace(engine, together=8)
    results, failed = perform(runs, out, engine)
    if results is not None:
        from adamix_lab.experiments.report import report

        report(out)
    if failed:
        raise typer.Exit(1)


def report(
    folder: Annotated[
        Path, options.argument("Results, as `ablate` writes them (results.parquet).", options.is_results)
    ],
    out: Annotated[Path | None, options.OUT] = None,
) -> None:
    """The paper's tables and claims beside what was measured: Markdown and one HTML file, with verdicts.

    By default in FOLDER/report.
    """
    from adamix_lab.experiments.report import report as write

    write(folder, out)


def presets(
    name: Annotated[str | None, typer.Argument(help="A preset, to print its values; none lists the names.")] = None,
) -> None:
    """Settings of the paper, of the authors' code, and for laptops, each value with its source."""
    from adamix_lab.training.recipe import describe_preset, preset_names
    from adamix_lab.training.recipe import preset as chosen_preset

    print("\n".join(preset_names()) if name is None else describe_preset(chosen_preset(name)))
