"""What the benchmarks share: work in turns and its medians, MiniLM with AdaMix, one JSON object as the last line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.models.model import MixtureModel, attach
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.training.doctor import versions

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def report(result: Mapping[str, Any], out: Path | None = None) -> None:
    """Prints the result with the versions as the last line, and writes it to a file where one is asked for."""
    result = {"versions": versions(), **result}
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def load_average() -> float | None:
    """What else the machine does; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def interleave(
    ways: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 1
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(median `[seconds, seconds of CPUs]` of every way, what each gave last); in each round every way has its turn.

    warm: rounds before those that count.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    found = {}
    for _ in range(warm + rounds):
        for name, work in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            found[name] = work()
            times[name].append([time.perf_counter() - start, time.process_time() - cpu])
    return {name: np.median(taken[warm:], axis=0) for name, taken in times.items()}, found


def minilm_mixture(experts: int = 4, blocks: range | None = None, apart: float = 0.0) -> MixtureModel:
    """MiniLM with bottleneck adapters of 16, shared up, in evaluation mode; experts moved `apart` at random."""
    model, _ = load_backbone("minilm", num_labels=2, pooling="cls")
    mixture = attach(model.eval(), Bottleneck(16), experts=experts, share="up", blocks=blocks).eval()
    generator = generator_for(1)
    with torch.no_grad():
        for _, parameter in mixture.expert_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * apart)
    return mixture


@torch.no_grad()
def passes(mixture: MixtureModel, batch: dict[str, Tensor], routes: Tensor, trim: bool = False) -> Tensor:
    """Logits of a pass a route `[rows, routes, C]`; trim: the last block cut to the position that the head reads."""
    with cut_last_block(mixture.model, batch) if trim else nullcontext():
        return torch.stack([mixture(selection=route, **batch).logits for route in routes], 1)


def batch_of(rows: int, length: int, padding: int = 0) -> dict[str, Tensor]:
    """Random tokens and labels; the second half of the rows ends in so much padding."""
    ids = torch.randint(1000, 20000, (rows, length), generator=generator_for(0))
    mask = torch.ones_like(ids)
    mask[rows // 2 :, length - padding :] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % 2}
