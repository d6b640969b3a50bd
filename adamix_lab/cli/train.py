"""Commands that train and use what was trained: encoders, and decoders that write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adamix_lab.cli.options import Folder


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
        chosen = chosen_preset(preset).with_options(**{name: context.params[name] for name in given})
        if chosen.generates:
            raise ValueError(f"Preset {preset!r} generates text: expected one of an understanding task here.")
        data = load_task(chosen.task, text=text, label=label, rows=rows, folder=folder)
        train_seeds(
            data, chosen.backbone, chosen.adaptation, chosen.recipe, out, **chosen.attach_options(), seeds=range(seeds)
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


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A saved mixture, as `train` and `tour` write it.")],
    task: Annotated[str | None, typer.Option(help="Another task than the one it was trained on.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="Once for each strategy; default: four of them.")] = None,
    seed: Annotated[int, typer.Option(help="Of random routes.")] = 0,
) -> None:
    """Compares inference strategies of a saved mixture on a task's evaluation rows."""
    from adamix_lab.experiments.seeds import SHOWN, over_seeds
    from adamix_lab.tasks.tasks import load_task
    from adamix_lab.training.evaluation import evaluate as compare
    from adamix_lab.training.shipped import load_saved

    mixture, tokenizer, config = load_saved(folder)
    source = task or config["notes"].get("source") or config["notes"].get("task", "aspects")
    for part in load_task(source).evaluation_tasks():
        print(part.name)
        print(over_seeds([compare(mixture, part, tokenizer, strategy or SHOWN, seed)]))


def predict(
    folder: Annotated[Path, typer.Argument(help="A saved mixture, as `train` and `tour` write it.")],
    texts: Annotated[
        list[str], typer.Argument(help="Sentences. Of a task of pairs: first, second, first, second, ...")
    ],
    strategy: Annotated[str, typer.Option(help="How to use the experts.")] = "merged",
) -> None:
    """Class probabilities of sentences, or the numbers of a regression."""
    from adamix_lab.training.evaluation import predict as answer
    from adamix_lab.training.shipped import load_saved

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
