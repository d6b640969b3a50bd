"""A merged LoRA or IA3 as a folder that stock `peft` loads; the files are written without importing it.

`adapter_config.json` and `adapter_model.safetensors`, the adapter's name left out of the keys. Heads travel as
`modules_to_save`. A LoRA on slices of a fused projection (GPT-2's q and v) becomes one LoRA of k times the rank, whose
B has blocks and zero rows between them (REFERENCE 5 G).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.adaptations import IA3, LoRA
from adamix_lab.core.files import write_tensors, write_text
from adamix_lab.core.mixture import MixtureLayer
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.saving import base_name
from adamix_lab.core.sites import kind_of

FILES = CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TASKS = {"classification": "SEQ_CLS", "generation": "CAUSAL_LM", "sequence-to-sequence": "SEQ_2_SEQ_LM"}


def write_peft(mixture: MixtureModel, folder: Path, point: Tensor | None = None, head: bool = True) -> None:
    """Writes both files.

    Args:
        mixture: LoRA or IA3 at every site; merged, or not with `point`.
        folder: where to.
        point: a mixture point `[sites, sides, M]` to take the weights at; None is the merge.
        head: the trained head goes along.
    """
    tensors: dict[str, Tensor] = {}
    shared: dict[str, Any] = {}
    for n, (path, layer) in enumerate(mixture.sites.items()):
        weights = layer.weights(None if point is None else point[n])
        here, settings = lora_site(layer, weights) if isinstance(layer.adaptation, LoRA) else ia3_site(layer, weights)
        tensors |= {f"{PREFIX}{path}.{name}": tensor for name, tensor in here.items()}
        if shared and settings != shared:
            raise ValueError(f"Site {path!r} has {settings}: expected {shared}, one rank and scale for every site.")
        shared = settings
    if head:
        tensors |= {f"{PREFIX}{name}": p for name, p in mixture.head_parameters()}
    # separate memory for each: safetensors refuses tensors that share theirs
    copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    write_tensors(folder / WEIGHTS, copies, {"format": "pt"})
    config = {**_common(mixture, head), **shared}
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def _common(mixture: MixtureModel, head: bool) -> dict[str, Any]:
    sites, adaptation = list(mixture.mixture.sites), mixture.mixture.adaptation
    heads, kind = list(mixture.head_paths) if head else [], kind_of(mixture.model)
    config: dict[str, Any] = {
        "peft_type": adaptation.kind.upper(),
        # "SEQ_CLS" makes peft ask for a head in the file
        "task_type": TASKS.get(kind or "") if heads or kind != "classification" else None,
        "base_model_name_or_path": base_name(str(getattr(mixture.model.config, "_name_or_path", ""))) or None,
        "target_modules": sites,
        "modules_to_save": heads or None,
        "fan_in_fan_out": all(hasattr(layer.base, "nf") for layer in mixture.sites.values()),  # Conv1D
        "inference_mode": True,
    }
    if isinstance(adaptation, IA3):
        config["feedforward_modules"] = sites if adaptation.feedforward else []
    return config


def lora_site(layer: MixtureLayer, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A `[k r, in]` and B `[out, k r]` of one site with k slices, and peft's settings."""
    adaptation = layer.adaptation
    assert isinstance(adaptation, LoRA)
    ranges, rank = adaptation.ranges(layer.out_features), adaptation.rank
    a = torch.cat([weights[f"A{name}"] for name, _, _ in ranges])
    b = torch.zeros(layer.out_features, len(ranges) * rank, dtype=a.dtype, device=a.device)
    for n, (name, start, stop) in enumerate(ranges):
        b[start:stop, n * rank : (n + 1) * rank] = weights[f"B{name}"]
    settings = {
        "r": len(ranges) * rank,
        "lora_alpha": len(ranges) * adaptation.alpha,  # alpha / r stays as it was trained
        "lora_dropout": adaptation.dropout,
        "bias": "none",
        "use_rslora": False,
    }
    return {"lora_A.weight": a, "lora_B.weight": b}, settings


def ia3_site(layer: MixtureLayer, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The vector of one site as peft shapes it: a row `[1, in]` on inputs, a column `[out, 1]` on outputs."""
    scale = weights["scale"]
    feedforward = isinstance(layer.adaptation, IA3) and layer.adaptation.feedforward
    return {"ia3_l": scale[None] if feedforward else scale[:, None]}, {}


def write_experts(mixture: MixtureModel, folder: Path) -> list[Path]:
    """M sibling adapters `expert0`, `expert1`, ...: pairs (A_i, B_i), a shared side in each.

    They hold no head, which `add_weighted_adapter` would refuse; the merged adapter has it.
    """
    space = mixture.space
    folders = [folder / f"expert{n}" for n in range(space.experts)]
    for n, place in enumerate(folders):
        write_peft(mixture, place, space.vertices(space.fixed(n)), head=False)
    return folders


def load_with_peft(base: nn.Module, folder: Path) -> nn.Module:
    """The base with the folder's adapter, by stock `peft`. Raises ImportError where it is not installed."""
    return import_peft_library().PeftModel.from_pretrained(base, str(folder))


def import_peft_library() -> Any:
    """The package `peft`. Raises ImportError: which extra brings it."""
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "This needs the package peft (an export is checked by loading it with the stock library): run "
            "pip install 'adamix-lab[peft]'."
        ) from error
    return peft
