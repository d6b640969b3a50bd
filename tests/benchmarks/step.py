"""What a training step and an inference pass cost, as ratios measured side by side.

    python tests/benchmarks/step.py            lengths 32, 64, 128; float32 and bfloat16
    python tests/benchmarks/step.py --quick    length 32, float32, under a minute

AdaMix is a bottleneck adapter of 16 in every block of MiniLM (M = 4, shared up-projection), two views a step, one
shared prefix. It stands beside peft's LoRA (r = 8 on query and value), the same LoRA with its last block cut to the
position that the head reads, and full fine-tuning.

`top_two` are steps as `train` takes them, adapters in the top two blocks above a cached prefix, 16 and 32 rows of 32
tokens: the last attention absorbs keys and values, over the same with both made (CPU time). `share_of_...` is of the
absorbed step's operations; `difference_of_logits` and `..._gradients` are relative to the largest. Rounds are
interleaved; ratios are of medians; the last line is one JSON object.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from unittest.mock import patch

import psutil
import torch
from common import batch_of, cpu_seconds, device, interleave, minilm_mixture, parse, report, tell
from torch import nn
from torch.profiler import profile

from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.merging import fold, merge, relative_difference
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router, generator_for
from adamix_lab.fast import blocks
from adamix_lab.fast.blocks import WAYS, cut_last_block
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.models.model import attach
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import ZEROS, collate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import cache_examples, start_accelerator, train_examples

BATCH = 32
SHOWN = (
    "two_view_over_lora", "two_view_over_trimmed_lora", "two_view_over_full", "merged_over_bare", "folded_over_bare",
)  # fmt: skip
PARTS = {
    "products": ("mm", "addmm", "bmm", "baddbmm"),
    "dropout_masks": ("bernoulli_",),
    "norms": ("native_layer_norm", "native_layer_norm_backward"),
    "copies": ("copy_", "fill_"),
    "additions": ("add", "add_", "mul", "mul_", "sum"),
}
Step = Callable[[], None]


def labelled(length: int, where: torch.device) -> dict[str, torch.Tensor]:
    labels = torch.randint(0, 2, (BATCH,), generator=generator_for(1))
    return {**batch_of(BATCH, length, where), "labels": labels.to(where)}


def minilm(kind: torch.dtype, where: torch.device) -> nn.Module:
    return load_backbone("minilm", num_labels=2, dtype=kind, pooling="cls")[0].to(where)


def two_view(kind: torch.dtype, where: torch.device, batch: dict[str, torch.Tensor], views: str) -> Step:
    mixture = attach(minilm(kind, where), Bottleneck(16), experts=4, share="up").train()
    objective = Objective(mixture, Consistency(1.0, views=views), ways=WAYS)
    router, steps = Router(mixture.space), itertools.count()
    return step_of(mixture, lambda: objective(batch, router.views(next(steps))).total)


def peft_lora(kind: torch.dtype, where: torch.device, batch: dict[str, torch.Tensor], cut: bool) -> Step:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    model = get_peft_model(minilm(kind, where), config).train()

    def loss() -> torch.Tensor:
        with cut_last_block(model.base_model.model, batch) if cut else contextlib.nullcontext():
            return model(**batch).loss

    return step_of(model, loss)


def full(kind: torch.dtype, where: torch.device, batch: dict[str, torch.Tensor]) -> Step:
    model = minilm(kind, where).train().requires_grad_(True)
    return step_of(model, lambda: model(**batch).loss)


def step_of(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, foreach=True)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


TRAINING: dict[str, Callable[..., Step]] = {
    "two_view": lambda *args: two_view(*args, views="shared_prefix"),
    "two_view_independent": lambda *args: two_view(*args, views="independent"),
    "lora": lambda *args: peft_lora(*args, cut=False),
    "trimmed_lora": lambda *args: peft_lora(*args, cut=True),
    "full": full,
}


def inference(kind: torch.dtype, where: torch.device, batch: dict[str, torch.Tensor]) -> dict[str, Step]:
    """Plain passes: the bare model, the merged bottleneck, and a folded LoRA."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    merged = merge(attach(minilm(kind, where), Bottleneck(16), experts=4, share="up"), dtype=kind).eval()
    folded = fold(attach(minilm(kind, where), LoRA(8), experts=4, share="B")).eval()

    def run(model: nn.Module) -> Step:
        return torch.inference_mode()(lambda: model(**inputs))

    return {"bare": run(minilm(kind, where).eval()), "merged": run(merged), "folded": run(folded)}


