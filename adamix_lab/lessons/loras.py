"""Lesson 08: LoRA experts to export and to combine, small and shipped, so that nobody must train first.

Two kinds: "adamix" shares B and trains with consistency 1 (two routed views); "tied" shares nothing, A_i always goes
with B_i, one view. "tied" stands for what one finds elsewhere: LoRAs that are pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.errors import unknown
from adamix_lab.core.files import read_tensors, write_tensors
from adamix_lab.core.model import MixtureModel, attach, load_trained, trained_tensors
from adamix_lab.core.objective import Consistency
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.tasks import data_root, load_task
from adamix_lab.training.doctor import device_name
from adamix_lab.training.train import train
from adamix_lab.training.twins import BLOCKS, SEEDS
from adamix_lab.training.twins import RECIPE as TWINS_RECIPE

KINDS = {"adamix": ("B", 1.0), "tied": (None, 0.0)}  # what is shared, weight of consistency
EXPERTS = 4
ADAPTATION = LoRA(rank=4, alpha=8.0)
ROWS = 800  # to train on: about 20 seconds of one core a set of experts
RECIPE = replace(TWINS_RECIPE, steps=150, batch_size=16)  # the twins', shorter


def fresh_loras(kind: str, seed: int) -> tuple[MixtureModel, Any]:
    """(untrained mixture, tokenizer): MiniLM with LoRAs on query and value of its last two blocks.

    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("Kind of LoRA experts", kind, KINDS)
    model, tokenizer = load_backbone("minilm", num_labels=2)
    share, _ = KINDS[kind]
    mixture = attach(model, ADAPTATION, EXPERTS, share, blocks=BLOCKS, seed=seed, tied=share is None)
    return mixture, tokenizer


def load_loras(kind: str = "adamix", seed: int = 0, folder: Path | None = None) -> tuple[MixtureModel, Any]:
    """(mixture in evaluation mode, tokenizer) of shipped LoRA experts.

    Raises ValueError for an unknown kind, FileNotFoundError where the experts are not there.
    """
    tensors = read_loras(kind, seed, folder)
    mixture, tokenizer = fresh_loras(kind, seed)
    load_trained(mixture, tensors)
    return mixture.eval(), tokenizer


def read_loras(kind: str, seed: int, folder: Path | None = None) -> dict[str, Tensor]:
    """The shipped tensors by name, float32, without a model: `experts.PATH.A` `[M, r, in]`, ..., `head.PATH`.

    Raises what `load_loras` does.
    """
    if kind not in KINDS:
        raise unknown("Kind of LoRA experts", kind, KINDS)
    path = _place(kind, seed, folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: expected LoRA experts of seeds {', '.join(map(str, SEEDS))}. `adamix-lab "
            "lesson-loras` makes them."
        )
    return {name: tensor.float() for name, tensor in read_tensors(path).items()}


def make_loras(
    folder: Path | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    seeds: Sequence[int] = SEEDS,
    steps: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Trains what is not there yet and writes it as float16: a killed command goes on."""
    task = load_task("aspects", rows=ROWS)
    for seed in seeds:
        for kind in kinds:
            path = _place(kind, seed, folder)
            if path.is_file():
                say(f"{kind}, seed {seed}: already there")
                continue
            start = time.perf_counter()
            mixture, tokenizer = fresh_loras(kind, seed)
            consistency = Consistency(KINDS[kind][1], views="shared_prefix")
            recipe = replace(RECIPE, seed=seed, steps=steps or RECIPE.steps, consistency=consistency)
            train(mixture, task, tokenizer, recipe, progress=False)
            tensors = {name: tensor.half() for name, tensor in trained_tensors(mixture).items()}
            seconds = f"{time.perf_counter() - start:.0f}"
            write_tensors(path, tensors, {"kind": kind, "seed": str(seed), "seconds": seconds, "device": device_name()})
            say(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, {seconds} s")


def _place(kind: str, seed: int, folder: Path | None) -> Path:
    return (folder or data_root() / "lessons" / "loras") / f"{kind}-seed{seed}.safetensors"
