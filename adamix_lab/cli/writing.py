"""Commands for decoders: train on data to be told in words, write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adamix_lab.cli.options import Folder


def train_generator(
    task: Annotated[str, typer.Argument(help="A folder with train and test files, e2e, webnlg or dart (Hub).")],
    model: Annotated[str, typer.Option(help="The decoder: a local folder, or a Hub name (gpt2).")],
    variant: Annotated[
        list[str] | None,
        typer.Option(help="frozen, lora, adamix-lora, adamix-bottleneck, full; once for each. Default: all but one."),
    ] = None,
    rows: Annotated[int | None, typer.Option(help="A seeded sample of so many training pairs.")] = None,
    part: Annotated[str, typer.Option(help="What is judged on: test, or validation to choose settings.")] = "test",
    sources: Annotated[int | None, typer.Option(help="Judge on so many sources only, evenly spread.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps of each variant.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Pairs a step.")] = 8,
    lr: Annotated[float, typer.Option(help="Learning rate of experts.")] = 2e-4,
    full_lr: Annotated[float, typer.Option(help="Learning rate of full fine-tuning.")] = 5e-5,
    consistency: Annotated[float, typer.Option(help="Weight of the consistency a target token.")] = 100.0,
    experts: Annotated[int, typer.Option(help="M of AdaMix.")] = 8,
    rank: Annotated[int, typer.Option(help="LoRA's rank (alpha is 8 times it).")] = 4,
    smoothing: Annotated[float, typer.Option(help="Label smoothing.")] = 0.1,
    max_length: Annotated[int, typer.Option(help="Tokens a pair.")] = 128,
    beams: Annotated[int, typer.Option(help="Beams of decoding.")] = 10,
    new_tokens: Annotated[int, typer.Option(help="Tokens written at most.")] = 64,
    precision: Annotated[str, typer.Option(help="no, bf16, or fp16 (GPU).")] = "no",
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    out: Folder = Path("runs/generation"),
) -> None:
    """Trains a decoder on E2E, WebNLG or DART, decodes, and prints scores; finished variants are not done again."""
    from adamix_lab.core.objective import Consistency
    from adamix_lab.generation.comparison import SHOWN, Settings, compare_generators, thinned
    from adamix_lab.generation.decoding import Decoding
    from adamix_lab.generation.tasks import load_generation_task
    from adamix_lab.training.recipe import Recipe

    recipe = Recipe(
        steps=steps,
        lr=lr,
        head_lr=full_lr,
        batch_size=batch_size,
        max_length=max_length,
        precision=precision,  # type: ignore[arg-type]
        seed=seed,
        dev_fraction=0.0,
        consistency=Consistency(consistency),
        checkpoint_every=500,
    )
    settings = Settings(
        recipe, Decoding(beams=beams, new_tokens=new_tokens), experts, rank, alpha=8.0 * rank, smoothing=smoothing
    )
    loaded = thinned(load_generation_task(task, part, rows, seed), sources)
    compare_generators(loaded, model, settings, out, variant or SHOWN)


def generate(
    folder: Annotated[Path, typer.Argument(help="Experts that train-generator saved: OUT/adamix-lora, say.")],
    sources: Annotated[list[str], typer.Argument(help='Sources as in training: "name : Aromi | Type : pub".')],
    strategy: Annotated[str, typer.Option(help="merged, fixed, fixed-N, random or random-example.")] = "merged",
    beams: Annotated[int, typer.Option(help="Beams of decoding.")] = 10,
    new_tokens: Annotated[int, typer.Option(help="Tokens written at most.")] = 64,
) -> None:
    """Writes a text for each source."""
    from adamix_lab.generation.comparison import load_generator
    from adamix_lab.generation.decoding import Decoding, generate_texts

    mixture, tokenizer = load_generator(folder)
    for text in generate_texts(mixture, sources, tokenizer, Decoding(beams=beams, new_tokens=new_tokens), strategy):
        print(text)
