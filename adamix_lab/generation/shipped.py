"""Writers: experts on the embedded decoder and the task "notices", and what they wrote.

Each folder `data/generators/NAME/seedN` holds experts (float16) and `texts.json`: a text for every evaluation source,
by strategy ("random" holds one random route a text, "anew" draws a new one for every token); seed 0 has
`explored.json`, too: ten sources by route and number of beams.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from adamix_lab.core.adaptations import LoRA
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import write_text
from adamix_lab.core.model import MixtureModel, attach, load_trained, trained_tensors
from adamix_lab.core.objective import Consistency
from adamix_lab.core.routing import generator_for
from adamix_lab.core.saving import CONFIG
from adamix_lab.generation.comparison import load_generator, spread
from adamix_lab.generation.decoding import (
    Decoding,
    RouteAt,
    a_route_each,
    generate_texts,
    one_route,
    search,
    selection_of,
    trim,
)
from adamix_lab.generation.tasks import GenerationTask, coverage, load_generation_task
from adamix_lab.generation.training import prompts, separators, train_generator
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.card import save
from adamix_lab.training.doctor import device_name
from adamix_lab.training.recipe import Recipe

TASK, BACKBONE, EXPERTS, SEEDS = "notices", "books-gpt2", 4, (0, 1, 2)
ADAPTATION = LoRA(rank=32, alpha=64.0, init="reference")  # copies of A start alike, as the authors' do
TARGETS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # every matrix of a block
BLOCKS = (-2, -1)
NEW_TOKENS = 40
GREEDY = Decoding(beams=1, no_repeat=0, new_tokens=NEW_TOKENS)
ROUTES = (*(f"fixed-{n}" for n in range(EXPERTS)), "anew", "merged")
STRATEGIES = (*ROUTES, "random", "merged, 4 beams")
EXPLORED, BEAMS = 10, (1, 4)  # sources, and numbers of beams, of the explorer
TEXTS, EXPLORED_TEXTS = "texts.json", "explored.json"
RECIPE = Recipe(
    steps=1000, lr=4e-3, batch_size=8, warmup=0.05, dev_fraction=0.0, max_length=64, precision="bf16",
    consistency=Consistency(1.0, views="shared_prefix"), checkpoint_every=0,
)  # fmt: skip


@dataclass(frozen=True)
class Writer:
    """What sets one set of experts apart from the others."""

    share: str | None
    consistency: float
    what: str


WRITERS: Mapping[str, Writer] = {
    "adamix": Writer("B", 1.0, "LoRA with a shared B, independent routes, consistency 1"),
}


def place_of(name: str = "adamix", seed: int = 0, folder: Path | None = None) -> Path:
    """The folder of a writer. Raises ValueError for an unknown name, FileNotFoundError where nothing lies there."""
    one_of("Writer", name, WRITERS)
    place = (folder or data_root() / "generators") / name / f"seed{seed}"
    if not (place / CONFIG).is_file():
        raise FileNotFoundError(
            f"{place} holds no experts: expected shipped writers of seeds {SEEDS}. `adamix-lab lesson-writers` makes "
            "them."
        )
    return place


def load_writer(name: str = "adamix", seed: int = 0, folder: Path | None = None) -> tuple[MixtureModel, Any]:
    """(mixture in evaluation mode, tokenizer) of shipped experts. Raises as `place_of`."""
    return load_generator(place_of(name, seed, folder))


@lru_cache(maxsize=16)
def load_texts(name: str = "adamix", seed: int = 0, folder: Path | None = None) -> dict[str, list[str]]:
    """What shipped experts wrote for every evaluation source, by strategy. Raises as `place_of`."""
    texts: dict[str, list[str]] = json.loads((place_of(name, seed, folder) / TEXTS).read_text(encoding="utf-8"))
    return texts


@lru_cache(maxsize=4)
def load_explored(name: str = "adamix", seed: int = 0, folder: Path | None = None) -> dict[str, dict[str, list[str]]]:
    """What ten sources became, by route and number of beams (as text). Raises as `place_of`."""
    place = place_of(name, seed, folder) / EXPLORED_TEXTS
    explored: dict[str, dict[str, list[str]]] = json.loads(place.read_text(encoding="utf-8"))
    return explored


def route_of(strategy: str, mixture: MixtureModel, seed: int = 0) -> RouteAt:
    """The routes of a strategy, step by step: "merged", "fixed-N", "random" or "anew". Raises ValueError else."""
    if strategy == "anew":
        return a_route_each(mixture.space, seed)
    return one_route(selection_of(strategy, mixture.space, generator_for(seed), 1))


def write_one(
    mixture: MixtureModel, source: str, tokenizer: Any, strategy: str = "merged", beams: int = 1, seed: int = 0
) -> str:
    """A text for one source by `search`; strategies as `route_of`'s. seed: of routes that are drawn."""
    (prompt,) = prompts([source], tokenizer, 256 - NEW_TOKENS)
    end = separators(tokenizer)[1]
    found = search(mixture, prompt, end, route_of(strategy, mixture, seed), beams, new_tokens=NEW_TOKENS)
    return trim(tokenizer.decode(found.tokens), tokenizer)


