"""Lesson 00: the adapters' strength, from 0 (the frozen model) to 1 (as trained), and a sentence of the learner's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adamix_lab.analysis.landscape import task_batches
from adamix_lab.analysis.plots import STYLES, Picture, new_figure
from adamix_lab.analysis.points import inputs_of, try_cached_prefix
from adamix_lab.analysis.statistics import wilson
from adamix_lab.core.errors import LabError
from adamix_lab.core.mixture import evaluating
from adamix_lab.fast.blocks import cut_last_block
from adamix_lab.lessons.widgets import Explorer, Number, View, Words
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.tasks import Task

STRENGTHS = tuple(n / 10 for n in range(11))
SENTENCE = "food : we found the food lovely, whereas the film was awful."


def at_strength(mixture: MixtureModel, strength: float) -> Mapping[str, Mapping[str, Tensor]]:
    """The merged weights of each site, the way up scaled by the strength: a selection for the model."""
    points = {}
    for path, layer in mixture.sites.items():
        merged = layer.weights(None)
        points[path] = {name: w * strength if name.startswith("up") else w for name, w in merged.items()}
    return points


def accuracies(mixture: MixtureModel, task: Task, tokenizer: Any, rows: int = 256) -> list[float]:
    """The share of the first evaluation rows answered rightly at each of STRENGTHS."""
    right, seen = [0.0] * len(STRENGTHS), 0
    with torch.no_grad(), evaluating(mixture):
        top, cache = try_cached_prefix(mixture)
        for batch in task_batches(task, tokenizer, rows):
            cached = cache(batch)
            seen += len(batch["labels"])
            for n, strength in enumerate(STRENGTHS):
                inputs = inputs_of(top, cached)
                with cut_last_block(top.model, inputs):
                    logits = top(selection=at_strength(top, strength), **inputs).logits
                right[n] += float((logits.argmax(-1) == batch["labels"]).sum())
    return [count / seen for count in right]


@dataclass(frozen=True)
class Dialled:
    """A strength, what the sentence gets there, and the accuracies at all strengths."""

    strength: float
    probabilities: Tensor  # [C]
    classes: tuple[str, ...]
    accuracies: Sequence[float]
    rows: int


def dialled(
    mixture: MixtureModel, tokenizer: Any, classes: Sequence[str], curve: Sequence[float], rows: int,
    strength: float, sentence: str,
) -> Dialled:  # fmt: skip
    """The sentence's class probabilities at a strength. Raises ValueError for a strength between the measured ones."""
    if not any(abs(strength - known) < 1e-6 for known in STRENGTHS):
        raise LabError(f"Strength {strength:g} was not measured: expected a multiple of 0.1 from 0 to 1.")
    batch = tokenizer([sentence], return_tensors="pt", truncation=True, max_length=128)
    with torch.no_grad(), evaluating(mixture):
        probabilities = mixture(selection=at_strength(mixture, strength), **batch).logits.softmax(-1)[0]
    return Dialled(strength, probabilities, tuple(classes), curve, rows)


def draw_strength(state: Dialled) -> View:
    """Accuracy against strength; the readout says what the sentence gets."""
    at = min(range(len(STRENGTHS)), key=lambda n: abs(STRENGTHS[n] - state.strength))
    colour, marker = STYLES["merged"]
    figure, ax = new_figure(6.4, 3.2)
    percent = [100 * a for a in state.accuracies]
    ax.plot(STRENGTHS, percent, marker=marker, color=colour)
    ax.plot(STRENGTHS[at], percent[at], marker="X", markersize=14, color="#D55E00", markeredgecolor="white")
    ax.set(xlabel="strength of the adapters", ylabel=f"accuracy on {state.rows} rows (%)")
    ax.grid(alpha=0.3)
    low, high = (100 * share for share in wilson(state.accuracies[at], state.rows))
    best = int(state.probabilities.argmax())
    readout = (
        f"Strength {state.strength:.1f}: {percent[at]:.1f} % of {state.rows} rows right (95 % interval {low:.0f} to "
        f"{high:.0f}). Your sentence: {state.classes[best]}, {100 * float(state.probabilities[best]):.1f} %."
    )
    told = ", ".join(f"{s:.1f}: {p:.0f} %" for s, p in zip(STRENGTHS, percent, strict=True))
    alt = f"Accuracy against the strength of the adapters; {state.strength:.1f} is chosen. {told}."
    return View(readout, Picture(figure, alt))


def strength_dial(mixture: MixtureModel, task: Task, tokenizer: Any, rows: int = 256) -> Explorer:
    """The widget of lesson 00."""
    curve = accuracies(mixture, task, tokenizer, rows)
    goal = 0.9 * max(curve)
    return Explorer(
        "Adapter strength",
        f"Find the smallest strength with more than {100 * goal:.0f} % right. Then type a sentence of your own.",
        [Number("strength", "strength", 0.0, 1.0, 0.1, 0.0), Words("sentence", "sentence", SENTENCE)],
        partial(dialled, mixture, tokenizer, task.classes, curve, min(rows, len(task.evaluation))),
        draw_strength,
        shown={"strength": 1.0, "sentence": SENTENCE},
    )
