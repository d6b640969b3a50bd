"""One call out of the toolkit: written beside the folder, loaded back, compared on logits, only then put in place."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import Adaptation
from adamix_lab.core.errors import LabError, one_of
from adamix_lab.core.files import MANIFEST, read_json, sha256_of, write_text
from adamix_lab.core.merging import fold, merge
from adamix_lab.core.mixture import evaluating
from adamix_lab.core.sites import answer_kind, class_names, declare, head_kind, head_pooling, read_contract
from adamix_lab.core.views import logits_of
from adamix_lab.interop import adapters, checking
from adamix_lab.interop.peft import FILES as PEFT_FILES
from adamix_lab.interop.peft import load_with_peft, write_experts, write_peft
from adamix_lab.models.model import MixtureModel
from adamix_lab.models.saving import describe
from adamix_lab.tasks.backbones import quiet_transformers
from adamix_lab.training.report import write_card

ONNX_FILE = "model.onnx"
_WRITTEN = {*PEFT_FILES, *adapters.FILES, ONNX_FILE, "adapter_model.bin"}
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
    served: that of what `transformers.pipeline` answers to a sentence and to a pair; None where it was not asked (no
        tokenizer, or no classifier in the format of peft or transformers).
    """

    folder: Path
    format: str
    difference: float
    read_by: str
    parameters: int
    bytes: int
    served: float | None = None

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.format}, {self.parameters:,} parameters, {self.bytes / 1e6:.2f} MB; read back by "
            f"{self.read_by}, largest difference of logits {self.difference:.2g} of the largest"
            + ("" if self.served is None else f", of transformers.pipeline's answers {self.served:.2g}")
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
    """Writes what other libraries load, after checking it on logits, and as `transformers.pipeline` serves it.

    What is read into a base is checked on one that is read afresh from its files, where they are still there.

    Args:
        mixture: merged, or not: then its merge is exported (but "peft-experts" writes each expert and the merge).
        folder: new or empty.
        format: "peft" (LoRA, IA3), "adapters" (bottleneck), "transformers" (folded: LoRA, IA3, bias), "onnx" (any),
            "peft-experts" (LoRA: `expert0`, ..., `merged`).
        batch: inputs to check on; None draws token ids.
        tokenizer: saved along; with it a classifier is asked through the pipeline, too.
        notes: for the card, as `save` takes them.
        overwrite: a folder that holds other files may lose those an export writes, and no others.

    Raises:
        ValueError: the format cannot express the adaptation (says which can), a check failed, or the base is not what
            its files hold.
        FileExistsError: the folder is not empty.
        ImportError: a package is missing (says which extra brings it).

    >>> export(merge(attach(model, LoRA(4), share="B")), folder, "peft").folder.name == folder.name
    True
    """
    one_of("format", format, FORMATS)
    folder = Path(folder)
    _check_format(mixture, format)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise FileExistsError(
            f"{folder} is not empty: expected a new folder, so that no other adapter is lost. Give another, or "
            "overwrite=True (--overwrite)."
        )
    if mixture.head_paths:  # what was understood is written down: one number is a regression
        declare(mixture.model, answer_kind(mixture.model), class_names(mixture.model))
    merged = merge(mixture) if mixture.space.experts > 1 else mixture
    given = checking.draw_batch(mixture.model) if batch is None else dict(batch)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        here = Path(place) / "export"
        here.mkdir()
        difference, read_by, served = _write_and_check(mixture, merged, here, format, given, tokenizer)
        parameters = sum(p.numel() for _, p in (*merged.expert_parameters(), *merged.head_parameters()))
        size = sum((here / name).stat().st_size for name in _list_files(here))
        done = Export(folder, format, difference, read_by, parameters, size, served)
        if tokenizer is not None:
            tokenizer.save_pretrained(here)
        shown = mixture if format == EXPERTS else merged
        config = describe(shown, notes)
        digests = {name: sha256_of(here / name) for name in _list_files(here)}
        record = {**asdict(done), "files": list(digests), "sha256": digests, "mixture": config}
        del record["folder"]
        write_text(here / MANIFEST, json.dumps(record, indent=2) + "\n")
        load = f"```python\n{_base_line(merged, format)}{_LOAD[format]}```\n"
        load = load.replace("CLASS", type(mixture.model).__name__)
        write_card(here, shown, config, load)
        _move_files(here, folder)
    return done


def _check_format(mixture: MixtureModel, format: str) -> None:
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
    if head_pooling(mixture.model) == "mean" and format != ONNX:
        raise LabError(
            f"{format} is read into a class of transformers, and none has a head on the mean of all tokens: expected "
            "format 'onnx' (or adamix_lab.save, the library's own). For the others train below pooling='cls'."
        )
    if not can[format]:
        those = [name for name, able in can.items() if able]
        raise LabError(
            f"{format} cannot express {kind}{' with trained weights of the base' if mixture.mixture.own else ''}: "
            f"expected a format that can: {', '.join(those)} (or adamix_lab.save, the library's own)."
        )
    if mixture.mixture.tied and kind == "lora" and mixture.space.experts > 1 and format != EXPERTS:
        raise LabError(
            "The experts are tied pairs (A_i with B_i), whose mean of products is no product of means: expected one "
            "LoRA. Call adamix_lab.merge_products(mixture) for the mean of products, or merge(mixture) if you mean it."
        )


def _base_line(merged: MixtureModel, format: str) -> str:
    """How to load the base of a classifier, so that it answers with the same names and in the same way."""
    if format not in (PEFT, EXPERTS) or not merged.head_paths or not hasattr(merged.model, "config"):
        return ""
    contract = {key: value for key, value in read_contract(merged.model).items() if key != "label2id"}
    settings = ", ".join(f"{key}={value!r}" for key, value in contract.items() if value is not None)
    return f"base = CLASS.from_pretrained(BASE, {settings})\n"


