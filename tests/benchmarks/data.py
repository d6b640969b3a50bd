"""Tokenising and batching SST-2's training set, and the throughput of a training run beside transformers' Trainer.

    python tests/benchmarks/data.py            all rows tokenised; runs of 200 steps, 5 rounds
    python tests/benchmarks/data.py --quick    a sample; runs of 40 steps, 3 rounds, about a minute

SST-2 is read from `../shared/data/sst2` beside the checkout, or from --folder; without either the embedded task serves
(the output says so; its sentences have nearly equal lengths, so there is little to win).

Throughput: rows a second of one epoch over the same rows, the same model (MiniLM with LoRA, r = 8, one expert, one
view) with the same weights, batch size, rate and number of steps, loss and optimiser step included; tokenising,
loading and evaluation are not, on either side (`History.seconds` here, `train_runtime` there). Ours is `train` as it
stands: length buckets, and the last block cut to the position that the head reads. The Trainer pads dynamically, with
its random sampler and with its own length grouping. Rounds are interleaved; ratios are of medians; the last line is
one JSON object.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import ROOT, interleave, parse, report, seconds

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.objective import Consistency
from adamix_lab.models.model import attach
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import Batches, Example, encode
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.train import train

SHARED = Path(os.environ.get("ADAMIX_LAB_SHARED") or ROOT.parent / "shared")
BATCH, LENGTH, RATE = 32, 128, 1e-3


def waste(lengths: list[int], batches: list[list[int]]) -> float:
    """The share of positions that are padding."""
    padded = sum(len(batch) * max(lengths[n] for n in batch) for batch in batches)
    return 1 - sum(lengths[n] for batch in batches for n in batch) / padded


def model_of(task: Task) -> tuple[Any, Any]:
    model, tokenizer = load_backbone("minilm", num_labels=task.num_labels, pooling="cls")
    return attach(model, LoRA(8)), tokenizer


def ours(task: Task, steps: int) -> float:
    mixture, tokenizer = model_of(task)
    recipe = Recipe(
        steps=steps, batch_size=BATCH, lr=RATE, max_length=LENGTH, dev_fraction=0.0,
        consistency=Consistency(0.0, views="shared_prefix"),
    )  # fmt: skip
    return train(mixture, task, tokenizer, recipe, progress=False).seconds


def trainer(task: Task, steps: int, grouped: bool) -> float:
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    mixture, tokenizer = model_of(task)
    rows = [{name: value.tolist() for name, value in example.items()} for example in encoded(task, tokenizer)]
    strategy = "train_sampling_strategy"
    if strategy in TrainingArguments.__dataclass_fields__:
        group = {strategy: "group_by_length" if grouped else "random"}
    else:
        group = {"group_by_length": grouped}  # transformers 4
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=RATE, report_to=[],
            disable_tqdm=True, save_strategy="no", logging_strategy="no", remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(), **group,
        )  # fmt: skip
        collator = DataCollatorWithPadding(tokenizer)
        run = Trainer(mixture.model, arguments, train_dataset=rows, data_collator=collator)
        return float(run.train().metrics["train_runtime"])


def encoded(task: Task, tokenizer: Any) -> list[Example]:
    return encode(task.train, task, tokenizer, LENGTH)


def main() -> None:
    options = parse(__doc__, {"steps": 40, "rounds": 3}, folder=SHARED / "data" / "sst2", steps=200, rounds=5)
    warnings.simplefilter("ignore")  # rows cut at LENGTH are none here
    if options.folder.is_dir():
        whole = load_task("sst2", folder=options.folder, rows=8000 if options.quick else None)
    else:
        print(f"{options.folder} is not there: the embedded task serves instead of SST-2")
        whole = load_task("aspects")

    tokenizer = load_backbone("minilm", num_labels=whole.num_labels)[1]
    taken, examples = seconds(lambda: encoded(whole, tokenizer))
    tokenising = len(examples) / taken
    bucketed, mixed = (Batches(examples, BATCH, bucket=bucket) for bucket in (32, 1))
    wasted = {"buckets": waste(bucketed.lengths, bucketed.epoch(0)), "none": waste(mixed.lengths, mixed.epoch(0))}
    print(f"{whole.name}: {len(examples):,} rows, {tokenising:,.0f} a second tokenised; padding {wasted}", flush=True)

    steps = min(options.steps, len(whole.train) // BATCH)
    few = replace(whole, train=whole.train[: steps * BATCH])
    ways = {
        "ours": lambda: ours(few, steps),
        "trainer": lambda: trainer(few, steps, grouped=False),
        "trainer_grouped": lambda: trainer(few, steps, grouped=True),
    }
    median, _ = interleave(ways, options.rounds, warm=0, clock=lambda work: (work(), None), say=True)
    rate = {name: len(few.train) / value for name, value in median.items()}
    result = {
        "padding_waste": {name: round(value, 4) for name, value in wasted.items()},
        "examples_per_second_over_trainer": round(rate["ours"] / rate["trainer"], 3),
        "examples_per_second_over_trainer_grouped": round(rate["ours"] / rate["trainer_grouped"], 3),
        "examples_per_second": {name: round(value, 1) for name, value in rate.items()},
        "tokenised_per_second": round(tokenising),
        **{"task": whole.name, "rows": len(examples), "steps": steps, "rounds": options.rounds, "batch": BATCH},
    }
    report(result, options.out)


if __name__ == "__main__":
    main()