def texts_by(strategy: str, mixture: MixtureModel, task: GenerationTask, tokenizer: Any) -> list[str]:
    """A text for every evaluation source by one of STRATEGIES. Raises ValueError for an unknown one."""
    one_of("strategy", strategy, STRATEGIES)
    if strategy == "anew":
        return [write_one(mixture, source, tokenizer, "anew", seed=n) for n, source in enumerate(task.sources)]
    beams = 4 if strategy.endswith("4 beams") else 1
    named = {"random": "random-example", "merged, 4 beams": "merged"}.get(strategy, strategy)
    return generate_texts(mixture, task.sources, tokenizer, replace(GREEDY, beams=beams), named)


def explore(mixture: MixtureModel, task: GenerationTask, tokenizer: Any) -> dict[str, dict[str, list[str]]]:
    """What `load_explored` holds, written anew."""
    chosen = spread(len(task.sources), EXPLORED)
    return {
        route: {
            str(beams): [write_one(mixture, task.sources[n], tokenizer, route, beams, seed=n) for n in chosen]
            for beams in BEAMS
        }
        for route in ROUTES
    }


def make_writers(
    folder: Path,
    names: Sequence[str] = tuple(WRITERS),
    seeds: Sequence[int] = SEEDS,
    steps: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Trains writers and lets them write; finished ones are left, so a killed command goes on."""
    task = load_generation_task(TASK)
    for name in names:
        for seed in seeds:
            place = folder / name / f"seed{seed}"
            if not (place / CONFIG).is_file():
                _train(WRITERS[name], seed, task, place, steps, say)
            if not (place / TEXTS).is_file():
                mixture, tokenizer = load_writer(name, seed, folder)
                if seed == SEEDS[0]:
                    _write(place / EXPLORED_TEXTS, explore(mixture, task, tokenizer))
                _write(place / TEXTS, {each: texts_by(each, mixture, task, tokenizer) for each in STRATEGIES})
            told = {each: percent(texts, task) for each, texts in load_texts(name, seed, folder).items()}
            say(f"{name}, seed {seed}: " + ", ".join(f"{each} {value:.1f}" for each, value in told.items()))


def _train(
    writer: Writer, seed: int, task: GenerationTask, place: Path, steps: int | None, say: Callable[[str], None]
) -> None:
    model, tokenizer = load_backbone(BACKBONE, kind="generation")
    mixture = attach(model, ADAPTATION, EXPERTS, writer.share, targets=TARGETS, blocks=BLOCKS, seed=seed)
    recipe = replace(
        RECIPE,
        seed=seed,
        steps=steps or RECIPE.steps,
        consistency=replace(RECIPE.consistency, weight=writer.consistency),
    )
    start = time.perf_counter()

    def tell(step: int) -> None:
        if step % 25 == 0:
            say(f"seed {seed}: step {step} of {recipe.steps}, {time.perf_counter() - start:.0f} s")

    history = train_generator(mixture, task, tokenizer, recipe, progress=False, on_step=tell)
    load_trained(mixture, {key: value.half().float() for key, value in trained_tensors(mixture).items()})
    notes = {"task": TASK, "backbone": BACKBONE, "seed": seed, "device": device_name(), "recipe": recipe.to_dict()}
    last = [row["task"] for row in history.rows if "task" in row][-5:]
    notes |= {"seconds": round(time.perf_counter() - start, 1), "last_task_losses": last}
    save(mixture, place, notes, dtype=torch.float16)


def _write(path: Path, texts: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(texts, indent=0, ensure_ascii=False) + "\n")


def percent(texts: Sequence[str], task: GenerationTask) -> float:
    """Slots realised, in % of all slots, a source counting as much as another."""
    return 100 * sum(coverage(texts, task.sources)) / len(texts)
