"""Lessons 02 and 03: sets of experts side by side, each expert alone, merged, and as an ensemble, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adamix_lab.analysis.plots import STYLES, new_figure
from adamix_lab.analysis.statistics import format_interval
from adamix_lab.lessons.answers import Answers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {"fixed": "an expert alone (mean of 4)", "merged": "merged", "ensemble": "all routes averaged"}


@dataclass(frozen=True)
class Scores:
    """Accuracies in % of one set of experts, one a seed."""

    fixed: tuple[float, ...]
    merged: tuple[float, ...]
    ensemble: tuple[float, ...]

    @property
    def gap(self) -> tuple[float, ...]:
        """Merged minus an expert alone, in points, one a seed."""
        return tuple(m - f for m, f in zip(self.merged, self.fixed, strict=True))


def scores(runs: Sequence[Answers]) -> Scores:
    """The scores of the same experts over seeds."""

    def percent(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(100 * value for value in values)

    return Scores(
        percent([float(a.right[:, a.fixed].mean()) for a in runs]),
        percent([float(a.merged_right.mean()) for a in runs]),
        percent([float((a.routes.exp().mean(1).argmax(-1) == a.labels).float().mean()) for a in runs]),
    )


def draw_scores(sets: Mapping[str, Scores]) -> tuple[Figure, Axes, str]:
    """A group a set: mean over seeds as a large marker, each seed as a small one. Returns the alt text, too."""
    figure, ax = new_figure(8.4, 3.9)
    told = []
    for place, (name, found) in enumerate(sets.items()):
        for n, (kind, label) in enumerate(KINDS.items()):
            values: tuple[float, ...] = getattr(found, kind)
            colour, marker = STYLES[kind]
            x = place + 0.24 * (n - 1)
            ax.plot([x] * len(values), values, linestyle="none", marker=marker, markersize=4, color=colour, alpha=0.5)
            ax.plot(x, statistics.fmean(values), marker=marker, markersize=11, color=colour, linestyle="none",
                    label=label if place == 0 else None)  # fmt: skip
        fixed, merged, ensemble = map(statistics.fmean, (found.fixed, found.merged, found.ensemble))
        told.append(
            f"{name}: alone {fixed:.1f} %, merged {merged:.1f} %, all routes {ensemble:.1f} %, merged minus alone "
            f"{format_interval(found.gap)}"
        )
    ax.set_xticks(range(len(sets)), list(sets))
    ax.set_ylabel("accuracy (%)")
    ax.grid(axis="y", alpha=0.3)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9)  # no marker below it
    seeds = len(next(iter(sets.values())).fixed)
    return (
        figure,
        ax,
        f"Accuracy of sets of experts, mean of {seeds} seeds, each seed a small marker. {'; '.join(told)}.",
    )
