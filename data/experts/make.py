"""Make the shipped experts and what they answer: on made-up sentences ("aspects"), and on real ones.

    python data/experts/make.py twins          # on aspects: four twins, three stages of training each
    python data/experts/make.py answers        # what twins, and AdaMix of other settings, answer on aspects, ten seeds
    python data/experts/make.py noisy clean    # on 400 real sentences, with and without wrong labels, ten seeds
    python data/experts/make.py twins noisy --seeds 1 --steps 20 --only adamix --out runs/trial

What is there is left: the same command goes on with a killed one. Of sentences the answers of all routes and of the
merge to the thousand fresh rows are kept (data/lessons/answers), of the first seed the weights, too. Everything follows
from the seed. The cards (`README.md`, `sentences.md`) are written from the experts' own notes and answers.
"""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from torch import Tensor

from adamix_lab import evaluate, load_task, save, train
from adamix_lab.analysis.posterior import FixedBatches, fix_batches
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.baselines.making import apart_soup, baseline, fitted
from adamix_lab.core.adaptations import Bottleneck
from adamix_lab.core.files import write_text
from adamix_lab.core.merging import stack_experts
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.lessons.answers import RUNS, Answers, answers_of, on_batches, place_of, read_answers, write_answers
from adamix_lab.models.model import MixtureModel, attach, load_trained, trained_tensors
from adamix_lab.models.saving import CONFIG, read_config
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import TextsCut
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.doctor import device_name, versions
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.shipped import (
    BLOCKS,
    EXPERTS,
    SEEDS,
    SENTENCE_SEEDS,
    SENTENCES,
    STAGES,
    Learner,
    learners,
    sentences,
    twin_recipe,
)

HERE = Path(__file__).resolve().parent
TWINS, CELLS = learners(), ("noisy", "clean")
STRATEGIES = (*(f"fixed-{n}" for n in range(EXPERTS)), "merged", "ensemble")
ANSWERED = range(10)  # seeds of "answers"

Tensors = dict[str, Tensor]
Stages = dict[str, Tensors]
Results = dict[str, dict[str, float]]
Parts = Iterable[tuple[MixtureModel, Recipe]]


# -- training: one mixture, or single adapters one by one, which are then put side by side ------------------------


def untrained_mixture(
    task: Task, experts: int, share: str | None, seed: int, tied: bool = False
) -> tuple[MixtureModel, Any]:
    """MiniLM with untrained experts in the top two blocks; the head starts alike for every seed of one task."""
    model, tokenizer = load_backbone("minilm", num_labels=task.num_labels, pooling="cls")
    return attach(model, Bottleneck(16), experts, share, blocks=BLOCKS, seed=seed, tied=tied), tokenizer


def train_stages(mixture: MixtureModel, task: Task, tokenizer: Any, recipe: Recipe) -> Stages:
    """Trains in place; returns the trained tensors at each stage."""
    at = {max(1, round(share * (recipe.steps or 0))): stage for stage, share in STAGES.items()}
    kept: Stages = {}

    def keep(step: int) -> None:
        if step in at:
            kept[at[step]] = copies(mixture)

    train(mixture, task, tokenizer, recipe, progress=False, on_step=keep)
    return kept | {"late": copies(mixture)}


def copies(mixture: MixtureModel) -> Tensors:
    """The trained tensors as they are now."""
    return {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}


def train_parts(parts: Parts, task: Task, tokenizer: Any) -> list[tuple[MixtureModel, Stages]]:
    """Each part with its tensors at each stage, trained one after the other."""
    return [(mixture, train_stages(mixture, task, tokenizer, recipe)) for mixture, recipe in parts]


def side_by_side(trained: Sequence[tuple[MixtureModel, Stages]]) -> Stages:
    """The tensors of a mixture whose experts are the parts."""
    return {stage: stack_experts([stages[stage] for _, stages in trained]) for stage in STAGES}


def load_rounded(mixture: MixtureModel, tensors: Tensors) -> None:
    """Puts tensors in as they are shipped, float16."""
    load_trained(mixture.eval(), {key: value.half().float() for key, value in tensors.items()})


