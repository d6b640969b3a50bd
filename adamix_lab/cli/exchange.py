"""Commands that exchange mixtures with other libraries, with the authors' files, and with the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adamix_lab.cli import options
from adamix_lab.core.errors import check_repository, finite
from adamix_lab.core.files import CONFIG, check_written, require_file, told


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
