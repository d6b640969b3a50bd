"""One call out of the toolkit: written beside the folder, loaded back, compared on logits, only then put in place."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import write_text
from adamix_lab.core.merging import merge
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.saving import describe
from adamix_lab.interop.adapters_out import FILES as ADAPTERS_FILES
from adamix_lab.interop.adapters_out import read_back, write_adapters
from adamix_lab.interop.checked import bare, check_logits, logits_of, narrowest, probe
from adamix_lab.interop.onnx_out import FILE as ONNX_FILE
from adamix_lab.interop.onnx_out import run_onnx, write_onnx
from adamix_lab.interop.peft_out import FILES as PEFT_FILES
from adamix_lab.interop.peft_out import load_with_peft, write_experts, write_peft
from adamix_lab.interop.plain import load_plain, write_plain
from adamix_lab.training.evaluation import evaluating
from adamix_lab.training.model_card import write_card

MANIFEST = "adamix_export.json"
PEFT, ADAPTERS, TRANSFORMERS, ONNX, EXPERTS = FORMATS = ("peft", "adapters", "transformers", "onnx", "peft-experts")

_LOAD = {
    PEFT: "PeftModel.from_pretrained(base, FOLDER)  # stock peft\n",
    ADAPTERS: "adapters.init(base)  # stock adapters\n"
    'base.load_adapter(FOLDER, load_as="adamix", set_active=True, with_head=True)\n',
    TRANSFORMERS: "CLASS.from_pretrained(FOLDER)  # stock transformers\n",
    ONNX: 'onnxruntime.InferenceSession("FOLDER/model.onnx")\n',
    EXPERTS: 'model = PeftModel.from_pretrained(base, "FOLDER/merged", adapter_name="merged")  # stock peft\n'
    'model.load_adapter("FOLDER/expert0", "expert0")\n',
}


@dataclass(frozen=True)
class Export:
    """What was written, and how far it, loaded back, answers from the model.

    difference: the largest difference of logits, as a share of the largest logit.
    """

    folder: Path
    format: str
    difference: float
    read_by: str
    parameters: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.format}, {self.parameters:,} parameters, {self.bytes / 1e6:.2f} MB; read back by "
            f"{self.read_by}, largest difference of logits {self.difference:.2g} of the largest"
        )


def export(
    mixture: MixtureModel,
    folder: str | Path,
    format: str = PEFT,
    batch: Mapping[str, Tensor] | None = None,
    tokenizer: Any = None,
    notes: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Export:
    """Writes what other libraries load, after checking it on logits.

    Args:
        mixture: merged, or not: then its merge is exported (but "peft-experts" writes each expert and the merge).
        folder: new or empty.
        format: "peft" (LoRA, IA3), "adapters" (bottleneck), "transformers" (folded: LoRA, IA3, bias), "onnx" (any),
            "peft-experts" (LoRA: `expert0`, ..., `merged`).
        batch: inputs to check on; None draws token ids.
        tokenizer: saved along.
        notes: for the card, as `save` takes them.
        overwrite: a folder that holds other files may lose those an export writes, and no others.

    Raises:
        ValueError: the format cannot express the adaptation (says which can), or the check failed.
        FileExistsError: the folder is not empty.
        ImportError: a package is missing (says which extra brings it).
    """
    one_of("format", format, FORMATS)
    folder = Path(folder)
    _can_express(mixture, format)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise FileExistsError(
            f"{folder} is not empty: expected a new folder, so that no other adapter is lost. Give another, or "
            "overwrite=True (--overwrite)."
        )
    merged = merge(mixture) if mixture.space.experts > 1 else mixture
    given = probe(mixture.model) if batch is None else dict(batch)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        here = Path(place) / "export"
        here.mkdir()
        difference, read_by = _write_and_check(mixture, merged, here, format, given)
        parameters, size = _sizes(merged), sum((here / name).stat().st_size for name in _files(here))
        done = Export(folder, format, difference, read_by, parameters, size)
        if tokenizer is not None:
            tokenizer.save_pretrained(here)
        shown = mixture if format == EXPERTS else merged
        config = describe(shown, notes)
        record = {**asdict(done), "files": _files(here), "mixture": config}
        del record["folder"]
        write_text(here / MANIFEST, json.dumps(record, indent=2) + "\n")
        load = f"```python\n{_LOAD[format].replace('CLASS', type(mixture.model).__name__)}```\n"
        write_card(here, shown, config, load)
        _put_in_place(here, folder)
    return done


def _can_express(mixture: MixtureModel, format: str) -> None:
    adaptation, kind = mixture.mixture.adaptation, mixture.mixture.adaptation.kind
    can = {
        PEFT: kind in ("lora", "ia3"),
        ADAPTERS: kind == "bottleneck",
        TRANSFORMERS: type(adaptation).fold is not Adaptation.fold,
        ONNX: True,
        EXPERTS: kind == "lora",
    }
    if mixture.mixture.own or not mixture.sites:
        can = {name: name in (TRANSFORMERS, ONNX) for name in can}
    if not can[format]:
        those = [name for name, able in can.items() if able]
        raise ValueError(
            f"{format} cannot express {kind}{' with trained weights of the base' if mixture.mixture.own else ''}: "
            f"expected a format that can: {', '.join(those)} (or adamix_lab.save, the library's own)."
        )
    if mixture.mixture.tied and kind == "lora" and mixture.space.experts > 1 and format != EXPERTS:
        raise ValueError(
            "The experts are tied pairs (A_i with B_i), whose mean of products is no product of means: expected one "
            "LoRA. Call adamix_lab.merge_products(mixture) for the mean of products, or merge(mixture) if you mean it."
        )


def _write_and_check(
    mixture: MixtureModel, merged: MixtureModel, here: Path, format: str, batch: dict[str, Tensor]
) -> tuple[float, str]:
    dtype = narrowest(merged)
    expected = logits_of(merged, batch)
    if format == EXPERTS:
        return _experts(mixture, merged, here, batch, dtype)
    if format == ONNX:
        with torch.no_grad(), evaluating(merged):
            write_onnx(merged, here / ONNX_FILE, batch)
        found = run_onnx(here / ONNX_FILE, batch)
        return check_logits(expected, found, dtype, "The ONNX graph"), "onnxruntime"
    write, read, name = {
        PEFT: (write_peft, load_with_peft, "peft"),
        ADAPTERS: (write_adapters, read_back, "adamix_lab, from the files alone"),
        TRANSFORMERS: (write_plain, load_plain, "transformers"),
    }[format]
    write(merged, here)
    found = logits_of(_on_device(read(bare(mixture), here), batch), batch)
    return check_logits(expected, found, dtype, f"The {format} folder"), name


def _experts(
    mixture: MixtureModel, merged: MixtureModel, here: Path, batch: dict[str, Tensor], dtype: torch.dtype
) -> tuple[float, str]:
    write_peft(merged, here / "merged")
    found = logits_of(load_with_peft(bare(mixture), here / "merged"), batch)
    worst = check_logits(logits_of(merged, batch), found, dtype, "The merged adapter")
    for n, place in enumerate(write_experts(mixture, here)):
        # experts bring no head: they are compared with the mixture's own on the base
        base = bare(mixture)
        for path, module in mixture.head.items():
            base.get_submodule(path).load_state_dict(module.state_dict())
        with mixture.select(mixture.space.fixed(n)):
            expected = logits_of(mixture.model, batch)
        found = logits_of(load_with_peft(base, place), batch)
        worst = max(worst, check_logits(expected, found, dtype, f"Expert {n}"))
    return worst, "peft"


def _on_device(model: nn.Module, batch: Mapping[str, Tensor]) -> nn.Module:
    return model.to(next(iter(batch.values())).device)


def _sizes(merged: MixtureModel) -> int:
    experts = sum(p.numel() for _, p in merged.expert_parameters())
    return experts + sum(p.numel() for _, p in merged.head_parameters())


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _put_in_place(here: Path, folder: Path) -> None:
    """Moves the new files in; what an earlier export wrote besides is removed (a stale head would be loaded)."""
    if not folder.exists():
        here.rename(folder)
        return
    old: set[str] = set()
    if (manifest := folder / MANIFEST).is_file():
        listed = json.loads(manifest.read_text(encoding="utf-8")).get("files", [])
        old = {name for name in listed if isinstance(name, str)} & set(_files(folder))  # never outside the folder
    old |= _WRITTEN & set(_files(folder))
    for name in _files(here):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(here / name, folder / name)
        old.discard(name)
    for name in old:
        (folder / name).unlink()


_WRITTEN = {*PEFT_FILES, *ADAPTERS_FILES, ONNX_FILE, "adapter_model.bin"}