# -- aspects ----------------------------------------------------------------------------------------------------


def twin_of(name: str) -> Learner:
    """A twin, AdaMix with down shared, or with another weight of consistency ("weight-10")."""
    if name.startswith("weight-"):
        return Learner(consistency=float(name.removeprefix("weight-")))
    return Learner(share="down") if name == "down" else TWINS[name]


def make_twin(
    twin: Learner, seed: int, task: Task, steps: int | None = None
) -> tuple[MixtureModel, Any, Stages, dict[str, Results]]:
    """Trains one twin: the mixture, the tokenizer, the trained tensors at each stage, and what was found on the way.

    What is found: of adapters trained apart, by stage, what each gives with its own head ("own-0", ...).
    """
    mixture, tokenizer = untrained_mixture(task, EXPERTS, twin.share, seed, twin.tied)
    own: dict[str, Results] = {stage: {} for stage in STAGES}
    if twin.method == "adamix":
        return mixture, tokenizer, train_stages(mixture, task, tokenizer, twin_recipe(twin, seed, steps)), own
    seeds = range(EXPERTS * seed, EXPERTS * (seed + 1))
    parts = ((untrained_mixture(task, 1, None, n)[0], twin_recipe(twin, n, steps)) for n in seeds)
    trained = train_parts(parts, task, tokenizer)
    for (n, (single, stages)), stage in itertools.product(enumerate(trained), STAGES):
        load_trained(single, stages[stage])
        own[stage][f"own-{n}"] = results_of(single, task, tokenizer, ["merged"])["merged"]
    return mixture, tokenizer, side_by_side(trained), own


def results_of(mixture: MixtureModel, task: Task, tokenizer: Any, strategies: Sequence[str] = STRATEGIES) -> Results:
    """Accuracy and loss of each expert, of the merge and the ensemble, and of the merge with the adapters off."""
    results = {result.strategy: result for result in evaluate(mixture, task, tokenizer, strategies)}
    with mixture.disabled():
        results["off"] = evaluate(mixture, task, tokenizer)[0]
    return {name: {"accuracy": result.accuracy, "loss": result.loss} for name, result in results.items()}


def write_twin(name: str, seed: int, steps: int | None, out: Path) -> str:
    """Trains a twin and saves its stages with their evaluation."""
    place, start, task = out / name / f"seed{seed}", time.perf_counter(), load_task("aspects")
    if all((place / stage / CONFIG).is_file() for stage in STAGES):
        return "already there"
    mixture, tokenizer, stages, own = make_twin(TWINS[name], seed, task, steps)
    told = {"task": "aspects", "backbone": "minilm", "classes": list(task.classes), "twin": name, "seed": seed}
    told |= {"seconds": round(time.perf_counter() - start, 1), "device": device_name()}
    for stage, tensors in stages.items():
        load_rounded(mixture, tensors)
        results = results_of(mixture, task, tokenizer) | own[stage]
        save(mixture, place / stage, {**told, "stage": stage, "results": results}, dtype=torch.float16)
    return f"merged {100 * results['merged']['accuracy']:.1f}, {told['seconds']:.0f} s"


def write_twin_answers(name: str, seed: int, steps: int | None, out: Path) -> str:
    """Trains what is not shipped and keeps what every route and the merge answer."""
    place, start, task = place_of(name, seed, answers_folder(out)), time.process_time(), load_task("aspects")
    if place.is_file():
        return "already there"
    mixture, tokenizer, stages, _ = make_twin(twin_of(name), seed, task, steps)
    load_rounded(mixture, stages["late"])
    found, seconds = answers_of(mixture, task, tokenizer), f"{time.process_time() - start:.0f}"
    write_answers(place, found, {"run": name, "seed": str(seed), "seconds": seconds, "device": device_name()})
    return f"{listed(found)} ({seconds} s)"


def answers_folder(out: Path) -> Path | None:
    """Where answers go: None is their place among the lessons' data."""
    return None if out == HERE else out / "answers"


# -- sentences ----------------------------------------------------------------------------------------------------


