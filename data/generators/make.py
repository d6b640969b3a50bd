"""Make the shipped writers: experts on the embedded decoder, what they wrote, and their card.

    python data/generators/make.py
    python data/generators/make.py --out runs/writers --seeds 1 --steps 50

What is there is left: the same command goes on with a killed one. The card (`README.md`) is written from the experts'
own notes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer

from adamix_lab import Consistency, LoRA, MixtureModel, Recipe, attach, load_backbone, save
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.core.files import CONFIG, read_config, write_text
from adamix_lab.generation.comparison import (
    BACKBONE,
    BEAMS,
    EXPERTS,
    EXPLORED,
    EXPLORED_TEXTS,
    NEW_TOKENS,
    ROUTES,
    SEEDS,
    STRATEGIES,
    TASK,
    TEXTS,
    load_texts,
    load_writer,
    place_of,
    spread,
    write_one,
)
from adamix_lab.generation.decoding import Decoding, generate_texts
from adamix_lab.generation.tasks import GenerationTask, coverage, load_generation_task
from adamix_lab.generation.training import train_generator
from adamix_lab.models.model import load_trained, trained_tensors
from adamix_lab.training.doctor import device_name

ADAPTATION = LoRA(rank=32, alpha=64.0, init="reference")  # copies of A start alike, as the authors' do
TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # every matrix of a block
BLOCKS = (-2, -1)
CARD = Path(__file__).with_name("card.md")
GREEDY = Decoding(beams=1, no_repeat=0, new_tokens=NEW_TOKENS)
RECIPE = Recipe(
    steps=1000, lr=4e-3, batch_size=8, warmup=0.05, dev_fraction=0.0, max_length=64, precision="bf16",
    consistency=Consistency(1.0, views="shared_prefix"), checkpoint_every=0,
)  # fmt: skip


def make(folder: Path, seeds: Sequence[int], steps: int | None = None, say: Callable[[str], None] = print) -> None:
    """Trains the writers, lets them write, and writes their card."""
    task = load_generation_task(TASK)
    for seed in seeds:
        place = folder / "adamix" / f"seed{seed}"
        if not (place / CONFIG).is_file():
            train_writer(place, seed, task, steps)
        if not (place / TEXTS).is_file():
            mixture, tokenizer = load_writer(seed, folder)
            if seed == SEEDS[0]:
                _write(place / EXPLORED_TEXTS, explore(mixture, task, tokenizer))
            _write(place / TEXTS, {each: texts_by(each, mixture, task, tokenizer) for each in STRATEGIES})
        shares = {each: percent(texts, task) for each, texts in load_texts(seed, folder).items()}
        say(f"seed {seed}: " + ", ".join(f"{each} {value:.1f}" for each, value in shares.items()))
    write_text(folder / "README.md", card(folder, task))


def train_writer(place: Path, seed: int, task: GenerationTask, steps: int | None) -> None:
    """Trains one writer and saves it in float16."""
    model, tokenizer = load_backbone(BACKBONE, kind="generation")
    mixture = attach(model, ADAPTATION, EXPERTS, "B", targets=TARGETS, blocks=BLOCKS, seed=seed)
    recipe, start = replace(RECIPE, seed=seed, steps=steps or RECIPE.steps), time.perf_counter()
    history = train_generator(mixture, task, tokenizer, recipe)
    load_trained(mixture, {key: value.half().float() for key, value in trained_tensors(mixture).items()})
    notes = {"task": TASK, "backbone": BACKBONE, "seed": seed, "device": device_name(), "recipe": recipe.to_dict()}
    last = [row["task"] for row in history.rows if "task" in row][-5:]
    notes |= {"seconds": round(time.perf_counter() - start, 1), "last_task_losses": last}
    save(mixture, place, notes, dtype=torch.float16)


def texts_by(strategy: str, mixture: MixtureModel, task: GenerationTask, tokenizer: Any) -> list[str]:
    """A text for every evaluation source by one of STRATEGIES."""
    if strategy == "anew":
        return [write_one(mixture, source, tokenizer, "anew", seed=n) for n, source in enumerate(task.sources)]
    beams = 4 if strategy.endswith("4 beams") else 1
    named = {"random": "random-example", "merged, 4 beams": "merged"}.get(strategy, strategy)
    return generate_texts(mixture, task.sources, tokenizer, replace(GREEDY, beams=beams), named)


def explore(mixture: MixtureModel, task: GenerationTask, tokenizer: Any) -> dict[str, dict[str, list[str]]]:
    """What ten sources become, by route and number of beams (as text)."""
    chosen = spread(len(task.sources), EXPLORED)

    def written(route: str, beams: int) -> list[str]:
        return [write_one(mixture, task.sources[n], tokenizer, route, beams, seed=n) for n in chosen]

    return {route: {str(beams): written(route, beams) for beams in BEAMS} for route in ROUTES}


def percent(texts: Sequence[str], task: GenerationTask) -> float:
    """Slots realised, in % of all slots, a source counting as much as another."""
    return 100 * sum(coverage(texts, task.sources)) / len(texts)


def _write(path: Path, texts: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(texts, indent=0, ensure_ascii=False) + "\n")


def card(folder: Path, task: GenerationTask) -> str:
    """The card's text, from the notes and the texts of the seeds that are there."""
    seeds = [seed for seed in SEEDS if (folder / "adamix" / f"seed{seed}" / CONFIG).is_file()]
    configs = [read_config(place_of(seed, folder)) for seed in seeds]
    rows = []
    for each in STRATEGIES:
        values = [percent(load_texts(seed, folder)[each], task) for seed in seeds]
        rows.append(f"| {each} | {format_interval(values)} | {' '.join(f'{value:.1f}' for value in values)} |")
    return CARD.read_text(encoding="utf-8").format(
        **configs[0],
        recipe=configs[0]["notes"]["recipe"],
        rank=ADAPTATION.rank,
        targets=", ".join(TARGETS),
        seeds=", ".join(map(str, seeds)),
        size=sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 1e6,
        seconds=", ".join(f"{config['notes']['seconds']:.0f}" for config in configs),
        sources=len(task.sources),
        coverage="\n".join(rows),
    )


def main(out: Path = Path(__file__).parent, seeds: int = len(SEEDS), steps: int | None = None) -> None:
    """Writers of seeds 0, 1, ... and their card; --steps: fewer, for a trial."""
    make(out, range(seeds), steps)


if __name__ == "__main__":
    typer.run(main)
