"""What the benchmarks share: options with a quick form, interleaved rounds and their medians, one JSON object last."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
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
from adamix_lab.training.train import keep_freed_memory

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "data" / "results" / "costs"
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def parse(doc: str | None, quick: Mapping[str, Any] | None = None, **defaults: Any) -> argparse.Namespace:
    """Options by their defaults: a type stands for None of that type, a list for many; `names` is positional.

    quick: defaults in the quick form; what is given beside --quick counts all the same.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="file for the JSON object")
    for name, default in defaults.items():
        kind: dict[str, Any] = {"type": type(default), "default": default}
        if default is False:
            kind = {"action": "store_true"}
        elif isinstance(default, type):
            kind = {"type": default}
        elif isinstance(default, list):
            kind = {"nargs": "*", "type": type(default[0]) if default else str, "default": default}
        parser.add_argument(name if name == "names" else f"--{name.replace('_', '-')}", **kind)
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick or {})
    return parser.parse_args()


def report(result: Mapping[str, Any], out: Path | None = None) -> None:
    """Prints the result with the versions as the last line, and writes it to a file where one is asked for."""
    result = {"versions": versions(), **result}
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def tell(case: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A case's values, printed as soon as they are there."""
    print(case, json.dumps(values), flush=True)
    return values


def report_cases(
    found: Mapping[str, Mapping[str, Any]], names: Iterable[str], out: Path | None, **settings: Any
) -> None:
    """Reports the settings, `{name: {case: value}}` of the named values, and under "all" every case's."""
    shown = {name: {case: values[name] for case, values in found.items()} for name in names}
    report({**settings, **shown, "all": found}, out)


def largest_difference(found: Mapping[str, Mapping[str, Any]]) -> float:
    """Over all cases."""
    return max(values["max_abs_difference"] for values in found.values())


def load_average() -> float | None:
    """What else the machine does; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


# -- time -------------------------------------------------------------------------------------------------


def device(keep: bool = True) -> torch.device:
    """The GPU where there is one; keep: on a CPU freed memory is kept, as `train` does: all ways profit alike."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if keep:
        keep_freed_memory()
    return torch.device("cpu")


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds of a call, what it gave)."""
    start = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


def cpu_seconds(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """((seconds, seconds of this process on CPUs) of a call, what it gave)."""
    start = time.process_time()
    taken, found = seconds(work)
    return (taken, time.process_time() - start), found


def interleave(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    warm: int = 1,
    clock: Callable[[Callable[[], Any]], tuple[Any, Any]] = seconds,
    say: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(medians over rounds of every way's clock, what each gave last); in each round every way has its turn.

    clock: (seconds, or several numbers; what the way gave). warm: rounds before those that count.
    """
    times: dict[str, list[Any]] = {name: [] for name in ways}
    found = {}
    for n in range(-warm, rounds):
        for name, work in ways.items():
            taken, found[name] = clock(work)
            times[name] += [taken] if n >= 0 else []
        if say and n >= 0:
            print(f"round {n + 1}:", *(f"{name} {np.ravel(t[-1])[0]:.2f} s" for name, t in times.items()), flush=True)
    return {name: np.median(values, axis=0).tolist() for name, values in times.items()}, found


# -- models and rows --------------------------------------------------------------------------------------


def minilm_mixture(
    device: torch.device, experts: int = 4, blocks: range | None = None, apart: float = 0.0
) -> MixtureModel:
    """MiniLM with bottleneck adapters of 16, shared up, in evaluation mode; experts moved `apart` at random."""
    model, _ = load_backbone("minilm", num_labels=2, pooling="cls")
    mixture = attach(model.to(device).eval(), Bottleneck(16), experts=experts, share="up", blocks=blocks).eval()
    generator = generator_for(1)
    with torch.no_grad():
        for _, parameter in mixture.expert_parameters():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * apart).to(device))
    return mixture


@torch.no_grad()
def passes(mixture: MixtureModel, batch: dict[str, Tensor], routes: Tensor, trim: bool = False) -> Tensor:
    """Logits of a pass a route `[rows, routes, C]`; trim: the last block cut to the position that the head reads."""
    with cut_last_block(mixture.model, batch) if trim else nullcontext():
        return torch.stack([mixture(selection=route, **batch).logits for route in routes], 1)


def batch_of(rows: int, length: int, device: torch.device, padding: int = 0) -> dict[str, Tensor]:
    """Random tokens; the second half of the rows ends in so much padding."""
    ids = torch.randint(1000, 20000, (rows, length), generator=generator_for(0))
    mask = torch.ones_like(ids)
    mask[rows // 2 :, length - padding :] = 0
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
