"""What the commands `landscape` and `theory` write: arrays, tables, pictures with alt text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adamix_lab.analysis.estimates import Study, Tables, empty_tables, study_set
from adamix_lab.analysis.kinds import KINDS, look_at_all
from adamix_lab.analysis.landscape import METRICS, Landscape
from adamix_lab.analysis.pictures_landscapes import draw, draw_curvature, draw_gaps, draw_scales, draw_stages
from adamix_lab.analysis.plots import Picture, save_figure
from adamix_lab.core.errors import one_of
from adamix_lab.core.files import write_text
from adamix_lab.training.doctor import versions


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


def write_theory(folder: Path, study: Study, say: Callable[[str], None] = print) -> Tables:
    """The tables of a study as `theory.json`, written after every set of experts, and their pictures.

    A run that was killed goes on after the last set that is there. Raises ValueError where the file is another
    study's.
    """
    path = folder / "theory.json"
    asked = json.loads(json.dumps(asdict(study)))
    record = {"study": asked, "done": [], **empty_tables()}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["study"] != asked:
            raise ValueError(
                f"{path} holds another study ({record['study']}): expected {asked}. Choose another folder, or "
                "delete it."
            )
    for place in study.sets():
        if place in record["done"]:
            continue
        found = study_set(study, place)
        for name, rows in found.items():
            record[name] += rows
        record["done"].append(place)
        write_text(path, json.dumps({**record, "versions": versions()}) + "\n")
        told = "{twin}, seed {seed}, {stage}: merge - ensemble {measured:.4f}, estimated {estimate:.4f} nats"
        say(told.format(**found["barycentres"][0]))
    tables = {name: record[name] for name in empty_tables()}
    draw_theory(tables, folder, say)
    return tables


def draw_theory(tables: Tables, folder: Path, say: Callable[[str], None] = print) -> None:
    """The pictures of a study's tables, e.g. as read from `theory.json`."""
    _write(draw_gaps(tables["pairs"], tables["barycentres"]), folder / "gaps.png", say)
    _write(draw_scales(tables["scales"]), folder / "scales.png", say)
    _write(draw_stages(tables["stages"]), folder / "stages.png", say)
    _write(draw_curvature(tables["curvature"]), folder / "curvature.png", say)


def _write(picture: Picture, path: Path, say: Callable[[str], None]) -> None:
    save_figure(picture.figure, path, picture.alt)
    say(f"{path}: {picture.alt}")
