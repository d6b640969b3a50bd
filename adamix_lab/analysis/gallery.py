"""What the command `landscape` writes: arrays, and pictures with alt texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adamix_lab.analysis import plots
from adamix_lab.analysis.kinds import KINDS, look_at_all
from adamix_lab.analysis.landscape import METRICS, Landscape
from adamix_lab.core.errors import one_of


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
        picture, path = plots.plot_landscapes(landscapes, metric), folder / f"{kind}-{metric}.png"
        plots.save_figure(picture.figure, path, picture.alt)
        say(f"{path}: {picture.alt}")
    return landscapes
