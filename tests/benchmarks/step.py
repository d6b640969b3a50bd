"""What a training step and an inference pass cost, as ratios measured side by side.

    python tests/benchmarks/step.py            lengths 32, 64, 128; float32 and bfloat16
    python tests/benchmarks/step.py --quick    length 32, float32, under a minute

AdaMix is a bottleneck adapter of 16 in every block of MiniLM (M = 4, shared up-projection), two views a step, one
shared prefix. It stands beside peft's LoRA (r = 8 on query and value), the same LoRA with its last block cut to the
position that the head reads, and full fine-tuning. Rounds are interleaved; ratios are of medians; the last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import torch
from torch import nn

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.merging import fold, merge
from adamix_lab.core.model import attach
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.fast.views import WAYS
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.training.doctor import versions
from adamix_lab.training.optim import keep_freed_memory

BATCH = 32
Step = Callable[[], None]


def batch_of(length: int, device: torch.device) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (BATCH, length), generator=generator)
    labels = torch.randint(0, 2, (BATCH,), generator=generator)
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device), "labels": labels.to(device)}


def minilm(dtype: torch.dtype, device: torch.device) -> nn.Module:
    return load_backbone("minilm", num_labels=2, dtype=dtype)[0].to(device)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, foreach=True)


def two_view(
    dtype: torch.dtype, device: torch.device, batch: dict[str, torch.Tensor], views: str = "shared_prefix"
) -> Step:
    mixture = attach(minilm(dtype, device), Bottleneck(16), experts=4, share="up").train()
    objective = Objective(mixture, Consistency(1.0, views=views), ways=WAYS)  # type: ignore[arg-type]
    optimizer, router, steps = optimizer_of(mixture), Router(mixture.space), iter(range(10**9))

    def step() -> None:
        objective(batch, router.views(next(steps))).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft_lora(dtype: torch.dtype, device: torch.device, batch: dict[str, torch.Tensor], cut: bool = False) -> Step:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    model = get_peft_model(minilm(dtype, device), config).train()
    return one_view(model, batch, model.base_model.model if cut else None)


def full(dtype: torch.dtype, device: torch.device, batch: dict[str, torch.Tensor]) -> Step:
    return one_view(minilm(dtype, device).train().requires_grad_(True), batch, None)


def one_view(model: nn.Module, batch: dict[str, torch.Tensor], cut: nn.Module | None) -> Step:
    optimizer = optimizer_of(model)

    def step() -> None:
        if cut is None:
            model(**batch).loss.backward()
        else:
            with cut_last_block(cut):
                model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


TRAINING: dict[str, Callable[..., Step]] = {
    "two_view": two_view,
    "two_view_independent": lambda *args: two_view(*args, views="independent"),
    "lora": peft_lora,
    "trimmed_lora": lambda *args: peft_lora(*args, cut=True),
    "full": full,
}


def inference(dtype: torch.dtype, device: torch.device, batch: dict[str, torch.Tensor]) -> dict[str, Step]:
    """Plain passes: the bare model, the merged bottleneck, and a folded LoRA."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    merged = merge(attach(minilm(dtype, device), Bottleneck(16), experts=4, share="up"), dtype=dtype).eval()
    folded = fold(attach(minilm(dtype, device), LoRA(8), experts=4, share="B")).eval()
    models = {"bare": minilm(dtype, device).eval(), "merged": merged, "folded": folded}

    def run(model: nn.Module) -> Step:
        def step() -> None:
            with torch.inference_mode():
                model(**inputs)

        return step

    return {name: run(model) for name, model in models.items()}


def medians(steps: dict[str, Step], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each step over interleaved rounds, after two for warming up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def peak_megabytes(name: str, length: int, dtype: str) -> float:
    """Peak memory that three steps add to the loaded model, in a process of its own."""
    command = [sys.executable, __file__, "--memory", name, "--lengths", str(length), "--dtypes", dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory(name: str, length: int, dtype: torch.dtype, device: torch.device) -> None:
    step = TRAINING[name](dtype, device, batch_of(length, device))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(3):
            step()
        print((torch.cuda.max_memory_allocated() - before) / 1e6)
        return
    give_back_free_memory()
    process, seen, done = psutil.Process(), [], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(3):
        step()
    done.set()
    watcher.join()
    print((max(seen) - before) / 1e6)


def give_back_free_memory() -> None:
    """Lets the C library return what loading used, so that the peak is the steps' own (glibc only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", choices=list(TRAINING), help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.memory:
        print_memory(options.memory, options.lengths[0], getattr(torch, options.dtypes[0]), device)
        return
    lengths, dtypes, rounds = (
        ([32], ["float32"], 7) if options.quick else (options.lengths, options.dtypes, options.rounds)
    )
    kept = device.type == "cpu" and keep_freed_memory()  # as `train` does; all steps here profit alike
    result: dict[str, object] = {"versions": versions(), "batch": BATCH, "rounds": rounds, "freed_memory_kept": kept}
    ratios: dict[str, dict[str, float]] = {}
    for dtype in dtypes:
        for length in lengths:
            key = f"{dtype}-{length}"
            ratios[key] = measure(length, dtype, rounds, device, memory=not options.quick)
            print(key, json.dumps(ratios[key]), flush=True)
    for name in (
        "two_view_over_lora",
        "two_view_over_trimmed_lora",
        "two_view_over_full",
        "merged_over_bare",
        "folded_over_bare",
    ):
        result[name] = {key: values[name] for key, values in ratios.items()}
    result["all"] = ratios
    print(json.dumps(result))


def measure(length: int, dtype: str, rounds: int, device: torch.device, memory: bool) -> dict[str, float]:
    """The ratios, and the medians in milliseconds, of one length and dtype."""
    batch = batch_of(length, device)
    kind = getattr(torch, dtype)
    train = medians({name: make(kind, device, batch) for name, make in TRAINING.items()}, rounds, device)
    passes = medians(inference(kind, device, batch), 3 * rounds, device)
    out = {f"two_view_over_{other}": train["two_view"] / train[other] for other in ("lora", "trimmed_lora", "full")}
    out["independent_over_lora"] = train["two_view_independent"] / train["lora"]
    out |= {f"{name}_over_bare": passes[name] / passes["bare"] for name in ("merged", "folded")}
    out |= {f"{name}_ms": 1000 * seconds for name, seconds in {**train, **passes}.items()}
    if memory:
        for name in ("two_view", "lora", "full"):
            out[f"{name}_peak_mb"] = peak_megabytes(name, length, dtype)
    return {name: round(value, 3) for name, value in out.items()}


if __name__ == "__main__":
    main()
