"""Commands that train, use and exchange what was trained: encoders, and decoders that write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from adamix_lab.cli import options
from adamix_lab.core.errors import LabError, check_repository, finite, one_of
from adamix_lab.core.files import CONFIG, check_written, require_file, told


def train(
    context: typer.Context,
    preset: Annotated[str | None, typer.Option(help="Values of a preset; options given beside it count.")] = None,
    task: Annotated[str, options.TASK] = "aspects",
    folder: Annotated[Path | None, options.FOLDER] = None,
    model: Annotated[str, options.MODEL] = "minilm",
    pooling: Annotated[
        str | None,
        options.choice("What the head reads; default: mean of minilm, cls of presets and other models; ", "cls mean"),
    ] = None,
    rows: Annotated[int | None, options.ROWS] = None,
    adaptation: Annotated[str, options.choice("", "bottleneck lora ia3 bias")] = "bottleneck",
    size: Annotated[int, options.SIZE] = 16,
    experts: Annotated[int, options.EXPERTS] = 4,
    share: Annotated[
        str | None, options.choice("Shared side; default: up, or LoRA's B. Of ", "down up A B scale bias none")
    ] = None,
    top_blocks: Annotated[int | None, options.TOP_BLOCKS] = None,
    seed: Annotated[int, options.SEED] = 0,
    seeds: Annotated[int, options.SEEDS] = 1,
    text: Annotated[list[str] | None, typer.Option(help="Text column; twice for pairs.")] = None,
    label: Annotated[str, typer.Option(help="Label column.")] = "label",
    label_noise: Annotated[float, typer.Option(help="Share of training labels made wrong, up to a half.")] = 0.0,
    opponent: Annotated[str | None, options.choice("Of AdaMix: ", "single r-drop slow swa ema slow-swa")] = None,
    out: Annotated[Path, options.OUT] = Path("runs/train"),
) -> None:
    """Trains AdaMix on a task and prints a table of inference strategies; a killed run goes on where it was.

    The recipe begins from that of the preset; without one from 300 steps at a rate of 0.003 and, for --top-blocks, a
    cached prefix. An --opponent is one adapter alone: with two dropout masks (r-drop), at 1/M of the rate on
    the side that AdaMix routes (slow), averaged over its last three quarters of steps (swa) or over all, fading (ema).
    """
    # What needs no torch is looked at first: the recipe, the preset's name, the rows.
    from adamix_lab.core.errors import Consistency
    from adamix_lab.tasks.loading import load_task
    from adamix_lab.tasks.tasks import Task
    from adamix_lab.training.recipe import Preset, Recipe, preset_names
    from adamix_lab.training.recipe import preset as find_preset

    plain = Recipe(steps=300, lr=3e-3, consistency=Consistency(views="shared_prefix"))
    plain.with_options(**context.obj)
    if preset:
        one_of("preset", preset, preset_names())

    def read(name: str) -> Task:
        return load_task(folder / name if folder else name, text, label, rows=rows, label_noise=label_noise)

    data = None if preset else read(task)
    from adamix_lab.core.adaptations import Bottleneck
    from adamix_lab.experiments.seeds import train_seeds

    begun = find_preset(preset) if preset else Preset("plain", task, model, Bottleneck(size), experts, share, plain)
    given = [name for name in context.params if context.get_parameter_source(name).name != "DEFAULT"]  # type: ignore[union-attr]
    names = given if preset else context.params
    chosen = begun.with_options(context.obj, **{name: context.params[name] for name in names})
    if chosen.generates:
        raise LabError(f"Preset {preset!r} generates text: expected one of an understanding task. See train-generator.")
    data = data or read(chosen.task)
    print(data.report)
    if data.regression and not preset and "consistency_kind" not in context.obj:
        chosen = chosen.with_options({"consistency_kind": "mse"})
    pooling = pooling or ("cls" if preset else None)  # presets stay what they were measured with
    train_seeds(
        data, chosen.backbone, chosen.adaptation, chosen.recipe, out, experts=chosen.experts, share=chosen.share,
        blocks=chosen.blocks, seeds=range(seed, seed + seeds), method=opponent or "adamix", pooling=pooling,
    )  # fmt: skip


def evaluate(
    folder: Annotated[Path, options.SAVED],
    task: Annotated[str | None, options.TASK] = None,
    strategy: Annotated[list[str] | None, options.STRATEGY] = None,
    seed: Annotated[int, options.SEED] = 0,
) -> None:
    """Compares inference strategies of a saved mixture on evaluation rows, by default those of its own task.

    --strategy once for each strategy; default: seven of them.
    """
    from adamix_lab.core.files import read_config
    from adamix_lab.tasks.loading import saved_task

    data = saved_task(read_config(folder)["notes"], task)
    from adamix_lab.experiments.seeds import SHOWN, over_seeds
    from adamix_lab.training.evaluation import evaluate as compare
    from adamix_lab.training.shipped import load_saved, trained_length

    mixture, tokenizer, config = load_saved(folder)
    print(data.report)
    for part in data.evaluation_tasks():
        print(part.name)
        found = compare(mixture, part, tokenizer, strategy or SHOWN, seed, max_length=trained_length(config))
        print(over_seeds([found]))


def predict(
    folder: Annotated[Path, options.SAVED],
    texts: Annotated[list[str], typer.Argument(help="Sentences; of a task of pairs first, second, first, ...")],
    strategy: Annotated[str, options.STRATEGY] = "merged",
) -> None:
    """Class probabilities of sentences, or the numbers of a regression."""
    from adamix_lab.training.evaluation import predict as answer
    from adamix_lab.training.shipped import load_saved, trained_length

    mixture, tokenizer, config = load_saved(folder)
    inputs: list[Any] = texts
    if config["notes"].get("columns") == 2:
        if len(texts) % 2:
            raise LabError(
                f"{len(texts)} texts were given to a task of pairs: expected an even number, first and second in turn."
            )
        inputs = list(zip(texts[::2], texts[1::2], strict=True))
    found = answer(mixture, tokenizer, inputs, strategy, max_length=trained_length(config))
    for given, said in zip(inputs, found.said(), strict=True):
        print(f"{said}  {' | '.join(given) if isinstance(given, tuple) else given}")


def train_generator(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="A folder with train and test files, e2e, webnlg or dart (Hub).")],
    model: Annotated[str, options.MODEL],
    method: Annotated[list[str] | None, options.METHOD] = None,
    rows: Annotated[int | None, options.ROWS] = None,
    part: Annotated[
        str, options.choice("What is judged on, validation to choose settings: ", "test validation")
    ] = "test",
    evaluation_rows: Annotated[int | None, options.EVALUATION_ROWS] = None,
    head_lr: Annotated[float, typer.Option("--full-lr", help="Learning rate of full fine-tuning.")] = 5e-5,
    experts: Annotated[int, options.EXPERTS] = 8,
    rank: Annotated[int, options.count("LoRA's rank (alpha is 8 times it).")] = 4,
    beams: Annotated[int, options.BEAMS] = 10,
    new_tokens: Annotated[int, options.NEW_TOKENS] = 64,
    seed: Annotated[int, options.SEED] = 0,
    out: Annotated[Path, options.OUT] = Path("runs/generation"),
) -> None:
    """Trains a decoder on E2E, WebNLG or DART, decodes, and prints scores; finished methods are not done again.

    Methods: frozen, lora, adamix-lora and full, and adamix-bottleneck where it is named. The recipe begins from 2,000
    steps of 8 pairs at a rate of 0.0002, a label smoothing of 0.1, and a consistency of 100 a target token.
    """
    from adamix_lab.core.errors import Consistency
    from adamix_lab.training.recipe import Recipe

    begun = Recipe(steps=2000, batch_size=8, lr=2e-4, head_lr=head_lr, seed=seed, dev_fraction=0.0, label_smoothing=0.1)
    recipe = replace(begun, consistency=Consistency(100.0), checkpoint_every=500).with_options(**context.obj)
    from adamix_lab.generation.tasks import METHODS, load_generation_task

    for name in method or ():
        one_of("method", name, METHODS)
    loaded = load_generation_task(task, part, rows, seed)
    from adamix_lab.generation.comparison import SHOWN, Settings, compare_generators, thinned
    from adamix_lab.generation.decoding import Decoding

    decoding = Decoding(beams=beams, new_tokens=new_tokens)
    settings = Settings(recipe, decoding, experts, rank, alpha=8.0 * rank)
    compare_generators(thinned(loaded, evaluation_rows), model, settings, out, method or SHOWN)


def generate(
    folder: Annotated[
        Path, options.argument("Experts that train-generator saved: OUT/adamix-lora, say.", options.is_saved)
    ],
    sources: Annotated[list[str], typer.Argument(help='Sources as in training: "name : Aromi | Type : pub".')],
    strategy: Annotated[str, options.DECODED] = "merged",
    beams: Annotated[int, options.BEAMS] = 10,
    new_tokens: Annotated[int, options.NEW_TOKENS] = 64,
) -> None:
    """Writes a text for each source."""
    from adamix_lab.generation.decoding import Decoding, generate_texts
    from adamix_lab.training.shipped import load_saved

    mixture, tokenizer, _ = load_saved(folder)
    for text in generate_texts(mixture, sources, tokenizer, Decoding(beams=beams, new_tokens=new_tokens), strategy):
        print(text)


# -- to and from other libraries, the authors' files, and the Hub ---------------------------------------------------


def export(
    folder: Annotated[Path, options.SAVED],
    format: Annotated[str, options.choice("", "peft adapters transformers onnx peft-experts")] = "peft",
    model: Annotated[str | None, options.MODEL] = None,
    overwrite: Annotated[bool, options.OVERWRITE] = False,
    out: Annotated[Path, options.OUT] = Path("runs/export"),
) -> None:
    """Writes a merged mixture for stock libraries, and compares its logits before it is put in place.

    peft for LoRA and IA3 (peft-experts: each expert), adapters for bottlenecks, transformers for folded weights.
    --model is the base, where the folder does not name it.
    """
    from adamix_lab.interop.export import export as write
    from adamix_lab.interop.hub import load_shared

    mixture, tokenizer, config = load_shared(folder, model)
    print(write(mixture, out, format, tokenizer=tokenizer, notes=config["notes"], overwrite=overwrite))


def import_experts(
    sources: Annotated[
        list[Path], typer.Argument(help="LoRA folders of peft; or a file of the authors' code, or several in parts.")
    ],
    model: Annotated[str, options.MODEL] = "roberta-large",
    labels: Annotated[int, options.LABELS] = 2,
    head: Annotated[str, options.HEAD] = "classification",
    alpha: Annotated[float | None, options.checked("LoRA's; the authors' scripts have 32.", finite)] = None,
    overwrite: Annotated[bool, options.OVERWRITE] = False,
    out: Annotated[Path, options.OUT] = Path("runs/imported"),
) -> None:
    """Saves others' experts as a mixture of this library.

    Of LoRA folders (one rank, the same target modules) each is an expert, its A tied to its B; the authors' files are
    pytorch_model_..._expert_soup.bin.
    """
    adapters = sources[0].is_dir()
    for source in sources:
        read = source / "adapter_config.json" if adapters else source
        require_file(read, "a LoRA folder that peft wrote, or a checkpoint of the authors' code.")
    if (out / CONFIG).exists() and not overwrite:
        raise FileExistsError(f"{out} holds a mixture already: expected another folder (--out), or --overwrite.")
    if adapters and alpha is not None:
        raise LabError(f"alpha = {alpha}: expected none with peft's folders, which hold their own. Leave it out.")
    from adamix_lab.interop.authors import import_authors
    from adamix_lab.interop.peft import import_peft
    from adamix_lab.tasks.backbones import load_backbone
    from adamix_lab.training.report import parameter_report, save

    base = load_backbone(model, num_labels=labels, kind=head, pooling="cls")[0]  # stock libraries' head
    mixture = import_peft(base, sources) if adapters else import_authors(base, sources, alpha)
    save(mixture, out, {"backbone": told(model), "source": ", ".join(path.name for path in sources)})
    size = f"{mixture.space.experts} experts at {len(mixture.sites)} sites"
    print(f"{size}, {mixture.mixture.adaptation}; saved in {out}\n{parameter_report(mixture)}")


def push(
    folder: Annotated[
        Path, options.argument("What `train` or `export` wrote.", lambda _, folder: check_written(folder))
    ],
    name: Annotated[str, options.argument("owner/name on the Hub.", lambda _, name: check_repository(name))],
    private: Annotated[bool, typer.Option("--private", help="Only you may see it.")] = False,
) -> None:
    """Uploads a saved or exported folder, its card included, to the Hub (log in first: `hf auth login`)."""
    from adamix_lab.interop.hub import push_folder

    print(push_folder(folder, name, private or None))
