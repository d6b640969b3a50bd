"""The command line `adamix-lab`: thin; each command calls one function."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from adamix_lab.cli.analysing import landscape, posterior, theory
from adamix_lab.cli.exchanging import export, import_authors, import_peft, push
from adamix_lab.cli.experimenting import ablate
from adamix_lab.cli.measuring import effects, lesson_landscapes, lesson_loras, lesson_runs
from adamix_lab.cli.options import Folder
from adamix_lab.cli.reporting import report
from adamix_lab.cli.studies import baselines, few_shot, presets, table
from adamix_lab.cli.teaching import bundle, classroom
from adamix_lab.cli.writing import generate, train_generator

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


@app.command()
def train(
    context: typer.Context,
    preset: Annotated[str | None, typer.Option(help="Values of a preset; options given beside it count.")] = None,
    task: Annotated[
        str, typer.Option(help='"aspects" (embedded), "rte" and its like, a folder or file, or a Hub name.')
    ] = "aspects",
    folder: Annotated[Path | None, typer.Option(help="Where the rows of a task such as rte lie; default: Hub.")] = None,
    model: Annotated[str, typer.Option(help='"minilm" (embedded), a local folder, or a Hub name.')] = "minilm",
    rows: Annotated[int | None, typer.Option(help="A seeded sample of so many training rows.")] = None,
    adaptation: Annotated[str, typer.Option(help="bottleneck, lora, ia3 or bias.")] = "bottleneck",
    size: Annotated[int, typer.Option(help="Bottleneck size, or LoRA's rank.")] = 16,
    experts: Annotated[int, typer.Option(help="M.")] = 4,
    share: Annotated[
        str | None, typer.Option(help='Side to share; "none" shares nothing. Default: up, or LoRA\'s B.')
    ] = None,
    top_blocks: Annotated[int | None, typer.Option(help="Adapt only so many blocks from the top.")] = None,
    consistency: Annotated[float, typer.Option(help="Weight of the consistency loss; 0 is one view a step.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 300,
    lr: Annotated[float, typer.Option(help="Learning rate of the experts.")] = 3e-3,
    head_lr: Annotated[float | None, typer.Option(help="Learning rate of the head; default: the experts'.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = 32,
    max_length: Annotated[int, typer.Option(help="Tokens a row.")] = 128,
    precision: Annotated[str, typer.Option(help="no, bf16, or fp16 (GPU).")] = "no",
    seeds: Annotated[int, typer.Option(help="Runs with seeds 0, 1, ...")] = 1,
    text: Annotated[list[str] | None, typer.Option(help="Text column; twice for pairs.")] = None,
    label: Annotated[str, typer.Option(help="Label column.")] = "label",
    out: Folder = Path("runs/train"),
) -> None:
    """Trains AdaMix on a task and prints a table of inference strategies; a killed run goes on where it was."""
    from adamix_lab.core.adaptations import adaptation_from
    from adamix_lab.core.objective import Consistency
    from adamix_lab.experiments.seeds import train_seeds
    from adamix_lab.tasks.tasks import load_task
    from adamix_lab.training.recipe import Recipe

    if preset is not None:
        from adamix_lab.training.presets import preset as chosen_preset

        given = {name for name in context.params if context.get_parameter_source(name).name != "DEFAULT"}  # type: ignore[union-attr]
        chosen = chosen_preset(preset).changed(**{name: context.params[name] for name in given})
        if chosen.generates:
            raise ValueError(f"Preset {preset!r} generates text: expected one of an understanding task here.")
        data = load_task(chosen.task, text=text, label=label, rows=rows, folder=folder)
        train_seeds(
            data, chosen.backbone, chosen.adaptation, chosen.recipe, out, **chosen.attached(), seeds=range(seeds)
        )
        return
    rows_and_labels = load_task(task, text=text, label=label, rows=rows, folder=folder)
    kind = "mse" if rows_and_labels.regression else "reference"
    sized = {"bottleneck": {"size": size}, "lora": {"rank": size}}.get(adaptation, {})
    recipe = Recipe(
        steps=steps,
        lr=lr,
        head_lr=head_lr,
        batch_size=batch_size,
        max_length=max_length,
        precision=precision,  # type: ignore[arg-type]
        consistency=Consistency(consistency, kind, views="shared_prefix"),
        cache_prefix=top_blocks is not None,
    )
    train_seeds(
        rows_and_labels,
        model,
        adaptation_from({"kind": adaptation, **sized}),
        recipe,
        out,
        experts=experts,
        share=share,
        blocks=None if top_blocks is None else range(-top_blocks, 0),
        seeds=range(seeds),
    )


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="A saved mixture, as `train` and `tour` write it.")],
    task: Annotated[str | None, typer.Option(help="Another task than the one it was trained on.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="Once for each strategy; default: four of them.")] = None,
    seed: Annotated[int, typer.Option(help="Of random routes.")] = 0,
) -> None:
    """Compares inference strategies of a saved mixture on a task's evaluation rows."""
    from adamix_lab.experiments.seeds import SHOWN, print_results
    from adamix_lab.tasks.tasks import load_task
    from adamix_lab.training.evaluation import evaluate as compare
    from adamix_lab.training.evaluation import load_saved

    mixture, tokenizer, config = load_saved(folder)
    source = task or config["notes"].get("source") or config["notes"].get("task", "aspects")
    for part in load_task(source).evaluation_tasks():
        print(part.name)
        print_results(compare(mixture, part, tokenizer, strategy or SHOWN, seed))


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="A saved mixture, as `train` and `tour` write it.")],
    texts: Annotated[
        list[str], typer.Argument(help="Sentences. Of a task of pairs: first, second, first, second, ...")
    ],
    strategy: Annotated[str, typer.Option(help="How to use the experts.")] = "merged",
) -> None:
    """Class probabilities of sentences, or the numbers of a regression."""
    from adamix_lab.training.evaluation import load_saved
    from adamix_lab.training.evaluation import predict as answer

    mixture, tokenizer, config = load_saved(folder)
    inputs: Any = texts
    if config["notes"].get("columns") == 2:
        if len(texts) % 2:
            raise ValueError(
                f"{len(texts)} texts were given to a task of pairs: expected an even number, first and second in turn."
            )
        inputs = list(zip(texts[::2], texts[1::2], strict=True))
    probabilities = answer(mixture, tokenizer, inputs, strategy)
    if probabilities.shape[1] == 1:  # a regression answers with a number
        for given, number in zip(inputs, probabilities[:, 0].tolist(), strict=True):
            print(f"{number:12.3f}  {' | '.join(given) if isinstance(given, tuple) else given}")
        return
    classes = config["notes"].get("classes") or [str(n) for n in range(probabilities.shape[1])]
    for given, row in zip(inputs, probabilities, strict=True):
        best = int(row.argmax())
        shown = " | ".join(given) if isinstance(given, tuple) else given
        print(f"{classes[best]:>12}  {100 * float(row[best]):5.1f} %  {shown}")


COMMANDS = (
    *(presets, baselines, table, few_shot, ablate, report),
    *(posterior, landscape, theory),
    *(train_generator, generate),
    *(export, import_authors, import_peft, push),
    *(effects, lesson_runs, lesson_loras, lesson_landscapes, bundle),
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
