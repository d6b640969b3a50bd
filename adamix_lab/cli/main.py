"""The command line `adamix-lab`: thin; each command calls one function."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from adamix_lab.cli.analysing import landscape, posterior, theory
from adamix_lab.cli.exchange import export, import_authors, import_peft, push
from adamix_lab.cli.experimenting import ablate
from adamix_lab.cli.options import Folder
from adamix_lab.cli.reporting import report
from adamix_lab.cli.studies import baselines, few_shot, presets, table
from adamix_lab.cli.teaching import bundle, classroom
from adamix_lab.cli.train import evaluate, generate, predict, train, train_generator

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="AdaMix: train, compare, merge, predict.",
)

app.add_typer(classroom, name="classroom")


@app.command()
def tour(
    out: Folder = Path("runs/tour"),
    steps: Annotated[int | None, typer.Option(help="Fewer steps, for a quick look.")] = None,
) -> None:
    """Trains AdaMix on the embedded task and compares its strategies with what they should be compared with."""
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")  # before torch: a third faster on free cores
    from adamix_lab.experiments.tour import run_tour

    run_tour(out, steps)


COMMANDS = (
    *(presets, baselines, table, few_shot, ablate, report),
    *(posterior, landscape, theory),
    *(train, evaluate, predict, train_generator, generate),
    *(export, import_authors, import_peft, push),
    bundle,
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)


@app.command()
def doctor(
    for_class: Annotated[bool, typer.Option("--class", help="One line, to paste where the class can see it.")] = False,
) -> None:
    """Versions, device, embedded assets; what is missing and how to get it."""
    from adamix_lab.training.doctor import class_line, diagnose

    if for_class:
        fine, line = class_line()
        print(line)
        raise typer.Exit(0 if fine else 1)

    findings = list(diagnose())
    for fine, line in findings:
        print(("ok       " if fine else "MISSING  ") + line)
    if not all(fine for fine, _ in findings):
        raise typer.Exit(1)


@app.command()
def lab() -> None:
    """Opens JupyterLab on the notebooks, beginning with 00_tour."""
    from adamix_lab.cli.workshop import lab as run

    raise typer.Exit(run())


@app.command()
def test() -> None:
    """The quick tests (of a checkout)."""
    from adamix_lab.cli.workshop import pytest as run

    raise typer.Exit(run(["-m", "not slow and not browser"]))


@app.command("test-all")
def test_all() -> None:
    """Every test (of a checkout)."""
    from adamix_lab.cli.workshop import pytest as run

    raise typer.Exit(run([]))


@app.command()
def lint() -> None:
    """Formatting, style and types (of a checkout)."""
    from adamix_lab.cli.workshop import lint as run

    raise typer.Exit(run())


@app.command()
def notebooks() -> None:
    """Builds and runs the notebooks from their sources (of a checkout)."""
    from adamix_lab.cli.workshop import notebooks as run

    raise typer.Exit(run())


@app.command()
def bench() -> None:
    """The benchmarks in their quick form (of a checkout)."""
    from adamix_lab.cli.workshop import bench as run

    raise typer.Exit(run())


def main() -> None:
    """The entry point: a mistake in the input ends in one clear line; ADAMIX_LAB_DEBUG=1 shows the traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("ADAMIX_LAB_DEBUG"):
            raise
        print(f"adamix-lab: {error}", file=sys.stderr)
        raise SystemExit(2) from None
