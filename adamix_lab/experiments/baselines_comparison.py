"""All baselines on one task, at equal steps and at equal compute, with what each costs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adamix_lab.analysis.statistics import wilson
from adamix_lab.baselines.making import (
    BASELINES,
    EXPERTS,
    Costs,
    Loader,
    baseline,
    costs,
    ensemble,
    fitted,
    known,
    train_apart,
)
from adamix_lab.core.errors import positive
from adamix_lab.core.files import write_text
from adamix_lab.core.model import MixtureModel
from adamix_lab.tasks.backbones import load_backbone
from adamix_lab.tasks.batches import collate, encode
from adamix_lab.tasks.tasks import Task
from adamix_lab.training.doctor import versions
from adamix_lab.training.evaluation import Evaluation, evaluate
from adamix_lab.training.recipe import Recipe
from adamix_lab.training.report import step_operations
from adamix_lab.training.train import train

RATES = (1 / 3, 1.0, 3.0)  # of a baseline's own rate, tried on a slice of the training rows
SUBJECT = "adamix"  # its compute is what the others get
RECIPE = Recipe(steps=300, bucket=1, dev_fraction=0.0, checkpoint_every=0)


@dataclass(frozen=True)
class Setting:
    """What all rows of one table have in common."""

    task: Task
    backbone: str = "minilm"
    recipe: Recipe = RECIPE
    size: int = 16
    experts: int = EXPERTS
    seed: int = 0
    search: bool = True

    @property
    def steps(self) -> int:
        """Optimiser steps of a run at equal steps."""
        return self.recipe.steps or 1

    def load(self) -> tuple[Any, Any]:
        """The backbone with the same head each time, and its tokenizer."""
        return load_backbone(self.backbone, num_labels=self.task.num_labels, seed=self.seed)

    def make(self, name: str) -> tuple[MixtureModel, Any]:
        """A baseline on the fresh backbone, of the common size where it has one, and the tokenizer."""
        model, tokenizer = self.load()
        sized: dict[str, Any] = {}
        if name in ("houlsby", "pfeiffer", "unipelt", "single", "r-drop", "wide", "apart-soup", "adamix"):
            sized["size"] = self.size
        if name in ("wide", "apart-soup", "adamix"):
            sized["experts"] = self.experts
        return baseline(name, model, seed=self.seed, **sized), tokenizer

    def facts(self) -> dict[str, Any]:
        """What decides whether a finished row still belongs to this table."""
        rows = {"task": self.task.name, "train": len(self.task.train), "evaluation": len(self.task.evaluation)}
        common = {"backbone": self.backbone, "size": self.size, "experts": self.experts, "search": self.search}
        return {**rows, **common, "seed": self.seed, "recipe": replace(self.recipe, seed=self.seed).to_dict()}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        budget: "steps": as many steps as all; "compute": as many operations as AdaMix's steps take.
        steps: optimiser steps, over all runs where there are several.
        operations: floating-point operations of the whole training, forward and backward, as PyTorch counts them.
        step_ms: median milliseconds a step; None where there was none.
        trained, stored, inference: see `Costs`.
    """

    name: str
    budget: str
    steps: int
    operations: float
    lr: float
    accuracy: float
    low: float
    high: float
    loss: float
    passes: int
    trained: int
    stored: int
    inference: int
    step_ms: float | None


