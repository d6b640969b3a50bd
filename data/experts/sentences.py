"""Make the experts on sentences: AdaMix and what it has to be told from, with and without wrong labels.

    python data/experts/sentences.py                     # about an hour and a half of one core; goes on where it was
    python data/experts/sentences.py noisy --seeds 1     # seed 20 alone

Of every learner (`learners.yaml`) and seed the answers of all routes and of the merge to
the thousand fresh rows are kept (data/lessons/answers), of the first seeds the weights, too. Rows, wrong labels,
starts, routes, batches and dropout follow from the seed; rate and steps are those of the tour, chosen before.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from adamix_lab import save, train
from adamix_lab.analysis.posterior import FixedBatches, fix_batches
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.baselines.making import apart_soup, baseline, fitted
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.files import write_text
from adamix_lab.core.merging import stack_experts
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.lessons.answers import on_batches, place_of, read_answers, write_answers
from adamix_lab.models.model import MixtureModel, attach, load_trained, trained_tensors
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import TextsCut
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.doctor import device_name, versions
from adamix_lab.training.shipped import BLOCKS, EXPERTS, SENTENCE_SEEDS, SENTENCES, Learner, learners, sentences

HERE = Path(__file__).resolve().parent
CELLS = ("noisy", "clean")
SAVED = {"noisy": 1, "clean": 1}  # seeds whose weights are shipped: all that ten megabytes hold


def backbone(task: Task, seed: int) -> tuple[Any, Any]:
    """MiniLM with the head of a seed, afresh."""
    return load_backbone("minilm", task.num_labels, seed, pooling="cls")


def learn(learner: Learner, task: Task, seed: int) -> MixtureModel:
    """The trained mixture; a single adapter is a mixture of one."""
    if learner.method == "apart":
        return learn_apart(learner, task, seed)
    model, tokenizer = backbone(task, seed)
    if learner.method == "adamix":
        mixture = attach(model, Bottleneck(16), EXPERTS, learner.share, blocks=BLOCKS, seed=seed, tied=learner.tied)
    else:
        mixture = baseline(learner.method, model, seed, blocks=BLOCKS)
    recipe = fitted(learner.method, replace(SENTENCES, seed=seed, steps=learner.steps))
    recipe = replace(recipe, consistency=replace(recipe.consistency, weight=weight_of(learner, recipe)))
    train(mixture, task, tokenizer, recipe, progress=False)
    return mixture


def weight_of(learner: Learner, recipe: Any) -> float:
    """Of the consistency: a mixture's own, else what the method has."""
    return learner.consistency if learner.method == "adamix" else recipe.consistency.weight


def learn_apart(learner: Learner, task: Task, seed: int) -> MixtureModel:
    """Single adapters one by one, each with batches and dropout of its own, side by side; the heads averaged."""
    parts: list[dict[str, Tensor]] = []
    for n in range(EXPERTS):
        model, tokenizer = backbone(task, seed)
        one = baseline("single", model, seed if learner.one_start else EXPERTS * seed + n, blocks=BLOCKS)
        recipe = fitted("single", replace(SENTENCES, seed=EXPERTS * seed + n, steps=learner.steps))
        train(one, task, tokenizer, recipe, progress=False)
        parts.append({name: tensor.clone() for name, tensor in trained_tensors(one).items()})
    mixture = apart_soup(backbone(task, seed)[0], seed=seed, experts=EXPERTS, blocks=BLOCKS)
    load_trained(mixture, stack_experts(parts))
    return mixture


@lru_cache(maxsize=1)
def fresh_rows() -> FixedBatches:
    """The rows to be judged on behind the frozen blocks: the same for every learner and seed."""
    task = sentences("clean", SENTENCE_SEEDS[0])
    model, tokenizer = backbone(task, 0)
    return fix_batches(baseline("single", model, blocks=BLOCKS), task, tokenizer, batch_size=64)


