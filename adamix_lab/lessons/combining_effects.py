"""What lesson 08 tells: LoRA experts merged in several ways, on the same rows, for three seeds."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from adamix_lab.analysis.samples import FixedBatches, fix_batches
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.views import Batch
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.lessons.effects import Measure
from adamix_lab.lessons.your_own import EXPERTS, fresh_loras, read_loras
from adamix_lab.tasks.tasks import load_task

# Factors on mean(B) mean(A): what peft's "linear" makes of M equal weights w, sqrt(w) on each A and each B: w M².
LINEAR = {"linear at 1/M²": 1.0, "linear at 1/M": float(EXPERTS), "linear at 1": float(EXPERTS**2)}
PRODUCTS = "mean of products"
EVERY = 4  # evaluation rows that are looked at: each fourth
ALONE = tuple(f"expert {n}" for n in range(EXPERTS))


def merged_weights(a: Tensor, b: Tensor, way: str) -> dict[str, Tensor]:
    """One site's A `[M, r, in]` and B `[M or 1, out, r]` merged: a name of LINEAR, PRODUCTS, or one of ALONE.

    PRODUCTS is one LoRA of rank M r, A `[M r, in]` and B `[out, M r]`: what peft's "cat" gives at 1/M.
    """
    b = b.expand(len(a), -1, -1)
    if way in ALONE:
        return {"A": a[ALONE.index(way)], "B": b[ALONE.index(way)]}
    if way == PRODUCTS:
        return {"A": a.flatten(0, 1), "B": b.permute(1, 0, 2).flatten(1) / len(a)}
    return {"A": a.mean(0), "B": LINEAR[way] * b.mean(0)}


@lru_cache(maxsize=1)
def lora_rows() -> FixedBatches:
    """The evaluation rows that are looked at."""
    # one frozen prefix for every seed and kind: only the last block and the head differ
    mixture, tokenizer = fresh_loras("tied", 0)
    task = load_task("aspects")
    return fix_batches(mixture.eval(), task, tokenizer, task.evaluation[::EVERY], batch_size=64)


@lru_cache(maxsize=8)
def lora_answers(kind: str, seed: int) -> dict[str, Tensor]:
    """`{way: [rows, C]}` of a shipped kind on the evaluation rows."""
    tensors, fixed = read_loras(kind, seed), lora_rows()
    for path, module in fixed.mixture.head.items():
        module.load_state_dict({name: tensors[f"head.{path}.{name}"] for name in module.state_dict()})

    def under(way: str) -> Tensor:
        selection = {
            path: merged_weights(tensors[f"experts.{path}.A"], tensors[f"experts.{path}.B"], way)
            for path in fixed.mixture.sites
        }

        def answer(model: MixtureModel, batch: Batch, n: int) -> Tensor:
            with cut_last_block(model.model):
                return model(selection=selection, **batch).logits  # type: ignore[no-any-return]

        return fixed.gather(answer).log_softmax(-1)

    return {way: under(way) for way in (*LINEAR, PRODUCTS, *ALONE)}


def lora_score(kind: str, seed: int, way: str, of: str) -> Tensor:
    """`[rows]`: 1 where the answer is right ("points"), or the loss ("nats"); "alone" is the mean of the experts.

    way "chance" is always the more frequent class; it has no loss.
    """
    if way == "chance":
        labels = lora_rows().labels
        return (labels == labels.mode().values).float()
    if way == "alone":
        return torch.stack([lora_score(kind, seed, expert, of) for expert in ALONE]).mean(0)
    answers, labels = lora_answers(kind, seed)[way], lora_rows().labels
    if of == "points":
        return (answers.argmax(-1) == labels).float()
    return -answers.gather(1, labels[:, None])[:, 0]


def score_difference(kind: str, way: str, other: str, of: str) -> Measure:
    """One way's score minus another's, row by row."""
    return lambda seed: lora_score(kind, seed, way, of) - lora_score(kind, seed, other, of)


def exporting() -> dict[str, tuple[str, Measure]]:
    """Lesson 08."""
    factors = "linear at 1/M²"
    asked = [
        ("adamix", "AdaMix: merged minus its experts alone", factors, "alone"),
        ("adamix", "AdaMix: peft's linear at 1/M minus merged", "linear at 1/M", factors),
        ("adamix", "AdaMix: peft's linear at 1 minus merged", "linear at 1", factors),
        ("tied", "tied: mean of products minus experts alone", PRODUCTS, "alone"),
        ("tied", "tied: mean of factors minus experts alone", factors, "alone"),
        ("tied", "tied: mean of factors minus mean of products", factors, PRODUCTS),
        ("tied", "tied: peft's linear at 1/M minus mean of products", "linear at 1/M", PRODUCTS),
    ]
    learned = {
        f"{name}: merged minus always the more frequent class, accuracy": (
            "points",
            score_difference(kind, way, "chance", "points"),
        )
        for kind, name, way in (("adamix", "AdaMix", factors), ("tied", "tied", PRODUCTS))
    }
    return learned | {
        f"{name}{what}": (of, score_difference(kind, way, other, of))
        for kind, name, way, other in asked
        for of, what in (("points", ", accuracy"), ("nats", ", loss"))
    }
