"""What a training step and an inference pass cost, as ratios measured side by side.

    python tests/benchmarks/step.py            32 tokens, float32; 15 rounds
    python tests/benchmarks/step.py --quick    5 rounds, under a minute

AdaMix is a bottleneck adapter of 16 in every block of MiniLM (M = 4, shared up-projection), two views a step, one
shared prefix. It stands beside peft's LoRA (r = 8 on query and value), and its merge beside the bare model.

`top_two` are steps as `train` takes them, adapters in the top two blocks above a cached prefix, 16 and 32 rows of 32
tokens: the last attention absorbs keys and values, over the same with both made (CPU time). `share_of_...` is of the
absorbed step's operations; `difference_of_logits` and `..._gradients` are relative to the largest. In float32 either
way is about as far from float64 as from the other (gradients at 16 rows: 0.9e-6, up to 1.4e-6 for keys that are made).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import typer
from common import batch_of, interleave, minilm_mixture, report
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.profiler import profile

from adamix_lab.core.merging import merge, relative_difference
from adamix_lab.core.objective import Consistency, Objective
from adamix_lab.core.routing import Router
from adamix_lab.fast import blocks
from adamix_lab.fast.blocks import WAYS
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import ZEROS, cache_examples, collate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import keep_freed_memory, start_accelerator, train_examples

BATCH, LENGTH, STEPS = 32, 32, 6
PARTS = {
    "products": ("mm", "addmm", "bmm", "baddbmm"),
    "dropout_masks": ("bernoulli_",),
    "norms": ("native_layer_norm", "native_layer_norm_backward"),
    "copies": ("copy_", "fill_"),
    "additions": ("add", "add_", "mul", "mul_", "sum"),
}


def minilm() -> nn.Module:
    """The bare model."""
    return load_backbone("minilm", num_labels=2, pooling="cls")[0]


def step_of(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, foreach=True)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(rounds: int) -> dict[str, float]:
    """A two-view step over LoRA's, a merged pass over the bare model's, and their milliseconds."""
    batch, mixture, steps = batch_of(BATCH, LENGTH), minilm_mixture().train(), itertools.count()
    objective, router = Objective(mixture, Consistency(views="shared_prefix"), ways=WAYS), Router(mixture.space)
    config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    lora, bare, merged = get_peft_model(minilm(), config).train(), minilm().eval(), merge(minilm_mixture()).eval()
    training = {
        "two_view": step_of(mixture, lambda: objective(batch, router.views(next(steps))).total),
        "lora": step_of(lora, lambda: lora(**batch).loss),
    }
    inference = {
        "merged": torch.inference_mode()(lambda: merged(**batch)),
        "bare": torch.inference_mode()(lambda: bare(**batch)),
    }
    median = interleave(training, rounds, warm=2)[0] | interleave(inference, 3 * rounds, warm=2)[0]
    taken = {name: 1000 * seconds for name, (seconds, _) in median.items()}
    ratios = {"two_view_over_lora": taken["two_view"] / taken["lora"]}
    ratios |= {"merged_over_bare": taken["merged"] / taken["bare"]}
    return {name: round(value, 3) for name, value in {**ratios, **{f"{n}_ms": ms for n, ms in taken.items()}}.items()}


def absorbing(rows: int, rounds: int) -> dict[str, float]:
    """Steps of `train` above a cached prefix, keys and values absorbed, over the same with both made; parts' shares."""
    top, cache = cached_prefix(minilm_mixture(blocks=range(-2, 0), apart=0.1))
    recipe = Recipe(steps=STEPS, batch_size=rows, consistency=Consistency(views="shared_prefix"))
    accelerator, tokens = start_accelerator(recipe), batch_of(8 * rows, LENGTH, padding=4)
    plain = [{name: value[n] for name, value in tokens.items()} for n in range(8 * rows)]
    examples = cache_examples(plain, cache, torch.device("cpu"), ZEROS)
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
    median, _ = interleave({"absorbed": train, "made": made(train)}, rounds)
    with profile() as profiled:
        train()
    taken = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profiled.key_averages()}
    shares = {name: sum(taken.get(one, 0.0) for one in part) / sum(taken.values()) for name, part in PARTS.items()}
    out = {"absorbed_over_made": median["absorbed"][1] / median["made"][1]}
    out |= {f"{name}_ms": 1000 * cpu / STEPS for name, (_, cpu) in median.items()}
    out |= {f"share_of_{name}": share for name, share in shares.items()}
    return {name: round(value, 3) for name, value in out.items()} | same


def main(quick: bool = False, rounds: int = 15, out: Path | None = None) -> None:
    """Ratios and milliseconds as one JSON object."""
    keep_freed_memory()  # as `train` does: all ways profit alike
    rounds = 5 if quick else rounds
    top = {f"{rows} rows": absorbing(rows, rounds) for rows in (16, 32)}
    report({"batch": BATCH, "length": LENGTH, "rounds": rounds, **measure(rounds), "top_two": top}, out)


if __name__ == "__main__":
    typer.run(main)
