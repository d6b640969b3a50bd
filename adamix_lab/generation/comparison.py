"""The generation table: variants trained on one task, decoded, scored; each kept when it is done, so a run resumes."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from adamix_lab.baselines.making import baseline
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.errors import LabError, one_of, positive
from adamix_lab.core.files import CONFIG, alone, read_json, told, write_text
from adamix_lab.core.merging import merge
from adamix_lab.core.routing import generator_for
from adamix_lab.generation.decoding import Decoding, a_route_each, generate_texts, one_route, search, selection_of, trim
from adamix_lab.generation.scores import score, table
from adamix_lab.generation.tasks import METHODS, GenerationTask
from adamix_lab.generation.training import check_decoder, prompts, separators, train_generator
from adamix_lab.models.model import MixtureModel, attach
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import TextsCut
from adamix_lab.tasks.tasks import data_root, rows_digest
from adamix_lab.training.doctor import versions
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import save
from adamix_lab.training.shipped import load_saved


@dataclass(frozen=True)
class Settings:
    """How the variants are trained and decoded; the defaults are the authors' for GPT-2.

    Attributes:
        recipe: of every variant; those with one module take one view. `head_lr` is full fine-tuning's rate.
        decoding: beam search.
        experts: M of AdaMix.
        rank: of LoRA; its scale is alpha / rank.
        alpha: of LoRA.
        dropout: of LoRA's input.
        size: of the bottleneck.
    """

    recipe: Recipe
    decoding: Decoding
    experts: int = 8
    rank: int = 4
    alpha: float = 32.0
    dropout: float = 0.1
    size: int = 8


SHOWN = ("frozen", "lora", "adamix-lora", "full")


def attach_method(method: str, model: nn.Module, settings: Settings) -> MixtureModel | None:
    """What trains, on the loaded decoder; None trains nothing."""
    if method == "frozen":
        return None
    if method == "full":
        return baseline("full", model)
    experts, seed = settings.experts, settings.recipe.seed
    if method == "adamix-bottleneck":
        return attach(model, Bottleneck(settings.size), experts, "up", seed=seed)
    lora = LoRA(settings.rank, settings.alpha, settings.dropout)
    if method == "lora":
        return attach(model, lora, 1, seed=seed)
    return attach(model, replace(lora, init="reference"), experts, "B", seed=seed)


def recipe_of(method: str, settings: Settings) -> Recipe:
    """The settings' recipe as a method takes it: two views of several experts, full fine-tuning's own rate."""
    recipe = settings.recipe if method.startswith("adamix") else settings.recipe.with_options(consistency=0.0)
    return replace(recipe, lr=(recipe.head_lr if method == "full" else None) or recipe.lr, head_lr=None)


Record = dict[str, Any]
EXAMPLES = 5


@alone("out")
def compare_generators(
    task: GenerationTask,
    backbone: str,
    settings: Settings,
    out: Path,
    variants: Sequence[str] = SHOWN,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Trains, decodes and scores each variant; prints the table and five examples; returns a record a variant.

    `out/VARIANT.json` is written when a variant is done, and read instead of doing it again; a killed training goes on
    from its checkpoint. `out/results.json` holds all, with settings and versions. Experts are saved in `out/VARIANT`.

    Raises ValueError for an unknown variant, a model that writes no texts, or a folder with results of other settings.
    """
    for name in variants:
        one_of("variant", name, METHODS)
    data: dict[str, Any] = {"pairs": len(task.train), "sources": len(task.evaluation)}
    parts = (task.train, task.label), (task.evaluation, "references")
    data["sha256"] = [rows_digest(rows, (*task.text, column)) for rows, column in parts]
    plain = {**asdict(settings), "recipe": settings.recipe.to_dict()}
    facts = {"task": task.name, "data": data, "backbone": told(backbone), "settings": plain}
    say(
        f"{task.name}: {len(task.train):,} pairs to train on, {len(task.evaluation):,} sources with "
        f"{sum(map(len, task.references)):,} references to be judged on; {backbone}"
    )
    records = []
    for name in variants:
        record = _done(out / f"{name}.json", facts)
        if record is None:
            record = {"variant": name, **facts, **run_variant(name, task, backbone, settings, out / name)}
            write_text(out / f"{name}.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        for line in record["rows"]:
            say(f"{line['title']}: trained {record['seconds']:.0f} s, decoded {line['seconds']:.0f} s")
        records.append(record)
    say("")
    say(report(records, task))
    results = {"task": task.name, "versions": versions(), "variants": records}
    write_text(out / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    say(f"\nWritten to {out}: results.json and a file a variant")
    return records


def run_variant(method: str, task: GenerationTask, backbone: str, settings: Settings, folder: Path) -> Record:
    """One variant: `rows` (a strategy each, with scores and texts), parameters trained, seconds, warnings."""
    from accelerate import PartialState

    model, tokenizer = load_backbone(backbone, kind="generation")
    check_decoder(model, settings.decoding.new_tokens + 1)
    model.to(PartialState().device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        mixture, trained, began = attach_method(method, model, settings), 0, time.perf_counter()
        if mixture is not None:
            trained = sum(p.numel() for p in mixture.parameters() if p.requires_grad)
            recipe = recipe_of(method, settings)
            train_generator(mixture, task, tokenizer, recipe, folder / "run")
            if mixture.sites:
                save(mixture, folder, {"task": task.name, "backbone": told(backbone), "recipe": recipe.to_dict()})
        seconds = time.perf_counter() - began
        strategies = ("merged", "fixed") if method.startswith("adamix") else ("merged",)  # a row of the table each
        rows = [_row(method, strategy, mixture or model, tokenizer, task, settings) for strategy in strategies]
    said = sorted({str(warning.message) for warning in caught if issubclass(warning.category, TextsCut)})
    return {"rows": rows, "trained_parameters": trained, "seconds": seconds, "cut": said, "versions": versions()}


def _row(method: str, strategy: str, model: Any, tokenizer: Any, task: GenerationTask, settings: Settings) -> Record:
    began = time.perf_counter()
    if strategy == "merged" and isinstance(model, MixtureModel) and model.sites:
        model = merge(model)  # what is scored is the one module a site that would be shipped
    texts = generate_texts(model, task.sources, tokenizer, settings.decoding, strategy, settings.recipe.seed)
    shown = {"merged": ", merged", "fixed": ", expert 0 alone"}[strategy] if method.startswith("adamix") else ""
    return {
        "title": METHODS[method] + shown,
        "strategy": strategy,
        "scores": score(texts, task.references),
        "seconds": time.perf_counter() - began,
        "texts": texts,
    }


def report(records: Sequence[Record], task: GenerationTask) -> str:
    """The table of all rows, then examples spread over the evaluation sources."""
    rows = [row for record in records for row in record["rows"]]
    parts = [table([(row["title"], row["scores"]) for row in rows])]
    parts += sorted({line for record in records for line in record["cut"]})
    width = max((len(row["title"]) for row in rows), default=0)
    for n in spread(len(task.evaluation), EXAMPLES):
        lines = [("source", task.sources[n]), ("a reference", task.references[n][0])]
        lines += [(row["title"], row["texts"][n] or "(nothing)") for row in rows]
        parts.append("\n".join(f"{name:{max(width, 11)}}  {text}" for name, text in lines))
    return "\n\n".join(parts)


def spread(rows: int, wanted: int) -> list[int]:
    """So many row numbers at equal distances, chosen before anything is read.

    >>> spread(630, 5)
    [63, 189, 315, 441, 567]
    """
    wanted = min(rows, wanted)
    return [(2 * n + 1) * rows // (2 * wanted) for n in range(wanted)]


def thinned(task: GenerationTask, sources: int | None) -> GenerationTask:
    """The task judged on so many of its sources only, at equal distances; None keeps all."""
    if sources is None:
        return task
    positive("sources", sources)
    return replace(task, evaluation=[task.evaluation[n] for n in spread(len(task.evaluation), sources)])


def _done(path: Path, facts: Record) -> Record | None:
    if not path.is_file():
        return None
    record: Record = read_json(path, "a variant's results. Remove the file.")
    for name, value in json.loads(json.dumps(facts)).items():
        if record.get(name) != value:
            raise LabError(
                f"{path} holds results of another {name}: {json.dumps(record.get(name))[:300]}, expected "
                f"{json.dumps(value)[:300]}. Choose another folder, or remove the old results."
            )
    return record


# -- writers that are shipped: experts on the embedded decoder and the task "notices", and what they wrote ------------
# Each folder `data/generators/adamix/seedN` holds experts (float16; LoRA with a shared B, independent routes,
# consistency 1) and `texts.json`: a text for every evaluation source, by strategy ("random" holds one random route a
# text, "anew" draws a new one for every token); seed 0 has `explored.json`, too: ten sources by route and number of
# beams.

TASK, BACKBONE, EXPERTS, SEEDS = "notices", "books-gpt2", 4, (0, 1, 2)
NEW_TOKENS = 40
ROUTES = (*(f"fixed-{n}" for n in range(EXPERTS)), "anew", "merged")
STRATEGIES = (*ROUTES, "random", "merged, 4 beams")
EXPLORED, BEAMS = 10, (1, 4)  # sources, and numbers of beams, of the explorer
TEXTS, EXPLORED_TEXTS = "texts.json", "explored.json"


def place_of(seed: int = 0, folder: Path | None = None) -> Path:
    """The folder of a writer. Raises FileNotFoundError where nothing lies there."""
    place = (folder or data_root() / "generators") / "adamix" / f"seed{seed}"
    if not (place / CONFIG).is_file():
        raise FileNotFoundError(
            f"{place} holds no experts: expected shipped writers of seeds {SEEDS}. data/generators/make.py makes them."
        )
    return place


def load_writer(seed: int = 0, folder: Path | None = None) -> tuple[MixtureModel, Any]:
    """(mixture in evaluation mode, tokenizer) of shipped experts. Raises as `place_of`."""
    return load_saved(place_of(seed, folder))[:2]


@lru_cache(maxsize=16)
def load_texts(seed: int = 0, folder: Path | None = None, file: str = TEXTS) -> dict[str, Any]:
    """What shipped experts wrote for every evaluation source, by strategy. Raises as `place_of`.

    file: EXPLORED_TEXTS has what ten sources became, by route and number of beams (as text).
    """
    return json.loads((place_of(seed, folder) / file).read_text(encoding="utf-8"))


def write_one(
    mixture: MixtureModel, source: str, tokenizer: Any, strategy: str = "merged", beams: int = 1, seed: int = 0
) -> str:
    """A text for one source by `search`.

    strategy: "merged", "fixed-N", "random" (a route a text) or "anew" (a route each token). seed: of drawn routes.
    """
    (prompt,) = prompts([source], tokenizer, 256 - NEW_TOKENS)
    if strategy == "anew":
        routes = a_route_each(mixture.space, seed)
    else:
        routes = one_route(selection_of(strategy, mixture.space, generator_for(seed), 1))
    found = search(mixture, prompt, separators(tokenizer)[1], routes, beams, new_tokens=NEW_TOKENS)
    return trim(tokenizer.decode(found.tokens), tokenizer)