def peak_megabytes(name: str, length: int, dtype: str) -> float:
    """Peak memory that three steps add to the loaded model, in a process of its own."""
    command = [sys.executable, __file__, "--memory", name, "--lengths", str(length), "--dtypes", dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory(name: str, length: int, kind: torch.dtype) -> None:
    where = device(keep=False)
    step = TRAINING[name](kind, where, labelled(length, where))
    if where.type == "cuda":
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


def measure(length: int, dtype: str, rounds: int, where: torch.device, memory: bool) -> dict[str, float]:
    """The ratios, and the medians in milliseconds, of one length and dtype."""
    batch, kind = labelled(length, where), getattr(torch, dtype)
    train, _ = interleave({name: make(kind, where, batch) for name, make in TRAINING.items()}, rounds, warm=2)
    passes, _ = interleave(inference(kind, where, batch), 3 * rounds, warm=2)
    out = {f"two_view_over_{other}": train["two_view"] / train[other] for other in ("lora", "trimmed_lora", "full")}
    out["independent_over_lora"] = train["two_view_independent"] / train["lora"]
    out |= {f"{name}_over_bare": passes[name] / passes["bare"] for name in ("merged", "folded")}
    out |= {f"{name}_ms": 1000 * taken for name, taken in {**train, **passes}.items()}
    if memory:
        out |= {f"{name}_peak_mb": peak_megabytes(name, length, dtype) for name in ("two_view", "lora", "full")}
    return {name: round(value, 3) for name, value in out.items()}


def absorbing(rows: int, rounds: int, where: torch.device) -> dict[str, float]:
    """Steps of `train` above a cached prefix, keys and values absorbed, over the same with both made; parts' shares."""
    top, cache = cached_prefix(minilm_mixture(where, blocks=range(-2, 0), apart=0.1))
    steps = 6
    recipe = Recipe(steps=steps, batch_size=rows, consistency=Consistency(views="shared_prefix"))
    accelerator, tokens = start_accelerator(recipe), batch_of(8 * rows, 32, torch.device("cpu"), padding=4)
    tokens["labels"] = torch.arange(8 * rows) % 2
    plain = [{name: value[n] for name, value in tokens.items()} for n in range(8 * rows)]
    examples = cache_examples(plain, cache, where, ZEROS)
    routes, made = Router(top.space).views(0), patch.object(blocks, "may_absorb", lambda *args: False)

    def train() -> None:
        train_examples(top, examples, recipe, accelerator, progress=False)

    def found() -> dict[str, torch.Tensor]:  # from one state of the generators, dropout on
        torch.manual_seed(0)
        out = Objective(top, recipe.consistency, ways=WAYS).train()(collate(examples[:rows], ZEROS), routes)
        gradients = torch.autograd.grad(out.total, [p for p in top.parameters() if p.requires_grad])
        return {"logits": out.logits, "gradients": torch.cat([gradient.flatten() for gradient in gradients])}

    first = found()
    with made:
        same = {f"difference_of_{name}": relative_difference(first[name], value) for name, value in found().items()}
    median, _ = interleave({"absorbed": train, "made": made(train)}, rounds, clock=cpu_seconds)
    with profile() as profiled:
        train()
    taken = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profiled.key_averages()}
    shares = {name: sum(taken.get(one, 0.0) for one in part) / sum(taken.values()) for name, part in PARTS.items()}
    out = {"absorbed_over_made": median["absorbed"][1] / median["made"][1]}
    out |= {f"{name}_ms": 1000 * taken[1] / steps for name, taken in median.items()}
    out |= {f"share_of_{name}": share for name, share in shares.items()}
    return {name: round(v, 3) for name, v in out.items()} | same


def main() -> None:
    quick = {"lengths": [32], "dtypes": ["float32"], "rounds": 7}
    options = parse(__doc__, quick, lengths=[32, 64, 128], dtypes=["float32", "bfloat16"], rounds=15, memory=str)
    if options.memory:  # this process measures the memory of one kind of step
        print_memory(options.memory, options.lengths[0], getattr(torch, options.dtypes[0]))
        return
    where, found = device(), {}
    for dtype, length in itertools.product(options.dtypes, options.lengths):
        key = f"{dtype}-{length}"
        found[key] = tell(key, measure(length, dtype, options.rounds, where, memory=not options.quick))
    top = {f"{rows} rows": tell(f"top two, {rows} rows", absorbing(rows, options.rounds, where)) for rows in (16, 32)}
    shown = {name: {case: values[name] for case, values in found.items()} for name in SHOWN}
    report({"batch": BATCH, "rounds": options.rounds, **shown, "top_two": top, "all": found}, options.out)


if __name__ == "__main__":
    main()