def backbone(task: Task, seed: int) -> tuple[Any, Any]:
    """MiniLM with the head of a seed, afresh."""
    return load_backbone("minilm", task.num_labels, seed, pooling="cls")


def learn(learner: Learner, task: Task, seed: int, steps: int | None = None) -> MixtureModel:
    """The trained mixture; a single adapter is a mixture of one. Those trained apart have batches of their own."""
    recipe, (model, tokenizer) = replace(SENTENCES, seed=seed, steps=steps or learner.steps), backbone(task, seed)
    if learner.method == "apart":
        mixture, single = apart_soup(model, seed=seed, experts=EXPERTS, blocks=BLOCKS), fitted("single", recipe)
        seeds = range(EXPERTS * seed, EXPERTS * (seed + 1))
        starts = ((seed if learner.one_start else n, replace(single, seed=n)) for n in seeds)
        parts = ((baseline("single", backbone(task, seed)[0], start, blocks=BLOCKS), own) for start, own in starts)
        load_trained(mixture, side_by_side(train_parts(parts, task, tokenizer))["late"])
        return mixture
    recipe = fitted(learner.method, recipe)
    if learner.method == "adamix":
        mixture = attach(model, Bottleneck(16), EXPERTS, learner.share, blocks=BLOCKS, seed=seed, tied=learner.tied)
        recipe = replace(recipe, consistency=replace(recipe.consistency, weight=learner.consistency))
    else:
        mixture = baseline(learner.method, model, seed, blocks=BLOCKS)
    train(mixture, task, tokenizer, recipe, progress=False)
    return mixture


@lru_cache(maxsize=1)
def fresh_rows() -> FixedBatches:
    """The rows to be judged on behind the frozen blocks: the same for every learner and seed."""
    task = sentences("clean", SENTENCE_SEEDS[0])
    model, tokenizer = backbone(task, 0)
    return fix_batches(baseline("single", model, blocks=BLOCKS), task, tokenizer, batch_size=64)


def write_learner(cell: str, name: str, seed: int, steps: int | None, out: Path) -> str:
    """Trains a learner, writes its answers and, of the first seed, its weights (float16, as they answer)."""
    place, start, task = place_of(name, seed, answers_folder(out), cell), time.process_time(), sentences(cell, seed)
    if place.is_file():
        return "already there"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextsCut)  # few rows, and all learners read as much of them
        mixture = learn(learners(cell)[name], task, seed, steps)
        load_rounded(mixture, copies(mixture))
        found = on_batches(replace(fresh_rows(), mixture=mixture, top=cached_prefix(mixture)[0]))
    seconds = round(time.process_time() - start, 1)
    if seed == SENTENCE_SEEDS[0]:
        results = {"merged": float(found.merged_right.mean()), "merged_loss": float(found.merged_loss.mean())}
        results |= {"experts": float(found.right[:, found.fixed].mean()), "routes": float(found.right.mean())}
        notes = {"task": "subjectivity", "backbone": "minilm", "classes": list(task.classes), "learned": cell}
        notes |= {"twin": name, "seed": seed, "results": results, "versions": versions(), "seconds": seconds}
        save(mixture, out / cell / name / f"seed{seed}", notes, dtype=torch.float16)
    told = {"run": name, "learned": cell, "seed": str(seed), "seconds": str(seconds), "device": device_name()}
    write_answers(place, found, told)
    return f"{listed(found)} ({seconds:.0f} s)"


def listed(answers: Answers) -> str:
    """What is printed of answers."""
    return "merged {:.1f}, experts {:.1f}".format(*scores(answers)[:2])


def scores(answers: Answers) -> tuple[float, float, float]:
    """Accuracy of the merge and of the experts, each alone, in percent; the merge's loss."""
    merged, experts = (100 * float(v.mean()) for v in (answers.merged_right, answers.right[:, answers.fixed]))
    return merged, experts, float(answers.merged_loss.mean())


# -- the cards: means with 95 % t-intervals over seeds --------------------------------------------------------------


