"""Commands that exchange mixtures with other libraries, with the authors' files, and with the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from adamix_lab.cli import options
from adamix_lab.core.errors import finite
from adamix_lab.core.files import CONFIG, require_file, told


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


def import_authors(
    files: Annotated[list[Path], typer.Argument(help="pytorch_model_..._expert_soup.bin, or several in parts.")],
    model: Annotated[str, options.MODEL] = "roberta-large",
    labels: Annotated[int, options.LABELS] = 2,
    head: Annotated[str, options.HEAD] = "classification",
    alpha: Annotated[float | None, options.checked("LoRA's; the authors' scripts have 32.", finite)] = None,
    overwrite: Annotated[bool, options.OVERWRITE] = False,
    out: Annotated[Path, options.OUT] = Path("runs/authors"),
) -> None:
    """Saves the experts of the authors' checkpoints as a mixture of this library."""
    for file in files:
        require_file(file, "a checkpoint of the authors' code.")
    _check_free(out, overwrite)
    from adamix_lab.interop.authors import import_authors as read

    _import(lambda base: read(base, files, alpha), files, model, labels, head, out)


def import_peft(
    folders: Annotated[list[Path], typer.Argument(help="LoRA folders of peft: one rank, the same target modules.")],
    model: Annotated[str, options.MODEL] = "roberta-large",
    labels: Annotated[int, options.LABELS] = 2,
    head: Annotated[str, options.HEAD] = "classification",
    merged: Annotated[bool, typer.Option("--merged", help="Save the mean of their products, not the experts.")] = False,
    overwrite: Annotated[bool, options.OVERWRITE] = False,
    out: Annotated[Path, options.OUT] = Path("runs/from-peft"),
) -> None:
    """Saves existing LoRA adapters as one mixture: each an expert, its A tied to its B."""
    for folder in folders:
        require_file(folder / "adapter_config.json", "a folder that peft's save_pretrained wrote.")
    _check_free(out, overwrite)
    from adamix_lab.core.merging import merge_products
    from adamix_lab.interop.peft import import_peft as read

    def made(base: Any) -> Any:
        return merge_products(read(base, folders)) if merged else read(base, folders)

    _import(made, folders, model, labels, head, out)


def push(
    folder: Annotated[Path, options.argument("What `train` or `export` wrote.", options.is_written)],
    name: Annotated[str, options.argument("owner/name on the Hub.", options.is_repository)],
    private: Annotated[bool, typer.Option("--private", help="Only you may see it.")] = False,
) -> None:
    """Uploads a saved or exported folder, its card included, to the Hub (log in first: `hf auth login`)."""
    from adamix_lab.interop.hub import push_folder

    print(push_folder(folder, name, private or None))


def _check_free(out: Path, overwrite: bool) -> None:
    if (out / CONFIG).exists() and not overwrite:
        raise FileExistsError(f"{out} holds a mixture already: expected another folder (--out), or --overwrite.")


def _import(made: Callable[[Any], Any], sources: list[Path], model: str, labels: int, head: str, out: Path) -> None:
    """Saves the mixture that is made of a base."""
    from adamix_lab.tasks.backbones import load_backbone
    from adamix_lab.training.report import parameter_report, save

    mixture = made(load_backbone(model, num_labels=labels, kind=head, pooling="cls")[0])  # stock libraries' head
    save(mixture, out, {"backbone": told(model), "source": ", ".join(path.name for path in sources)})
    size = f"{mixture.space.experts} experts at {len(mixture.sites)} sites"
    print(f"{size}, {mixture.mixture.adaptation}; saved in {out}\n{parameter_report(mixture)}")