def compare_baselines(
    setting: Setting,
    out: Path,
    names: Sequence[str] = tuple(BASELINES),
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Trains and measures each baseline at both budgets; writes `out/baselines.json` after each and prints the table.

    A baseline whose rows are there already, of the same setting, is not trained again: a killed run goes on.

    Raises ValueError for an unknown baseline, or a folder with another setting's rows.
    """
    for name in names:
        known(name)
    positive("steps", setting.steps)
    path = out / "baselines.json"
    record = _begun(path, setting)
    model, tokenizer = setting.make(SUBJECT)
    subject = operations(model, SUBJECT, setting, tokenizer)
    for name in names:
        if name in record["rows"]:
            continue
        start = time.perf_counter()
        rows = measure(name, setting, subject)
        record["rows"][name] = [asdict(row) for row in rows]
        write_text(path, json.dumps(record, indent=2) + "\n")
        shown = ", ".join(f"{row.name} {100 * row.accuracy:.1f} % ({row.budget})" for row in rows)
        say(f"{shown}; {time.perf_counter() - start:.0f} s")
    rows = [Row(**row) for name in names for row in record["rows"][name]]
    say("")
    say(table(rows))
    return rows


def _begun(path: Path, setting: Setting) -> dict[str, Any]:
    fresh = {"setting": setting.facts(), "versions": versions(), "rows": {}}
    if not path.is_file():
        return fresh
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["setting"] != json.loads(json.dumps(fresh["setting"])):
        raise ValueError(
            f"{path} holds rows of another setting: expected the same task, backbone and recipe. Name another folder, "
            "or set them as they were to go on."
        )
    return found


def measure(name: str, setting: Setting, subject: int) -> list[Row]:
    """The rows of one baseline. `subject`: operations of one AdaMix step, what equal compute means."""
    lr = best_rate(name, setting) if setting.search else known(name).lr
    model, tokenizer = setting.make(name)
    recipe = replace(fitted(name, setting.recipe), lr=lr, head_lr=lr, seed=setting.seed)
    own = operations(model, "single" if name == "apart-soup" else name, setting, tokenizer)
    runs = setting.experts if name == "apart-soup" else 1
    longer = max(1, round(setting.steps * subject / own / runs))
    rows: list[Row] = []
    count = costs(name, model)
    done: dict[int, tuple[list[tuple[str, Evaluation, Costs]], Clock]] = {}
    for budget, steps in (("steps", setting.steps), ("compute", longer)):
        if steps not in done:  # both budgets are one for AdaMix itself
            clock = Clock()
            results = trained(name, setting, replace(recipe, steps=steps), clock)
            done[steps] = _labelled(name, results, count, runs), clock
        labelled, clock = done[steps]
        work = float(own * steps * runs)
        rows += [_row(*of, budget, steps * runs, work, lr, clock.median) for of in labelled]
    return rows


def trained(name: str, setting: Setting, recipe: Recipe, clock: Clock) -> list[Evaluation]:
    """The evaluation of a baseline after training: merged; of adapters trained apart each alone as well."""
    load: Loader = setting.load
    if name == "apart-soup":
        soup, alone = train_apart(
            load, setting.task, recipe, setting.experts, setting.size, setting.seed, False, clock.tick
        )
        return [*evaluate(soup, setting.task, load()[1], max_length=recipe.max_length), *alone]
    model, tokenizer = setting.make(name)
    train(model, setting.task, tokenizer, recipe, progress=False, on_step=clock.tick)
    return evaluate(model, setting.task, tokenizer, max_length=recipe.max_length)


def _labelled(name: str, results: list[Evaluation], count: Costs, runs: int) -> list[tuple[str, Evaluation, Costs]]:
    if name != "apart-soup":
        return [(name, results[0], count)]
    # each adapter keeps its own head; the soup has one
    merged, alone = results[0], results[1:]
    trained_in_all = runs * count.stored
    kept = Costs(trained_in_all, count.stored, count.inference)
    every = Costs(trained_in_all, trained_in_all, trained_in_all)
    return [
        ("apart-soup", merged, kept),
        ("apart, mean of each alone", _mean(alone), kept),
        ("apart, ensemble", ensemble(alone), every),
    ]


def _mean(alone: list[Evaluation]) -> Evaluation:
    accuracy = statistics.fmean(result.accuracy for result in alone)
    loss = statistics.fmean(result.loss for result in alone)
    return replace(alone[0], accuracy=accuracy, loss=loss)


def _row(
    name: str, result: Evaluation, sizes: Costs, budget: str, steps: int, work: float, lr: float, ms: float | None
) -> Row:
    low, high = wilson(result.accuracy, len(result.labels))
    measured = (result.accuracy, low, high, result.loss, result.passes)
    return Row(name, budget, steps, work, lr, *measured, sizes.trained, sizes.stored, sizes.inference, ms)


def operations(mixture: MixtureModel, name: str, setting: Setting, tokenizer: Any) -> int:
    """Floating-point operations of one step on the first training rows."""
    rows = setting.task.train[: setting.recipe.batch_size]
    batch = collate(encode(rows, setting.task, tokenizer, setting.recipe.max_length), tokenizer.pad_token_id or 0)
    return step_operations(mixture, batch, fitted(name, setting.recipe).consistency)


def best_rate(name: str, setting: Setting) -> float:
    """The best of three rates (head and rest alike), after a quarter of the steps, on a tenth of the training rows."""
    if name == "apart-soup":
        return best_rate("single", setting)
    scores = {}
    for rate in (known(name).lr * factor for factor in RATES):
        model, tokenizer = setting.make(name)
        recipe = fitted(name, setting.recipe)
        recipe = replace(recipe, steps=max(1, setting.steps // 4), lr=rate, head_lr=rate, dev_fraction=0.1)
        recipe = replace(recipe, seed=setting.seed, evaluate_every=recipe.steps)
        best = train(model, setting.task, tokenizer, recipe, progress=False).best
        assert best is not None
        scores[rate] = (best["dev"].get("accuracy", 0.0), -best["dev"]["loss"])
    return max(scores, key=lambda rate: scores[rate])


class Clock:
    """Milliseconds between steps."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.steps: list[float] = []

    def tick(self, step: int) -> None:
        """Called after each step; the first one of a run, which warms up, is left out."""
        now = time.perf_counter()
        if self.last is not None and step > 1:
            self.steps.append(1000 * (now - self.last))
        self.last = now

    @property
    def median(self) -> float | None:
        """The median of all steps; None before the second."""
        return statistics.median(self.steps) if self.steps else None


def table(rows: Sequence[Row]) -> str:
    """The rows as text, a part for each budget: accuracy with its 95 % interval over rows, loss in nats."""
    heads = ("baseline", "accuracy", "95 % interval", "loss", "steps", "lr", "trained", "stored", "at inference", "ms")
    lines = []
    for budget in ("steps", "compute"):
        cells = [_cells(row) for row in rows if row.budget == budget]
        widths = [max(len(line[n]) for line in (heads, *cells)) for n in range(len(heads))]
        title = f"Equal {budget}" + (" (as many operations as AdaMix)" if budget == "compute" else "")
        lines += [title, _line(heads, widths), "-" * len(_line(heads, widths))]
        lines += [_line(line, widths) for line in cells] + [""]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{100 * row.accuracy:.1f} %",
        f"{100 * row.low:.1f} to {100 * row.high:.1f}",
        f"{row.loss:.3f}",
        f"{row.steps:,}",
        f"{row.lr:.2g}",
        f"{row.trained:,}",
        f"{row.stored:,}",
        f"{row.inference:,}",
        "" if row.step_ms is None else f"{row.step_ms:.0f}",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(c.ljust(w) if n == 0 else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True)))