def card(folder: Path) -> str:
    """The twins' card, from their notes; merge and experts are compared seed by seed."""
    places = itertools.product(TWINS, SEEDS, STAGES)
    notes = {(t, s, g): read_config(folder / t / f"seed{s}" / g)["notes"] for t, s, g in places}
    by_stage = [[name, *(_each(notes, name, "merged", stage=stage) for stage in STAGES)] for name in TWINS]
    return (
        (HERE / "card.md")
        .read_text(encoding="utf-8")
        .format(
            recipe=twin_recipe(Learner(), 0),
            stages=", ".join(f"{stage} ({100 * share:.0f} % of the steps)" for stage, share in STAGES.items()),
            size=sum(p.stat().st_size for name in TWINS for p in (folder / name).rglob("*.safetensors")) / 1e6,
            versions=read_config(folder / "adamix" / "seed0" / "late")["versions"],
            device=notes["adamix", 0, "late"]["device"],
            effects=_lines([_effects(notes, name) for name in TWINS]),
            own=format_interval(_each(notes, "apart", *(f"own-{n}" for n in range(EXPERTS)))),
            by_stage=_lines([[name, *(f"{statistics.fmean(v):.1f}" for v in values)] for name, *values in by_stage]),
        )
    )


def _effects(notes: Mapping[Any, Any], name: str) -> list[str]:
    fixed = _each(notes, name, *(f"fixed-{n}" for n in range(EXPERTS)))
    merged, ensemble, off = (_each(notes, name, strategy) for strategy in ("merged", "ensemble", "off"))
    gaps = [m - f for m, f in zip(merged, fixed, strict=True)]
    seconds = statistics.fmean(notes[name, seed, "late"]["seconds"] for seed in SEEDS)
    return [name, *map(format_interval, (fixed, merged, ensemble, gaps, off)), f"{seconds:.0f}"]


def _each(notes: Mapping[Any, Any], name: str, *strategies: str, stage: str = "late") -> list[float]:
    """Mean accuracy of some strategies in percent, a seed each."""
    results = [notes[name, seed, stage]["results"] for seed in SEEDS]
    return [statistics.fmean(100 * own[strategy]["accuracy"] for strategy in strategies) for own in results]


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def sentences_card() -> str:
    """The learners' card, from the answers of the seeds that are there."""
    what, tables = yaml.safe_load((HERE / "sentences.yaml").read_text(encoding="utf-8")), {}
    for cell in CELLS:
        rows = []
        for name in learners(cell):
            places = (place_of(name, seed, data=cell) for seed in SENTENCE_SEEDS)
            merged, experts, loss = zip(*(scores(read_answers(p)) for p in places if p.is_file()), strict=True)
            shown = (format_interval(merged), format_interval(loss, 3), format_interval(experts))
            rows.append([name, what[name], str(len(merged)), *shown])
        tables[cell] = _lines(rows)
    text = (HERE / "sentences-card.md").read_text(encoding="utf-8")
    return text.format(recipe=SENTENCES, **tables)


def main(
    what: Annotated[list[str] | None, typer.Argument()] = None,
    seeds: int | None = None,
    steps: int | None = None,
    only: str = "",
    out: Path = HERE,
) -> None:
    """WHAT: twins, answers, noisy, clean (all by default). --seeds: the first so many. --only: one name.

    --steps: fewer, for a trial. --out: another folder, then without cards.
    """
    torch.set_num_threads(1)  # so that digits do not depend on the machine's cores
    names = {"twins": tuple(TWINS), "answers": RUNS, **{cell: tuple(learners(cell)) for cell in CELLS}}
    every = {"twins": SEEDS, "answers": ANSWERED, **dict.fromkeys(CELLS, SENTENCE_SEEDS)}
    for part in what or names:
        for seed, name in itertools.product(every[part][:seeds], [only] if only else names[part]):
            if part in CELLS:
                said = write_learner(part, name, seed, steps, out)
            else:
                said = (write_twin if part == "twins" else write_twin_answers)(name, seed, steps, out)
            print(f"{part}, {name}, seed {seed}: {said}", flush=True)
    if out == HERE:
        write_text(HERE / "README.md", card(HERE))
        write_text(HERE / "sentences.md", sentences_card())


if __name__ == "__main__":
    typer.run(main)
