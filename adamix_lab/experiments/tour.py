"""The tour: AdaMix trained on the embedded task, beside what it should be compared with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adamix_lab.analysis.plots import Bar, compare, new_figure, save_figure
from adamix_lab.analysis.statistics import paired_interval, wilson
from adamix_lab.baselines.probe import linear_probe
from adamix_lab.core.files import write_text
from adamix_lab.core.merging import merge
from adamix_lab.core.model import MixtureModel
from adamix_lab.fast.prefix import cached_prefix
from adamix_lab.tasks.batches import collate, encode
from adamix_lab.tasks.tasks import Task, load_task
from adamix_lab.training.card import save
from adamix_lab.training.evaluation import Evaluation, evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import parameter_report, step_operations
from adamix_lab.training.shipped import EXPERTS, TWINS, fresh, load_twin, twin_recipe
from adamix_lab.training.train import train

SHOWN = ("merged", "fixed", "random", "ensemble")


@dataclass(frozen=True)
class Line:
    """One line of the table. `trained` and `used` count parameters, head included; the base is not."""

    model: str
    strategy: str
    accuracy: float
    low: float
    high: float
    loss: float
    passes: int
    trained: int
    used: int
    style: str


def run_tour(folder: Path, steps: int | None = None, say: Callable[[str], None] = print) -> list[Line]:
    """Trains, compares, writes table, figure and the trained mixture into a folder; says what to open next."""
    task = load_task("aspects")
    start = time.perf_counter()
    recipe = twin_recipe(TWINS["adamix"], seed=0, steps=steps)  # the shipped experts' recipe
    say(
        f"AdaMix on {len(task.train):,} sentences about aspects ({len(task.evaluation):,} to be judged on), "
        f"MiniLM frozen."
    )
    mixture, tokenizer = _trained("AdaMix (two routed views a step)", EXPERTS, "up", task, recipe, say)
    one_view = replace(recipe, consistency=replace(recipe.consistency, weight=0.0))
    single, _ = _trained("a single adapter, as many steps", 1, None, task, one_view, say)
    ratio = _step(mixture, task, tokenizer, recipe) / _step(single, task, tokenizer, one_view)
    longer = replace(one_view, steps=round(ratio * (recipe.steps or 1)))
    equal, _ = _trained(f"a single adapter, as much compute ({ratio:.2f} times the steps)", 1, None, task, longer, say)
    seconds = time.perf_counter() - start

    each = [*(f"fixed-{n}" for n in range(EXPERTS)), "merged"]
    results = {r.strategy: r for r in evaluate(mixture, task, tokenizer, list(dict.fromkeys([*SHOWN, *each])))}
    alone = evaluate(single, task, tokenizer)[0]
    as_much = evaluate(equal, task, tokenizer)[0]
    apart, _ = load_twin("apart")
    four, ours = evaluate(apart, task, tokenizer, each), [results[name] for name in each]
    probe = linear_probe(fresh(task, 1, None, 0)[0].model, task, tokenizer)

    lines = [
        _line("linear probe, MiniLM frozen", probe, "probe", 0, 0),
        _line("single adapter, equal steps", alone, "single", *_sizes(single)),
        _line("single adapter, equal compute", as_much, "single", *_sizes(equal)),
        *(_line("AdaMix", results[name], name, *_sizes(mixture, name)) for name in SHOWN),
        _mean_line("four adapters trained apart, their mean", four[:-1], *_sizes(apart, "fixed")),
        _line("four adapters trained apart, merged", four[-1], "apart", *_sizes(apart)),
    ]
    say("")
    say(table(lines))
    say("")
    summary = [sentence(results["merged"], as_much, alone), puzzle(ours, four)]
    for text in summary:
        say(text)
    _write(folder, lines, summary, mixture, task, seconds, say)
    return lines


def _trained(
    what: str, experts: int, share: str | None, task: Task, recipe: Recipe, say: Callable[[str], None]
) -> tuple[MixtureModel, Any]:
    mixture, tokenizer = fresh(task, experts, share, seed=0)
    start = time.perf_counter()
    train(mixture, task, tokenizer, recipe)
    say(f"  trained {what}: {recipe.steps} steps, {time.perf_counter() - start:.0f} s")
    return mixture, tokenizer


def _step(mixture: MixtureModel, task: Task, tokenizer: Any, recipe: Recipe) -> int:
    """Operations of one training step on the first rows, above the cached prefix."""
    examples = encode(task.train[: recipe.batch_size], task, tokenizer)
    top, cache = cached_prefix(mixture)
    return step_operations(top, cache(collate(examples, tokenizer.pad_token_id)), recipe.consistency)


def _sizes(mixture: MixtureModel, strategy: str = "merged") -> tuple[int, int]:
    counts = parameter_report(mixture)
    one_module = strategy in ("merged", "fixed")
    return counts.experts + counts.head, (counts.merged if one_module else counts.experts) + counts.head


def _line(model: str, result: Evaluation, style: str, trained: int, used: int) -> Line:
    low, high = wilson(result.accuracy, len(result.labels))
    return Line(model, result.strategy, result.accuracy, low, high, result.loss, result.passes, trained, used, style)


def _mean_line(model: str, results: list[Evaluation], trained: int, used: int) -> Line:
    accuracy = sum(r.accuracy for r in results) / len(results)
    loss = sum(r.loss for r in results) / len(results)
    low, high = wilson(accuracy, len(results[0].labels))
    return Line(model, "fixed, mean", accuracy, low, high, loss, 1, trained, used, "fixed")


def table(lines: list[Line]) -> str:
    """The lines as text: accuracy with its 95 % interval over rows, loss in nats, parameters."""
    heads = ("model", "strategy", "accuracy", "95 % interval", "loss", "passes", "trained", "at inference")
    rows = [
        (
            "" if n and lines[n - 1].model == line.model else line.model,
            line.strategy,
            f"{100 * line.accuracy:.1f} %",
            f"{100 * line.low:.1f} to {100 * line.high:.1f}",
            f"{line.loss:.3f}",
            str(line.passes),
            f"{line.trained:,}",
            f"{line.used:,}",
        )
        for n, line in enumerate(lines)
    ]
    widths = [max(len(row[n]) for row in (heads, *rows)) for n in range(len(heads))]

    def text(row: tuple[str, ...]) -> str:
        cells = [cell.ljust(w) if n < 2 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells)

    return "\n".join([text(heads), "-" * len(text(heads)), *map(text, rows)])


def sentence(merged: Evaluation, as_much: Evaluation, alone: Evaluation) -> str:
    """What the numbers say about AdaMix against the single adapter, whoever wins: paired over rows, one seed."""
    parts = []
    for name, other in (("as many steps", alone), ("as much compute", as_much)):
        found = paired_interval(merged.right, other.right)
        verdict = (
            "which these rows cannot tell from 0"
            if found.low <= 0 <= found.high
            else "more than chance among rows explains"
        )
        points = f"{100 * found.mean:+.1f} ± {100 * found.half_width:.1f} points"
        parts.append(f"{points} against a single adapter with {name} ({verdict})")
    said = "; ".join(parts)
    return f"AdaMix merged answers {100 * merged.accuracy:.1f} % rightly: {said}. One seed: another may differ."


def puzzle(adamix: list[Evaluation], apart: list[Evaluation]) -> str:
    """The puzzle that the lessons solve. Each list: the four experts alone, then their merge."""

    def told(results: list[Evaluation]) -> str:
        mean = sum(result.accuracy for result in results[:-1]) / (len(results) - 1)
        merged = results[-1].accuracy
        return f"{100 * mean:.1f} % on average, merged {100 * merged:.1f} % ({100 * (merged - mean):+.1f} points)"

    return (
        f"The puzzle: four adapters trained apart answer {told(apart)}; AdaMix's experts {told(adamix)}. "
        "What makes adapters fit to be averaged?"
    )


def _write(
    folder: Path,
    lines: list[Line],
    summary: list[str],
    mixture: MixtureModel,
    task: Task,
    seconds: float,
    say: Callable[[str], None],
) -> None:
    from adamix_lab.training.doctor import versions

    figure, ax = new_figure(8.5, 4.8)
    bars = [
        Bar(
            f"{line.model}: {line.strategy}" if line.model == "AdaMix" else line.model,
            line.accuracy,
            line.low,
            line.high,
            line.style,
        )
        for line in lines
    ]
    alt = compare(bars, ax)
    save_figure(figure, folder / "tour.png", alt)
    record = {
        "lines": [asdict(line) for line in lines],
        "summary": summary,
        "training_seconds": seconds,
        "versions": versions(),
    }
    write_text(folder / "tour.json", json.dumps(record, indent=2) + "\n")
    notes = {"task": task.name, "backbone": "minilm", "classes": list(task.classes)}
    save(mixture, folder / "adamix", notes)
    save(merge(mixture), folder / "merged", notes)
    say("")
    say(
        f"Training took {seconds:.0f} s on {torch.get_num_threads()} threads. Written to {folder}: tour.png, "
        f"tour.json, adamix/, merged/"
    )
    say("Next: `make lab` opens the notebooks (begin with 00_tour); or ask the merged model:")
    ask = "film : the staff was lovely, but the film was awful."
    say(f'  python bootstrap.py run -m adamix_lab predict {folder / "merged"} "{ask}"')
