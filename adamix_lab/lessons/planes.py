"""Lesson 05: the shipped plane with its origin beside one made now; heights by number averaged; stored pictures."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adamix_lab.analysis.arrays import Landscape, read_landscape
from adamix_lab.analysis.kinds import look_at
from adamix_lab.analysis.pictures_landscapes import draw, draw_curvature, style_of
from adamix_lab.analysis.plots import Picture, new_figure
from adamix_lab.analysis.similarity import expert_similarity
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.core.views import Batch
from adamix_lab.lessons.effects import effects_table
from adamix_lab.lessons.measures_landscape import NAMES
from adamix_lab.lessons.prediction import mark_prediction
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.doctor import device_name
from adamix_lab.training.twins import TWINS, load_twin

COMMAND = "adamix-lab landscape {twin} --kind plane --rows 256 --out data/results/landscape"
ON_A_GPU = "adamix-lab landscape {twin} --kind plane --rows 256 --steps 51 --out data/results/landscape/gpu"
COMMITTED = "committed on 2026-11-21"  # arrays of that day hold no date of their own


@dataclass(frozen=True)
class Shipped:
    """A measured plane and where it comes from, in words."""

    plane: Landscape
    origin: str


def origin_of(plane: Landscape, command: str) -> str:
    """Points, rows, device, date and command of a measured landscape."""
    size = " x ".join(map(str, plane.shape))
    device = plane.notes.get("versions", {}).get("device", plane.notes.get("device", "unknown"))
    date = plane.notes.get("date", COMMITTED)
    return f"{size} points, {plane.rows} rows; device: {device}; date: {date}; command: {command}"


def shipped_plane(twin: str = "adamix", folder: Path | None = None) -> Shipped:
    """The plane measured on a GPU where one is stored, else the one measured on a CPU; its origin says which.

    A GPU's array belongs into `data/results/landscape/gpu`. Raises FileNotFoundError, with the command, for neither.
    """
    folder = folder or data_root() / "results" / "landscape"
    large, small = (place / f"plane-{twin}.safetensors" for place in (folder / "gpu", folder))
    if large.is_file():
        plane = read_landscape(large)
        return Shipped(plane, origin_of(plane, ON_A_GPU.format(twin=twin)))
    command = COMMAND.format(twin=twin)
    if not small.is_file():
        raise FileNotFoundError(f"{small} is not there: expected a measured plane. `{command}` makes it.")
    plane = read_landscape(small)
    none = (
        f"No plane from a GPU is stored (in {folder.name}/gpu): none has been measured. This makes a larger one on a "
        f"GPU: {ON_A_GPU.format(twin=twin)}"
    )
    return Shipped(plane, f"{origin_of(plane, command)}.\n{none}")


def beside_now(twin: str = "adamix", steps: int = 11, rows: int = 64, folder: Path | None = None) -> Picture:
    """The shipped plane and one of the same call made now, on one colour scale; prints where each comes from."""
    shipped = shipped_plane(twin, folder)
    start = time.perf_counter()
    now = look_at(twin, "plane", steps=steps, rows=rows, device="cpu")
    seconds = time.perf_counter() - start
    print(f"Left, shipped: {shipped.origin}.")
    print(f"Right, made now: {steps} x {steps} points, {rows} rows; {device_name()}; {seconds:.0f} s.")
    return draw({f"{twin}, shipped": shipped.plane, f"{twin}, made now": now})


def stored(kind: str, twins: Sequence[str], metric: str = "loss") -> Picture:
    """Shipped landscapes of a kind on one colour scale.

    Raises FileNotFoundError for a missing one, with the command that makes it.
    """
    found = {}
    for twin in twins:
        path = data_root() / "results" / "landscape" / f"{kind}-{twin}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there: expected a measured landscape. `adamix-lab landscape {twin} --kind {kind} "
                "--rows 256 --out data/results/landscape` makes it."
            )
        found[twin] = read_landscape(path)
    return draw(found, metric)


def curvatures() -> Picture:
    """The stored table of curvature at merges, drawn.

    Raises FileNotFoundError where it is missing, with the command that makes it.
    """
    path = data_root() / "results" / "landscape" / "theory.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: expected a study. `adamix-lab theory --out {path.parent}` makes it."
        )
    return draw_curvature(json.loads(path.read_text(encoding="utf-8"))["curvature"])


def likeness(twin: str, batch: Batch, seed: int = 0) -> dict[str, float]:
    """Means over sites and pairs of what `expert_similarity` measures, by side and measure, on a batch."""
    rows = expert_similarity(load_twin(twin, seed)[0], batch)
    names = dict.fromkeys(f"{row['measure']} {row['side']}".strip() for row in rows)
    return {
        name: statistics.fmean(row["value"] for row in rows if f"{row['measure']} {row['side']}".strip() == name)
        for name in names
    }


Heights = dict[str, dict[int, list[float]]]  # twin, number of experts averaged, nats above their mean, one a seed


def heights(rows: Sequence[Mapping[str, str]] | None = None) -> Heights:
    """Read from the rows of lesson 05's effect table; None takes the committed one."""
    rows = effects_table("05", "above their mean loss").rows if rows is None else rows
    by_name = {row["effect"]: [float(value) for value in row["by_seed"].split()] for row in rows}
    return {
        twin: {size: by_name[f"{twin}: {name} above their mean loss"] for size, name in NAMES.items()} for twin in TWINS
    }


def draw_heights(found: Heights, predicted: float | None = None) -> Picture:
    """Height of an average above the mean of its experts, against how many are averaged; each seed a small marker.

    predicted: nats that the learner expects of four adapters trained apart.
    """
    figure, ax = new_figure(7.4, 3.9)
    told = []
    for n, (twin, by_size) in enumerate(found.items()):
        colour, marker = style_of(twin)
        shift = 0.05 * (n - (len(found) - 1) / 2)
        sizes = list(by_size)
        for size, values in by_size.items():
            ax.plot([size + shift] * len(values), values, color=colour, marker=marker, markersize=4, linestyle="none",
                    alpha=0.5)  # fmt: skip
        means = [statistics.fmean(by_size[size]) for size in sizes]
        ax.plot([1, *[size + shift for size in sizes]], [0, *means], color=colour, marker=marker, markersize=9,
                label=twin)  # fmt: skip
        listed = ", ".join(f"{size}: {format_interval(values, 3)}" for size, values in by_size.items())
        told.append(f"{twin} {listed}")
    ax.set_xticks([1, 2, 3, 4])
    ax.set_xlabel("experts averaged")
    ax.set_ylabel("loss above the mean of these experts (nats)")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left", fontsize=9)
    seeds = len(next(iter(next(iter(found.values())).values())))
    alt = (
        f"Height of averaged experts above the mean of their losses in nats, by how many are averaged, mean and 95 % "
        f"interval over {seeds} seeds, each seed a small marker. {'; '.join(told)}."
    )
    return Picture(figure, mark_prediction(ax, alt, predicted, "nats", axis="y"))