def make_one(cell: str, name: str, seed: int) -> str:
    """Trains a learner, writes its answers and, of the first seeds, its weights (float16, as they answer)."""
    start, task = time.process_time(), sentences(cell, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextsCut)  # few rows, and all learners read as much of them
        mixture = learn(learners(cell)[name], task, seed)
        rounded = {key: tensor.half().float() for key, tensor in trained_tensors(mixture).items()}
        load_trained(mixture.eval(), rounded)
        found = on_batches(replace(fresh_rows(), mixture=mixture, top=cached_prefix(mixture)[0]))
    seconds = round(time.process_time() - start, 1)
    results = {"merged": float(found.merged_right.mean()), "merged_loss": float(found.merged_loss.mean())}
    results |= {"experts": float(found.right[:, found.fixed].mean()), "routes": float(found.right.mean())}
    notes = {"task": "subjectivity", "backbone": "minilm", "classes": list(task.classes), "learned": cell}
    notes |= {"twin": name, "seed": seed, "results": results, "versions": versions(), "seconds": seconds}
    if seed in SENTENCE_SEEDS[: SAVED[cell]]:
        save(mixture, HERE / cell / name / f"seed{seed}", notes, dtype=torch.float16)
    told = {"run": name, "learned": cell, "seed": str(seed), "seconds": str(seconds), "device": device_name()}
    write_answers(place_of(name, seed, data=cell), found, told)
    listed = ", ".join(f"{key} {value:.3f}" for key, value in results.items())
    return f"{listed} ({seconds:.0f} s)"


WHAT = {
    "single": "one adapter",
    "slow-swa": "one adapter, its down projection at a quarter of the rate; its weights averaged over the last 75 %",
    "adamix": "AdaMix, M = 4, up projection shared, consistency 1",
    "down": "the same with the down projection shared",
    "no-consistency": "AdaMix with up shared, one view a step",
    "down-no-consistency": "AdaMix with down shared, one view a step",
    "weight-10": "AdaMix with up shared, consistency 10",
    "weight-100": "AdaMix with up shared, consistency 100",
    "unshared-tied": "AdaMix that shares nothing, down i always with up i",
    "r-drop": "one adapter, two dropout masks a step held together (R-Drop)",
    "apart": "four adapters of 150 steps each, from four starts: AdaMix's passes in all",
    "apart-same-start": "the same from one start",
    "apart-long": "four adapters of 300 steps each, from four starts: AdaMix's steps, twice its passes",
    "apart-same-start-long": "the same from one start",
}


def card() -> str:
    """What every learner came to, mean and 95 % t-interval over the seeds that are there."""
    lines = ["# Shipped experts: real sentences", ""]
    lines += [
        "MiniLM frozen, bottlenecks of 16 in the top two blocks, CLS head; 400 sentences of `subjectivity`, 300 steps "
        f"of {SENTENCES.batch_size} rows at rate {SENTENCES.lr:g} (the tour's, chosen before) and at most "
        f"{SENTENCES.max_length} tokens. Each seed draws rows, wrong labels, starts, routes, batches and dropout. "
        "Judged on 1,000 `fresh` rows, which chose nothing. Made by `data/experts/sentences.py`, as this page; "
        '`load_twin("adamix", 20, data="noisy")` loads one. *Experts*: each alone, their mean. One rate serves all, so '
        "this says what each does at that rate, and not which is best.",
    ]
    for cell, names in ((cell, learners(cell)) for cell in CELLS):
        wrong = "a quarter of the labels wrong" if cell == "noisy" else "no label wrong"
        lines += [
            "",
            f"## {cell}: {wrong}",
            "",
            "| learner | what | seeds | merged, % | loss | experts, % |",
            "|" + "---|" * 6,
        ]
        for name in names:
            every = [place_of(name, seed, data=cell) for seed in SENTENCE_SEEDS]
            found = [read_answers(path) for path in every if path.is_file()]
            merged, experts = ([100 * float(v.mean()) for v in values] for values in zip(
                *((a.merged_right, a.right[:, a.fixed]) for a in found), strict=True
            ))  # fmt: skip
            loss = format_interval([float(answers.merged_loss.mean()) for answers in found], 3)
            cells = (name, WHAT[name], str(len(found)), format_interval(merged), loss, format_interval(experts))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    cells: Annotated[list[str] | None, typer.Argument()] = None, seeds: int = len(SENTENCE_SEEDS), only: str = ""
) -> None:
    """CELLS: noisy, clean (both by default). --seeds: the first so many. --only: one learner."""
    torch.set_num_threads(1)  # so that digits do not depend on the machine's cores
    for seed in SENTENCE_SEEDS[:seeds]:
        for cell in cells or CELLS:
            for name in [only] if only else learners(cell):
                there = place_of(name, seed, data=cell).is_file()
                said = "already there" if there else make_one(cell, name, seed)
                print(f"{cell}, {name}, seed {seed}: {said}", flush=True)
    write_text(HERE / "sentences.md", card())


if __name__ == "__main__":
    typer.run(main)
