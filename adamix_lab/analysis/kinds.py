"""Shipped or saved experts looked at: their landscapes, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from adamix_lab.analysis.landscape import Landscape, evaluate_points, task_batches
from adamix_lab.analysis.points import Point, Points, experts_of, line, plane, point_of, random_plane, simplex, square
from adamix_lab.core.errors import one_of, unknown
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.routing import generator_for
from adamix_lab.tasks.tasks import load_task
from adamix_lab.training.shipped import STAGES, TWINS, load_saved, load_twin

STEPS = {"line": 41, "plane": 21, "random": 21, "triangle": 10, "square": 11, "stages": 21}
KINDS = {
    "line": "from expert 0 to expert 1",
    "plane": "through experts 0 and 1 and the merge",
    "random": "two random, filter-normalised directions around the merge",
    "triangle": "mixtures of experts 0, 1 and 2",
    "square": "mixtures of experts 0, 1, 2 and 3; the merge in the middle",
    "stages": "through the merges after 10, 40 and 100 % of the training (shipped experts)",
}


def points_of_kind(
    kind: str, mixture: MixtureModel, steps: int | None = None, seed: int = 0, stages: dict[str, Point] | None = None
) -> Points:
    """The points of one of the KINDS; `stages` holds three checkpoints by name for the kind of that name.

    Raises ValueError for an unknown kind, too few experts, or no checkpoints.
    """
    one_of("kind of landscape", kind, KINDS)
    steps, merged = steps or STEPS[kind], {"merged": point_of(mixture)}
    if kind == "stages":
        if not stages:
            raise ValueError('The kind "stages" needs checkpoints: expected shipped experts (a twin), which have them.')
        return plane(stages, steps)
    if kind == "random":
        return random_plane(merged, generator_for(seed), steps)
    if kind == "line":
        return line(experts_of(mixture, 2), steps, beyond=0.25)
    if kind == "plane":
        return plane({**experts_of(mixture, 2), **merged}, steps)
    return simplex(experts_of(mixture, 3), steps) if kind == "triangle" else square(experts_of(mixture, 4), steps)


def place_for(device: str | None) -> str:
    """The device asked for; without one, a GPU if there is one. Raises ValueError for a GPU that is not there."""
    there = torch.cuda.is_available()
    if device and device.startswith("cuda") and not there:
        raise ValueError(
            f"device = {device!r}: expected a GPU that PyTorch can use, and there is none here. Leave `device` out: "
            "the CPU computes the same, with fewer steps in the same time."
        )
    return device or ("cuda" if there else "cpu")


def look_at(
    name: str,
    kind: str = "plane",
    seed: int = 0,
    stage: str = "late",
    steps: int | None = None,
    rows: int | None = None,
    batch_size: int = 64,
    dtype: str = "float32",
    device: str | None = None,
    store: Path | None = None,
    say: Callable[[str], None] = print,
) -> Landscape:
    """The landscape of a shipped twin, or of a saved folder, on the first rows of its task's evaluation set.

    Args:
        name: of a twin, or a folder that `save` wrote.
        kind: one of KINDS.
        seed: of the twin, and of random directions.
        stage: of the twin's training.
        steps: points along an axis.
        rows: of the evaluation set; None takes all.
        batch_size: rows a pass.
        dtype: "float32" or "bfloat16".
        device: None takes a GPU if there is one.
        store: see `evaluate_points`.
        say: told about resuming and halving.

    Raises ValueError for unknown names and a GPU that is not there, FileNotFoundError for other things missing.
    """
    one_of("dtype", dtype, ("float32", "bfloat16"))
    place = place_for(device)
    stages = None
    if name in TWINS:
        mixture, tokenizer = load_twin(name, seed, stage)
        task = load_task("aspects")
        if kind == "stages":
            stages = {at: point_of(load_twin(name, seed, at)[0]) for at in STAGES}
    elif Path(name).is_dir():
        mixture, tokenizer, config = load_saved(Path(name))
        task = load_task(config["notes"].get("source") or config["notes"].get("task", "aspects"))
    else:
        raise unknown("Twin, or folder,", name, TWINS)
    points = points_of_kind(kind, mixture, steps, seed, stages)
    mixture = mixture.to(place, getattr(torch, dtype))
    batches = task_batches(task, tokenizer, rows, batch_size)
    return evaluate_points(mixture, points, batches, store, seed=seed, say=say)


def look_at_all(names: Sequence[str], kind: str, folder: Path, **settings: Any) -> dict[str, Landscape]:
    """The same kind for several, each in a file of its own: `<kind>-<name>.safetensors`."""
    return {
        name: look_at(name, kind, store=folder / f"{kind}-{Path(name).name}.safetensors", **settings) for name in names
    }
