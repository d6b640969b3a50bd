"""A merged model as an ONNX graph, with free batch and sequence lengths; run by `onnxruntime`."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamix_lab.core.model import MixtureModel

FILE = "model.onnx"


class _Logits(nn.Module):
    """The model with positional inputs and its logits alone, as a graph has them."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def write_onnx(merged: MixtureModel, path: Path, batch: Mapping[str, Tensor]) -> None:
    """Traces the merged model on a batch and writes one file. Raises ImportError where a package is missing."""
    _need("onnx", "onnxscript", "onnxruntime")
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
    _need("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs: dict[str, Any] = {node.name: batch[node.name].cpu().numpy() for node in session.get_inputs()}
    (logits,) = session.run(None, inputs)
    return torch.from_numpy(logits).float()


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs the packages {', '.join(missing)}: run pip install 'adamix-lab[onnx]'.")