def _write_and_check(
    mixture: MixtureModel, merged: MixtureModel, here: Path, format: str, batch: dict[str, Tensor], tokenizer: Any
) -> tuple[float, str, float | None]:
    dtype = checking.lowest_precision(merged)
    if format == EXPERTS:
        return *_check_experts(mixture, merged, here, batch, dtype), None
    if format == ONNX:
        with torch.no_grad(), evaluating(merged):
            write_onnx(merged, here / ONNX_FILE, batch)
        expected, found = checking.compute_logits(merged, batch), run_onnx(here / ONNX_FILE, batch)
        return checking.check_logits(expected, found, dtype, "The ONNX graph"), "onnxruntime", None
    write, read, name = {
        PEFT: (write_peft, load_with_peft, "peft"),
        ADAPTERS: (adapters.write_adapters, adapters.load_adapters, "adamix_lab, from the files alone"),
        TRANSFORMERS: (write_plain, load_plain, "transformers"),
    }[format]
    write(merged, here)
    base = checking.copy_base(mixture) if format == TRANSFORMERS else checking.fresh_base(mixture)
    loaded = read(base, here).to(next(iter(batch.values())).device)
    difference = checking.compare(merged, loaded, batch, dtype, f"The {format} folder")
    if tokenizer is None or format == ADAPTERS or head_kind(merged.model) != "classification":
        return difference, name, None
    return difference, name, checking.check_served(merged, here if format == TRANSFORMERS else loaded, tokenizer, dtype)


def _check_experts(
    mixture: MixtureModel, merged: MixtureModel, here: Path, batch: dict[str, Tensor], dtype: torch.dtype
) -> tuple[float, str]:
    write_peft(merged, here / "merged")
    loaded = load_with_peft(checking.fresh_base(mixture), here / "merged")
    worst = checking.compare(merged, loaded, batch, dtype, "The merged adapter")
    for n, place in enumerate(write_experts(mixture, here)):
        # experts bring no head: they are compared with the mixture's own on the base
        base = checking.copy_base(mixture)
        for path, module in mixture.head.items():
            base.get_submodule(path).load_state_dict(module.state_dict())
        loaded = load_with_peft(base, place)
        with mixture.select(mixture.space.fixed(n)):
            worst = max(worst, checking.compare(mixture.model, loaded, batch, dtype, f"Expert {n}"))
    return worst, "peft"


def _list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _move_files(here: Path, folder: Path) -> None:
    """Moves the new files in; what an earlier export wrote besides is removed (a stale head would be loaded)."""
    if not folder.exists():
        here.rename(folder)
        return
    new, there, old = _list_files(here), _list_files(folder), set(_WRITTEN)
    if (manifest := folder / MANIFEST).is_file():
        record = read_json(manifest, "what an export wrote. Give another folder, or remove that file.")
        listed = record.get("files") if isinstance(record, dict) else None
        old |= {name for name in (listed if isinstance(listed, list) else []) if isinstance(name, str)}
    for name in new:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(here / name, folder / name)
    for name in old.intersection(there).difference(new):  # never outside the folder
        (folder / name).unlink()


# -- A merged LoRA, IA3 or bias folded into the base: a plain transformers folder, nothing of ours left in it --


def write_plain(mixture: MixtureModel, folder: Path) -> None:
    """Folds and saves by transformers' own `save_pretrained`. Raises ValueError where the adaptation is not linear."""
    plain = fold(mixture)
    for path, layer in mixture.sites.items():
        if layer.bias is None and getattr(plain.get_submodule(path), "bias", None) is not None:
            raise LabError(
                f"transformers cannot express a bias at {path!r}: expected a layer that {type(plain).__name__} builds "
                "with one; it would be dropped on loading. Export format='onnx', or keep adamix_lab.save's own folder."
            )
    with quiet_transformers():
        plain.save_pretrained(folder)  # type: ignore[operator]


def load_plain(base: nn.Module, folder: Path) -> nn.Module:
    """The folder's model, of the base's class, by transformers alone."""
    with quiet_transformers():
        return type(base).from_pretrained(folder, dtype=next(base.parameters()).dtype).eval()  # type: ignore[attr-defined,no-any-return]


# -- A merged model as an ONNX graph, with free batch and sequence lengths; run by `onnxruntime` --


class _Logits(nn.Module):
    """The model with positional inputs and its logits alone, as a graph has them."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return logits_of(self.model(**dict(zip(self.names, inputs, strict=True))))


def write_onnx(merged: MixtureModel, path: Path, batch: Mapping[str, Tensor]) -> None:
    """Traces the merged model on a batch and writes one file. Raises ImportError where a package is missing."""
    _require_packages("onnx", "onnxscript", "onnxruntime")
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    inputs = {name: torch.cat([value, value]) if len(value) == 1 else value for name, value in inputs.items()}
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens")
    shapes = {
        name: {0: rows, 1: tokens} if value.dim() == 2 and value.shape[1] > 1 else {0: rows}
        for name, value in inputs.items()
    }
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Logits(merged.model, list(inputs)).eval(),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_shapes=(tuple(shapes.values()),),
                dynamo=True,
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    program.save(str(path), external_data=False)


def run_onnx(path: Path, batch: Mapping[str, Tensor]) -> Tensor:
    """The graph's logits on a batch, by onnxruntime on the CPU."""
    _require_packages("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs: dict[str, Any] = {node.name: batch[node.name].cpu().numpy() for node in session.get_inputs()}
    (logits,) = session.run(None, inputs)
    return torch.from_numpy(logits).float()


def _require_packages(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs the packages {', '.join(missing)}: run pip install 'adamix-lab[onnx]'.")
