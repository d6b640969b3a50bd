"""Checkpoints of a run, from which it goes on bit for bit.

A checkpoint is one safetensors file: tensors (weights, best weights, optimiser, random generators), and as JSON in its
metadata the step, the scores, and what the run is. One file means one rename: a kill at any instant leaves the
last two checkpoints, or the last and the one before it, whole.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adamix_lab.core.files import read_tensors, write_tensors

FORMAT = 1
KEEP = 2
MAY_DIFFER = ("recipe.log_every", "recipe.checkpoint_every")  # these change no weight
_PATTERN = "checkpoint-????????.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a file held: tensors by name, and facts as plain values."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix.`, by the rest of their name."""
        return {name.removeprefix(f"{prefix}."): t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Writes a checkpoint of a step and removes all but the last two. Raises OSError where the disk is full.

    The file appears whole or not at all, and older ones go only when it is there.
    """
    path = folder / f"checkpoint-{step:08d}.safetensors"
    state = json.dumps({**facts, "step": step, "format": FORMAT})
    write_tensors(path, tensors, {"state": state})
    with suppress(OSError, AttributeError):  # the rename itself reaches the disk; Windows opens no folders
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(handle)
        os.close(handle)
    for old in sorted(folder.glob(_PATTERN))[:-KEEP]:
        old.unlink()
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint. Raises ValueError where it is truncated or of another format."""
    from safetensors import safe_open

    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        state = (file.metadata() or {}).get("state", "null")
    facts = json.loads(state)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no checkpoint of format {FORMAT}: expected one written by adamix_lab.train. Train in an empty "
            "folder, or use the version that wrote it."
        )
    return Checkpoint(path, int(facts["step"]), tensors, facts)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a folder, None where there is none.

    A damaged one is passed over with a warning. Raises ValueError where all that are there are damaged.
    """
    paths = sorted(folder.glob(_PATTERN), reverse=True)
    problems = []
    for path in paths:
        try:
            found = read_checkpoint(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]} Going on from the one before it, {path.name}.", stacklevel=2)
        return found
    if problems:
        raise ValueError(
            f"No checkpoint in {folder} is whole, expected one of {len(paths)} at least: {problems[0]} "
            "Remove them to train from the start, or name another folder."
        )
    return None


def clear_temporary(folder: Path) -> None:
    """Removes what a killed write left behind."""
    for leftover in folder.glob(".checkpoint-*"):
        leftover.unlink(missing_ok=True)


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuses to go on with another run. Raises ValueError that names each difference."""
    old, new = _flat(saved), _flat(json.loads(json.dumps(now)))
    differing = [
        f"{name} was {old.get(name, 'absent')!r}, is {new.get(name, 'absent')!r}"
        for name in sorted(old.keys() | new.keys())
        if name not in MAY_DIFFER and old.get(name, "absent") != new.get(name, "absent")
    ]
    if differing:
        raise ValueError(
            f"{path} belongs to another run: {'; '.join(differing[:5])}. Expected the same recipe, model and "
            "data. Set them as they were to go on, or name another folder to start anew."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


# -- optimiser and random generators as tensors ------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state: `<parameter's number>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{n}.{name}": torch.as_tensor(value) for n, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave. The groups come from the recipe, which is the same."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the global generators of torch, Python and numpy."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words),
        "python_gauss": torch.tensor([gauss if gauss is not None else float("nan")], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), position, has_gauss]),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what `generator_states` gave."""
    torch.set_rng_state(states["torch"])
    gauss = float(states["python_gauss"])
    random.setstate((3, tuple(states["python"].tolist()), None if gauss != gauss else gauss))
    *keys, position, has_gauss = states["numpy"].tolist()
    cached = float(states["numpy_gauss"])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
