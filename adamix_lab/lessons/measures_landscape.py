"""Lesson 05's measures: heights above the mean of the experts, and what random directions show of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from adamix_lab.lessons.effects import Measure
from adamix_lab.lessons.landscape import NAMES, Faces, load_faces
from adamix_lab.training.shipped import TWINS

Score = Callable[[Faces], Tensor]  # [rows]


def height(found: Faces, size: int) -> Tensor:
    """Mean over groups of so many experts, `[rows]`, in nats."""
    return found.height(size).mean(1)


def chosen_pair(found: Faces, highest: bool) -> Tensor:
    """The height of the pair that half of the rows find highest (or lowest), on the other half, `[rows / 2]`."""
    heights = found.height(2)
    first = torch.arange(len(heights)) % 2 == 0
    means = heights[first].mean(0)
    return heights[~first, int(means.argmax() if highest else means.argmin())]


def four_above_lowest(found: Faces) -> Tensor:
    """All four's height less that of the pair that half of the rows find lowest, on the other half, `[rows / 2]`."""
    return height(found, 4)[1::2] - chosen_pair(found, highest=False)


def on(twin: str, score: Score) -> Measure:
    """A score of one twin."""
    return lambda seed: score(load_faces(twin, seed))


def between(first: str, second: str, score: Score) -> Measure:
    """A score of one twin minus that of another, row by row."""
    return lambda seed: score(load_faces(first, seed)) - score(load_faces(second, seed))


def landscapes() -> dict[str, tuple[str, Measure]]:
    """Lesson 05."""
    measures: dict[str, tuple[str, Measure]] = {}
    for twin in TWINS:
        for size, name in NAMES.items():
            measures[f"{twin}: {name} above their mean loss"] = ("nats", on(twin, partial(height, size=size)))
        measures[f"{twin}: the middle of all four above that of two"] = (
            "nats", on(twin, lambda found: height(found, 4) - height(found, 2)))  # fmt: skip
        for highest, name in ((True, "highest"), (False, "lowest")):
            measures[f"{twin}: the {name} of six pairs, its middle above the chord"] = (
                "nats", on(twin, partial(chosen_pair, highest=highest)))  # fmt: skip
        measures[f"{twin}: the middle of all four above the lowest of six pairs"] = (
            "nats", on(twin, four_above_lowest))  # fmt: skip
    for twin in ("no-consistency", "unshared-tied", "apart"):
        for size, name in NAMES.items():
            measures[f"{name} above their mean loss: {twin} minus AdaMix"] = (
                "nats", between(twin, "adamix", partial(height, size=size)))  # fmt: skip
    for twin in TWINS:
        measures[f"{twin}: rise in a random direction, as far as the middle of two"] = (
            "nats", on(twin, lambda found: found.random_rise().mean(1)))  # fmt: skip
        measures[f"{twin}: rise toward another expert minus in a random direction, as far"] = (
            "nats", on(twin, lambda found: found.toward_rise().mean(1) - found.random_rise().mean(1)))  # fmt: skip
    return measures
