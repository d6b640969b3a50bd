"""Pictures of landscapes, of the estimates beside what they estimate, and of experts as training goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from adamix_lab.analysis.landscape import Landscape
from adamix_lab.analysis.plots import STYLES, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNITS = {"loss": "loss (nats)", "accuracy": "accuracy", "entropy": "entropy (nats)", "consistency": "distance (nats)"}
TWIN_STYLES = {
    "adamix": STYLES["merged"],
    "no-consistency": STYLES["random"],
    "unshared-tied": STYLES["ensemble"],
    "apart": STYLES["apart"],
}
STAGE_SIZES = {"early": 16, "middle": 40, "late": 80}
Rows = Sequence[Mapping[str, Any]]


def style_of(name: str) -> tuple[str, str]:
    """Colour and marker of a twin, grey for anything else."""
    return TWIN_STYLES.get(name, STYLES["single"])


def plot_landscapes(landscapes: Mapping[str, Landscape], metric: str = "loss") -> Picture:
    """Landscapes of one kind by name: lines on one axis, the rest a panel each on one colour scale.

    Raises ValueError for none, or for several kinds.
    """
    kinds = {landscape.kind for landscape in landscapes.values()}
    if len(kinds) != 1:
        raise ValueError(f"Landscapes of kinds {sorted(kinds)} were given: expected one or more of one kind.")
    return _lines(landscapes, metric) if kinds == {"line"} else _maps(landscapes, metric)


def _lines(landscapes: Mapping[str, Landscape], metric: str) -> Picture:
    figure, (ax,) = panels(1, 7.5, 4.2)
    told = []
    for name, landscape in landscapes.items():
        colour, marker = style_of(name)
        first, second = landscape.references
        t = landscape.axes["t"][: -len(landscape.marks)]
        ax.plot(t, landscape.values(metric), color=colour, label=name)
        ends = [landscape.at(first, metric), landscape.at(second, metric)]
        ax.plot([0, 1], ends, color=colour, marker=marker, linestyle=":", linewidth=1)
        told.append(
            f"{name}: {ends[0]:.3f} at {first}, {ends[1]:.3f} at {second}, barrier {landscape.barrier(metric):.3f}"
        )
    ax.set_xlabel(f"from {first} (0) to {second} (1); dotted: the chord")
    ax.set_ylabel(UNITS[metric])
    ax.legend(frameon=False)
    _quiet(ax)
    return Picture(
        figure,
        f"{metric.capitalize()} along the line from {first} to {second}; barriers above the chord. {'; '.join(told)}.",
    )


def _maps(landscapes: Mapping[str, Landscape], metric: str) -> Picture:
    import numpy as np

    everything = np.concatenate([landscape.values(metric).flatten().numpy() for landscape in landscapes.values()])
    levels = np.linspace(everything.min(), max(float(np.quantile(everything, 0.98)), everything.min() + 1e-6), 21)
    figure, axes = panels(len(landscapes), 4.6 * len(landscapes) + 0.8, 4.4)
    told = []
    for ax, (name, landscape) in zip(axes, landscapes.items(), strict=True):
        x, y = plane_coordinates(landscape)
        number = len(x) - len(landscape.marks)
        values = landscape.values(metric).flatten().numpy()
        drawn = ax.tricontourf(x[:number], y[:number], values, levels=levels, cmap="viridis", extend="max")
        for n, mark in enumerate(landscape.marks):
            ax.plot(x[number + n], y[number + n], marker="o", color="white", markeredgecolor="black", clip_on=False)
            ax.annotate(
                f"{mark}\n{landscape.at(mark, metric):.3f}", (x[number + n], y[number + n]), xytext=(6, 5),
                textcoords="offset points", fontsize=8, annotation_clip=False,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        ax.set_title(name, pad=30 if landscape.kind == "simplex" else 16)
        _name_axes(ax, landscape)
        marks = ", ".join(f"{mark} {landscape.at(mark, metric):.3f}" for mark in landscape.marks)
        told.append(f"{name}: {marks}; over the {number} points {values.min():.3f} to {values.max():.3f}")
    figure.colorbar(drawn, ax=list(axes), label=UNITS[metric], shrink=0.85)
    kind = next(iter(landscapes.values())).kind
    return Picture(
        figure, f"{metric.capitalize()} over a {kind} of adapter space, one colour scale. {'; '.join(told)}."
    )


def plane_coordinates(landscape: Landscape) -> tuple[Tensor, Tensor]:
    """Where points and marks are drawn: the two axes, or the place inside an equilateral triangle.

    Raises ValueError for a tetrahedron: draw slices of it.
    """
    axes = list(landscape.axes.values())
    if landscape.kind != "simplex":
        return axes[0], axes[1]
    if len(axes) != 3:
        raise ValueError("A tetrahedron has no flat picture: expected three vertices. Draw some tetrahedron_slice.")
    return axes[1] + axes[2] / 2, axes[2] * math.sqrt(3) / 2


def _name_axes(ax: Axes, landscape: Landscape) -> None:
    names = {
        "plane": "distance between weights",
        "random plane": "in lengths of each filter",
        "square": "mixing weight",
    }
    if landscape.kind == "simplex":
        ax.set_axis_off()
    else:
        ax.set_xlabel(names[landscape.kind])
    ax.set_aspect("equal")


def plot_curvature(rows: Rows, measures: Sequence[str] = ("top_eigenvalue", "trace", "sharpness")) -> Picture:
    """Curvature at the merge against the gap to the ensemble, a dot a set of experts.

    rows: twin, stage, the measures, measured.
    """
    figure, axes = panels(len(measures), 4.0 * len(measures), 4.0)
    told = []
    for ax, measure in zip(axes, measures, strict=True):
        for twin in dict.fromkeys(str(row["twin"]) for row in rows):
            colour, marker = style_of(twin)
            mine = [row for row in rows if row["twin"] == twin]
            x, y = ([row[key] for row in mine] for key in (measure, "measured"))
            sizes = [STAGE_SIZES.get(str(row["stage"]), 40) for row in mine]
            ax.scatter(x, y, color=colour, marker=marker, s=sizes, alpha=0.8, linewidth=0, label=twin)
        r, rank = correlation(rows, measure, "measured")
        ax.set_title(f"correlation {r:.2f}, of ranks {rank:.2f}", fontsize=10)
        ax.set_xlabel(f"{measure.replace('_', ' ')} at the merge (nats)")
        _quiet(ax)
        told.append(f"{measure.replace('_', ' ')}: correlation {r:.2f}, of ranks {rank:.2f}")
    axes[0].set_ylabel("merge minus ensemble (nats)")
    axes[-1].legend(frameon=False, fontsize=8)
    return Picture(figure, f"Curvature at the merge against the merge's gap, {len(rows)} sets. {'; '.join(told)}.")


def correlation(rows: Rows, first: str = "measured", second: str = "estimate") -> tuple[float, float]:
    """(Pearson's, Spearman's) correlation of two columns."""
    import numpy as np

    columns = [np.array([row[key] for row in rows], dtype=float) for key in (first, second)]
    ranks = [values.argsort().argsort() for values in columns]
    return tuple(float(np.corrcoef(pair[0], pair[1])[0, 1]) for pair in (columns, ranks))  # type: ignore[return-value]


def panels(number: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure that belongs to no window, with so many panels side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, number, squeeze=False)[0])


def fix_margins(figure: Figure, **margins: float) -> None:
    """Panels at fixed margins (as of `Figure.subplots_adjust`), for a picture whose labels keep their size.

    A layout that is computed takes about half of the drawing, and a learner waits for it.
    """
    figure.set_layout_engine(None)
    figure.subplots_adjust(**margins)


def _quiet(ax: Axes) -> None:
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
