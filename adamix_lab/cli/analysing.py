"""Commands that look at trained experts: routes as random variables, landscapes, estimates against measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adamix_lab.cli.options import Folder


def posterior(
    folder: Annotated[Path, typer.Argument(help="A saved mixture, as `train` writes it (runs/NAME/seed0).")],
    task: Annotated[str | None, typer.Option(help="The task it was trained on, where it was a folder or file.")] = None,
    outside: Annotated[str | None, typer.Option(help="Another task, whose text is the outside.")] = None,
    outside_text: Annotated[list[str] | None, typer.Option(help="Its text column; twice for pairs.")] = None,
    member: Annotated[list[Path] | None, typer.Option(help="A single adapter trained apart; once for each.")] = None,
    rows: Annotated[int, typer.Option(help="A seeded sample of so many evaluation rows.")] = 400,
    other_rows: Annotated[int, typer.Option(help="So many rows held out of train, and from outside.")] = 200,
    draws: Annotated[int, typer.Option(help="Of each random strategy.")] = 200,
    token_draws: Annotated[int, typer.Option(help="Of a route a token.")] = 20,
    dropout: Annotated[int, typer.Option(help="Samples with dropout on; 0 leaves dropout out.")] = 16,
    routes: Annotated[int | None, typer.Option(help="Draw so many routes instead of going through all.")] = None,
    seed: Annotated[int, typer.Option(help="Of rows and draws.")] = 0,
    out: Folder = Path("runs/posterior"),
) -> None:
    """Routes as random variables: strategies over many draws, the exact marginal, uncertainty; tables and pictures."""
    from adamix_lab.analysis.study import Settings, run_study

    settings = Settings(rows, other_rows, draws, token_draws, dropout, routes, seed)
    run_study(folder, out, settings, task, outside, outside_text, member or ())


def landscape(
    names: Annotated[list[str] | None, typer.Argument(help="Shipped twins, or folders that were saved.")] = None,
    kind: Annotated[str, typer.Option(help="line, plane, random, triangle, square, or stages.")] = "plane",
    metric: Annotated[list[str] | None, typer.Option(help="loss, accuracy, entropy, consistency; once each.")] = None,
    seed: Annotated[int, typer.Option(help="Of the twin, and of random directions.")] = 0,
    stage: Annotated[str, typer.Option(help="Of the twin's training: early, middle, late.")] = "late",
    steps: Annotated[int | None, typer.Option(help="Points along an axis.")] = None,
    rows: Annotated[int | None, typer.Option(help="The first so many evaluation rows; default: all.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows a pass.")] = 64,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    out: Folder = Path("runs/landscape"),
) -> None:
    """Loss over lines, planes and mixtures of experts: arrays and pictures; a killed run goes on where it was."""
    from adamix_lab.analysis.gallery import write_landscapes

    settings: dict[str, Any] = {"seed": seed, "stage": stage, "steps": steps, "rows": rows}
    settings |= {"batch_size": batch_size, "dtype": dtype}
    write_landscapes(names or ["adamix"], kind, out, metric or ["loss"], **settings)


def theory(
    rows: Annotated[int, typer.Option(help="The first so many evaluation rows.")] = 128,
    pairs: Annotated[int, typer.Option(help="Pairs of routes a stage.")] = 32,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ... of the twins.")] = 3,
    twin: Annotated[list[str] | None, typer.Option(help="Once for each; default: all four.")] = None,
    out: Folder = Path("runs/theory"),
) -> None:
    """Merging against ensembling on the shipped experts: estimates and measurements, likeness, curvature, by stage."""
    from adamix_lab.analysis.estimates import Study
    from adamix_lab.analysis.gallery import write_theory
    from adamix_lab.training.shipped import TWINS

    write_theory(out, Study(tuple(twin or TWINS), tuple(range(seeds)), rows=rows, pairs=pairs))
