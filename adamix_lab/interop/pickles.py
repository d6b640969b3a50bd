"""Foreign `.bin` files: tensors and nothing else. No code in them is run, no size in them is believed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def read_pickle(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name of a file that `torch.save` wrote (a state dict, or one under "model_state_dict").

    Raises FileNotFoundError, and ValueError for what is no state dict, would run code, or claims more than the file
    holds: sizes are looked at on the meta device, before any memory is taken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: expected a checkpoint that torch.save wrote.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not in PyTorch's zip format: expected a checkpoint of torch 1.6 or newer. If you trust it, "
            "load it with the torch that wrote it and save it again."
        )
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > size:
        raise ValueError(f"{path} has {size:,} bytes and would unpack to {unpacked:,}: torch.save does not compress.")
    claimed = _load(path, "meta")
    total = sum(tensor.numel() * tensor.element_size() for tensor in claimed.values())
    if total > 2 * size:  # tied tensors may count twice
        raise ValueError(
            f"{path} has {size:,} bytes and claims tensors of {total:,}: it was not written by torch.save."
        )
    return _load(path, "cpu")


def _load(path: Path, device: str) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors ({str(error).splitlines()[0]}): expected a state dict. Loading it would "
            "run code of whoever wrote it, so nothing was loaded."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} could not be read ({str(error).splitlines()[0]}): expected a whole file that torch.save wrote. "
            "Copy it again."
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("model_state_dict"), Mapping):
        found = found["model_state_dict"]
    wrong = next((key for key, value in found.items() if not isinstance(value, Tensor)), None) if _named(found) else 0
    if wrong is not None:
        raise ValueError(f"{path} holds no state dict: expected names and tensors, nothing else.")
    return {str(key): value for key, value in found.items()}


def _named(found: object) -> bool:
    return isinstance(found, Mapping) and bool(found) and all(isinstance(key, str) for key in found)
