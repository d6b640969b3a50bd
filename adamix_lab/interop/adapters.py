"""A merged bottleneck as a folder that stock `adapters` (AdapterHub) loads; written without importing it.

The library pins a transformers of its own, so it can seldom be installed beside this one: the check reads the files
back here, and `tests/environments/check.py adapters` does it with the stock library (1.3.0).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamix_lab.core.adaptations import ACTIVATIONS, Bottleneck
from adamix_lab.core.errors import LabError
from adamix_lab.core.files import read_tensors, write_atomically, write_tensors, write_text
from adamix_lab.core.sites import ARCHITECTURES, count_answers, model_type
from adamix_lab.models.model import MixtureModel
from adamix_lab.models.saving import base_name

NAME = "adamix"
CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
HEAD_CONFIG, HEAD_WEIGHTS, HEAD_PICKLED = "head_config.json", "model_head.safetensors", "pytorch_model_head.bin"
PARTS = {  # our names: those of `adapters`
    "down": "adapter_down.0.weight", "down_bias": "adapter_down.0.bias",
    "up": "adapter_up.weight", "up_bias": "adapter_up.bias",
}  # fmt: skip
FILES = (CONFIG, WEIGHTS, PICKLED, HEAD_CONFIG, HEAD_WEIGHTS, HEAD_PICKLED)
VERSION = "adapters.1.3.0"  # without it the loader takes gelu for gelu_new; before 1.1.0 it changes scales


def write_adapters(mixture: MixtureModel, folder: Path) -> None:
    """Writes the adapter and, where one was trained, the head: JSON, safetensors, and the `.bin` read by default.

    mixture: merged, a bottleneck at the feed-forward output of whole blocks. Raises ValueError elsewhere.
    """
    tensors: dict[str, Tensor] = {}
    blocks: list[int] = []
    for path, layer in mixture.sites.items():
        place, block = adapter_path(mixture.model, path)
        weights = layer.weights(None)
        blocks.append(block)
        tensors |= {f"{place}.{NAME}.{part}": weights[name] for name, part in PARTS.items()}
    _write_weights(folder, PICKLED, WEIGHTS, tensors)
    write_text(folder / CONFIG, json.dumps(adapter_config(mixture, blocks), indent=2) + "\n")
    prefix = f"{getattr(mixture.model, 'base_model_prefix', '')}."
    if inside := [path for path in mixture.head_paths if path.startswith(prefix)]:
        raise LabError(
            f"adapters has no place for {', '.join(inside)}, which the base's files lack and which trained along: "
            "expected a base that holds it. Export format='onnx', or keep adamix_lab.save's own folder."
        )
    if mixture.head_paths:
        heads: dict[str, Tensor] = dict(mixture.head_parameters())
        _write_weights(folder, HEAD_PICKLED, HEAD_WEIGHTS, heads)
        config = {"config": None, "name": None, "num_labels": count_answers(mixture.model), **_model_fields(mixture)}
        label2id = getattr(mixture.model.config, "label2id", None)
        write_text(folder / HEAD_CONFIG, json.dumps({**config, "label2id": label2id}, indent=2) + "\n")


def adapter_path(model: nn.Module, path: str) -> tuple[str, int]:
    """(where `adapters` holds the adapter of a site, the block's number)."""
    kind = model_type(model)
    known = {name: architecture for name, architecture in ARCHITECTURES.items() if architecture.adapters}
    if kind not in known:
        raise LabError(
            f"adapters: no place is known for a model of type {kind!r}: expected one of {', '.join(sorted(known))}. "
            "Export format='onnx', or keep adamix_lab.save's own folder."
        )
    blocks, ffn = known[kind].blocks, known[kind].ffn
    found = re.fullmatch(rf"(?P<block>(.+\.)?{re.escape(blocks)}\.(?P<n>\d+))\.{re.escape(ffn)}", path)
    if found is None:
        raise LabError(
            f"adapters: site {path!r} is not the feed-forward output of a block: expected paths like "
            f"{blocks}.0.{ffn}. Attach a bottleneck at the default targets."
        )
    return f"{found['block']}.{known[kind].adapters}", int(found["n"])


def adapter_config(mixture: MixtureModel, blocks: list[int]) -> dict[str, Any]:
    """`adapter_config.json` of AdaMix's placement; it is not the stock "seq_bn", whose LayerNorm comes before."""
    adaptation = mixture.mixture.adaptation
    sizes: Any = mixture.model.config
    hidden = int(sizes.hidden_size)
    assert isinstance(adaptation, Bottleneck)
    config = {
        "mh_adapter": False,
        "output_adapter": True,
        "original_ln_before": False,
        "original_ln_after": True,
        "residual_before_ln": True,
        "adapter_residual_before_ln": False,
        "ln_before": False,
        "ln_after": False,
        "is_parallel": False,
        "scaling": 1.0,
        "dropout": 0.0,
        "non_linearity": adaptation.activation,
        # the loader takes int(hidden // factor): hidden / size itself falls short by one for a third of all sizes
        "reduction_factor": hidden / (adaptation.size + 0.5),
        "leave_out": [n for n in range(int(sizes.num_hidden_layers)) if n not in blocks],
    }
    return {"name": NAME, **_model_fields(mixture), "config": config}


def _model_fields(mixture: MixtureModel) -> dict[str, Any]:
    config: Any = mixture.model.config
    return {
        "model_type": config.model_type,
        "model_name": base_name(str(getattr(config, "_name_or_path", ""))),
        "model_class": type(mixture.model).__name__,
        "hidden_size": config.hidden_size,
        "version": VERSION,
    }


def _write_weights(folder: Path, pickled: str, safe: str, tensors: dict[str, Tensor]) -> None:
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_tensors(folder / safe, copies, {"format": "pt"})
    # the stock loader's default, which it reads with weights_only
    write_atomically(folder / pickled, lambda path: torch.save(copies, path))


def load_adapters(base: nn.Module, folder: Path) -> nn.Module:
    """The base with what the files say applied by hooks: from the files alone, not from our layers."""
    said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    tensors, config = read_tensors(folder / WEIGHTS), said["config"]
    size = int(said["hidden_size"] // config["reduction_factor"])
    for path, _ in list(base.named_modules()):
        try:
            place, block = adapter_path(base, path)
        except ValueError:
            continue
        if block in config["leave_out"]:
            continue
        down, bias, up, up_bias = (tensors.pop(f"{place}.{said['name']}.{part}") for part in PARTS.values())
        if down.shape[0] != size:
            raise LabError(f"{place} holds a bottleneck of {down.shape[0]}: expected {size}, as the loader reckons.")
        hook = _bottleneck_hook(config["non_linearity"], down, bias, up, up_bias)
        base.get_submodule(path).register_forward_hook(hook)
    if tensors:
        raise LabError(f"The folder holds weights that no block takes: {sorted(tensors)[:3]}.")
    if (folder / HEAD_CONFIG).is_file():
        base.load_state_dict(read_tensors(folder / HEAD_WEIGHTS), strict=False)
    return base


def _bottleneck_hook(activation: str, down: Tensor, bias: Tensor, up: Tensor, up_bias: Tensor) -> Any:
    def hook(module: nn.Module, inputs: Any, y: Tensor) -> Tensor:
        x = y.to(down)
        return (x + F.linear(ACTIVATIONS[activation](F.linear(x, down, bias)), up, up_bias)).to(y)

    return hook
