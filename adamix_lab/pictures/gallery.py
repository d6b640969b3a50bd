"""What the commands `landscape` and `theory` write: arrays, tables, pictures with alt text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adamix_lab.analysis.arrays import METRICS, Landscape
from adamix_lab.analysis.estimates import study
from adamix_lab.analysis.study import KINDS, look_at_all
from adamix_lab.doctor import versions
from adamix_lab.errors import one_of
from adamix_lab.files import write_text
from adamix_lab.pictures.landscapes import draw, draw_curvature, draw_gaps, draw_scales, draw_stages
from adamix_lab.plots import Picture, save_figure


def write_landscapes(
    names: Sequence[str],
    kind: str,
    folder: Path,
    metrics: Sequence[str] = ("loss",),
    say: Callable[[str], None] = print,
    **settings: Any,
) -> dict[str, Landscape]:
    """Evaluates one kind of landscape of several sets of experts and writes an array file each and a picture a metric.

    settings: of `look_at`. A run that was killed goes on when it is called again.
    """
    one_of("kind of landscape", kind, KINDS)
    for metric in metrics:
        one_of("metric", metric, METRICS)
    landscapes = look_at_all(names, kind, folder, say=say, **settings)
    for metric in metrics:
        _write(draw(landscapes, metric), folder / f"{kind}-{metric}.png", say)
    return landscapes


def write_theory(folder: Path, say: Callable[[str], None] = print, **settings: Any) -> dict[str, list[dict[str, Any]]]:
    """Tables of `study` (settings are its own) as `theory.json`, and their pictures."""
    tables = study(say=say, **settings)
    record = {**tables, "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}}
    write_text(folder / "theory.json", json.dumps({**record, "versions": versions()}) + "\n")
    draw_theory(tables, folder, say)
    return tables


def draw_theory(tables: dict[str, list[dict[str, Any]]], folder: Path, say: Callable[[str], None] = print) -> None:
    """The pictures of `study`'s tables, e.g. as read from `theory.json`."""
    _write(draw_gaps(tables["pairs"], tables["barycentres"]), folder / "gaps.png", say)
    _write(draw_scales(tables["scales"]), folder / "scales.png", say)
    _write(draw_stages(tables["stages"]), folder / "stages.png", say)
    _write(draw_curvature(tables["curvature"]), folder / "curvature.png", say)


def _write(picture: Picture, path: Path, say: Callable[[str], None]) -> None:
    save_figure(picture.figure, path, picture.alt)
    say(f"{path}: {picture.alt}")
