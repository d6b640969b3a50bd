"""An ensemble of K = 16 routes in batched passes, against K passes one by one.

    python tests/benchmarks/ensemble.py            1, 8 and 32 rows of 32 and of 128 tokens
    python tests/benchmarks/ensemble.py --quick    8 rows of 32 tokens, under half a minute

MiniLM with bottleneck adapters of 16 (M = 4, shared up-projection) in every block, and in the top two. Batched: all
K routes in one call that shares what lies below the first site and cuts the last block to the position that the head
reads ("shared_prefix"). One by one: as it comes (`serial_over_batched`), and with the last block cut as well
(`trimmed_serial_over_batched`), so that the ratio is of batching and sharing alone. Rounds are interleaved; ratios are
of medians; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.model import MixtureModel, attach
from adamix_lab.core.routing import generator_for
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.fast.views import routed_logits
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.training.doctor import versions
from adamix_lab.training.optim import keep_freed_memory

ROUTES = 16


def mixture_of(blocks: range | None, device: torch.device) -> MixtureModel:
    model, _ = load_backbone("minilm", num_labels=2)
    return attach(model.to(device).eval(), Bottleneck(16), experts=4, share="up", blocks=blocks)


def batch_of(rows: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 20000, (rows, length), generator=generator_for(0))
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


@torch.no_grad()
def measure(mixture: MixtureModel, rows: int, length: int, rounds: int, device: torch.device) -> dict[str, float]:
    batch, routes = batch_of(rows, length, device), mixture.space.draw(generator_for(1), (ROUTES,))

    def serial() -> torch.Tensor:
        return torch.stack([mixture(selection=route, **batch).logits for route in routes])

    def trimmed() -> torch.Tensor:
        with cut_last_block(mixture.model):
            return serial()

    def batched() -> torch.Tensor:
        return routed_logits(mixture, batch, routes, "shared_prefix")

    ways: dict[str, Callable[[], torch.Tensor]] = {"serial": serial, "trimmed": trimmed, "batched": batched}
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, torch.Tensor] = {}
    for round_ in range(rounds + 1):  # the first warms up
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_:
                times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "serial_over_batched": round(median["serial"] / median["batched"], 2),
        "trimmed_serial_over_batched": round(median["trimmed"] / median["batched"], 2),
        "max_abs_difference": float((found["serial"] - found["batched"]).abs().max()),
        "batched_ms": round(1000 * median["batched"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    sizes = [(8, 32)] if options.quick else [(rows, length) for length in (32, 128) for rows in (1, 8, 32)]
    rounds = 3 if options.quick else options.rounds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    found: dict[str, dict[str, float]] = {}
    for name, blocks in (("all-blocks", None), ("top-two", range(-2, 0))):
        mixture = mixture_of(blocks, device)
        for rows, length in sizes:
            key = f"{name}-rows{rows}-length{length}"
            found[key] = measure(mixture, rows, length, rounds, device)
            print(key, json.dumps(found[key]), flush=True)
    result: dict[str, object] = {"versions": versions(), "routes": ROUTES, "rounds": rounds}
    for name in ("serial_over_batched", "trimmed_serial_over_batched"):
        result[name] = {key: values[name] for key, values in found.items()}
    result["max_abs_difference"] = max(values["max_abs_difference"] for values in found.values())
    print(json.dumps(result | {"all": found}))


if __name__ == "__main__":
    main()
