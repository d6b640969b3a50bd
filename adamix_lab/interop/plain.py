"""A merged LoRA, IA3 or bias folded into the base: a plain transformers folder, nothing of ours left in it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from adamix_lab.core.merging import fold
from adamix_lab.core.model import MixtureModel
from adamix_lab.tasks.backbones import quiet_transformers


def write_plain(mixture: MixtureModel, folder: Path) -> None:
    """Folds and saves by transformers' own `save_pretrained`. Raises ValueError where the adaptation is not linear."""
    plain = fold(mixture)
    for path, layer in mixture.sites.items():
        if layer.bias is None and getattr(plain.get_submodule(path), "bias", None) is not None:
            raise ValueError(
                f"transformers cannot express a bias at {path!r}: expected a layer that {type(plain).__name__} builds "
                "with one; it would be dropped on loading. Export format='onnx', or keep adamix_lab.save's own folder."
            )
    with quiet_transformers():
        plain.save_pretrained(folder)  # type: ignore[operator]


def load_plain(base: nn.Module, folder: Path) -> nn.Module:
    """The folder's model, of the base's class, by transformers alone."""
    with quiet_transformers():
        return type(base).from_pretrained(folder, dtype=next(base.parameters()).dtype).eval()  # type: ignore[attr-defined,no-any-return]
