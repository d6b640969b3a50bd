"""Pictures: one colour and marker a method everywhere, and an alt text beside each figure.

Functions draw on Axes and return; nothing here shows or closes a figure but `save_figure`.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.core.errors import LabError
from adamix_lab.core.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from adamix_lab.analysis.landscape import Landscape

# Okabe and Ito's colours that keep a contrast of 3:1 on white; each goes with a marker of its own.
STYLES: dict[str, tuple[str, str]] = {
    "merged": ("#0072B2", "o"),
    "fixed": ("#009E73", "s"),
    "random": ("#D55E00", "^"),
    "ensemble": ("#AA4499", "D"),
    "single": ("#444444", "v"),
    "probe": ("#777777", "X"),
    "apart": ("#B22222", "P"),
    "exact": ("#000000", "*"),
    "dropout": ("#8B6508", "h"),
}
PREFIXES = {name: name for name in STYLES}
PREFIXES |= {"adamix": "merged", "no-consistency": "random", "unshared-tied": "ensemble", "routes": "ensemble"}
PREFIXES |= {"no-sharing": "ensemble", "aligned": "fixed", "one start": "random", "permuted": "exact"}


def style_of(name: str) -> tuple[str, str]:
    """Colour and marker of a method, a variant or a twin, by what its name begins with; grey for anything else."""
    name = name.lower().replace("no ", "no-")
    return STYLES[next((style for prefix, style in PREFIXES.items() if name.startswith(prefix)), "single")]


# -- figures ---------------------------------------------------------------------------------------------------------


class Picture:
    """A figure with an alt text that JupyterLab and exported pages read out: HTML `<img alt>`, PNG and plain text."""

    def __init__(self, figure: Figure, alt: str) -> None:
        self.figure = figure
        self.alt = alt

    def html(self, data: str | None = None) -> str:
        """The picture as `<img alt=...>` with its data (PNG, base64; None draws it) inside."""
        return f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{data or self._encoded()}"/>'

    _repr_html_ = html

    def _encoded(self) -> str:
        return base64.b64encode(png_of(self.figure)).decode()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self._encoded(), {"image/png": {"alt": self.alt}}
        return {"text/html": self.html(data), "image/png": data, "text/plain": self.alt}, metadata


def png_of(figure: Figure) -> bytes:
    """The figure as PNG; `savefig` would draw twice, once to lay out, and a learner waits for this."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(100)
    canvas, buffer = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).save(buffer, format="png")
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path, alt: str) -> Path:
    """Writes the picture (PNG) and, beside it, its alt text (.txt)."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
    write_text(path.with_suffix(".txt"), alt + "\n")
    return path


def panels(number: int, width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure that belongs to no window, with panels side by side in each row; as a cell's last value it is shown."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure._repr_png_ = partial(png_of, figure)  # type: ignore[attr-defined]  # pyplot, if imported, shows it by itself
    return figure, list(figure.subplots(rows, number, squeeze=False).flat)


def new_figure(width: float = 8.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure of one panel."""
    figure, (ax,) = panels(1, width, height)
    return figure, ax


def fix_margins(figure: Figure, **margins: float) -> None:
    """Panels at fixed margins (as of `Figure.subplots_adjust`), for a picture whose labels keep their size.

    A layout that is computed takes about half of the drawing, and a learner waits for it.
    """
    figure.set_layout_engine(None)
    figure.subplots_adjust(**margins)


def despine(ax: Axes) -> None:
    """A faint grid, and no frame above and to the right."""
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


# -- landscapes ------------------------------------------------------------------------------------------------------

UNITS = {"loss": "loss (nats)", "accuracy": "accuracy", "entropy": "entropy (nats)", "consistency": "distance (nats)"}
AXES = {"plane": "distance between weights", "random plane": "in lengths of each row of weights"}


def plot_landscapes(landscapes: Mapping[str, Landscape], metric: str = "loss") -> Picture:
    """Landscapes of one kind by name: lines on one axis, the rest a panel each on one colour scale.

    Raises ValueError for none, or for several kinds.
    """
    kinds = {landscape.kind for landscape in landscapes.values()}
    if len(kinds) != 1:
        raise LabError(f"Landscapes of kinds {sorted(kinds)} were given: expected one or more of one kind.")
    return _plot_lines(landscapes, metric) if kinds == {"line"} else _plot_maps(landscapes, metric)


def _plot_lines(landscapes: Mapping[str, Landscape], metric: str) -> Picture:
    figure, ax = new_figure(7.5, 4.2)
    parts = []
    for name, landscape in landscapes.items():
        colour, marker = style_of(name)
        first, second = landscape.references
        ends = [landscape.at(first, metric), landscape.at(second, metric)]
        ax.plot(landscape.axes["t"][: -len(landscape.marks)], landscape.values(metric), color=colour, label=name)
        ax.plot([0, 1], ends, color=colour, marker=marker, linestyle=":", linewidth=1)
        values = f"{ends[0]:.3f} at {first}, {ends[1]:.3f} at {second}"
        parts.append(f"{name}: {values}, barrier {landscape.barrier(metric):.3f}")
    ax.set(xlabel=f"from {first} (0) to {second} (1); dotted: the chord", ylabel=UNITS[metric])
    ax.legend(frameon=False)
    despine(ax)
    way = f"{metric.capitalize()} along the line from {first} to {second}"
    return Picture(figure, f"{way}; barriers above the chord. {'; '.join(parts)}.")


def _plot_maps(landscapes: Mapping[str, Landscape], metric: str) -> Picture:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    from adamix_lab.analysis.landscape import plane_coordinates

    values = {name: landscape.values(metric).flatten().numpy() for name, landscape in landscapes.items()}
    everything = np.concatenate(list(values.values()))
    levels = np.linspace(everything.min(), max(float(np.quantile(everything, 0.98)), everything.min() + 1e-6), 21)
    figure, axes = panels(len(landscapes), 4.6 * len(landscapes) + 0.8, 4.4)
    parts = []
    for ax, (name, landscape) in zip(axes, landscapes.items(), strict=True):
        (x, y), height = plane_coordinates(landscape), values[name]
        number, at = len(height), {mark: f"{landscape.at(mark, metric):.3f}" for mark in landscape.marks}
        drawn = ax.tricontourf(x[:number], y[:number], height, levels=levels, cmap="viridis", extend="max")
        ax.plot(x[number:], y[number:], "o", color="white", markeredgecolor="black", clip_on=False)
        for mark, *place in zip(at, x[number:], y[number:], strict=True):
            ax.annotate(
                f"{mark}\n{at[mark]}", tuple(place), (6, 5), textcoords="offset points", fontsize=8,
                annotation_clip=False, bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        ax.set_title(name, pad=30 if landscape.kind == "simplex" else 16)
        ax.set(xlabel=AXES.get(landscape.kind), aspect="equal")
        ax.locator_params(nbins=6)
        if landscape.kind == "simplex":
            ax.set_axis_off()
        marks, spread = ", ".join(map(" ".join, at.items())), f"{height.min():.3f} to {height.max():.3f}"
        parts.append(f"{name}: {marks}; over the {number} points {spread}")
    ticks = [tick for tick in MaxNLocator(6).tick_values(levels[0], levels[-1]) if levels[0] <= tick <= levels[-1]]
    figure.colorbar(drawn, ax=axes, label=UNITS[metric], shrink=0.85, ticks=ticks)
    what = f"{metric.capitalize()} over a {landscape.kind} of adapter space"
    return Picture(figure, f"{what}, one colour scale. {'; '.join(parts)}.")


# -- random routes: estimates on their way to the exact marginal -----------------------------------------------------


def plot_convergence(table: DataFrame, title: str = "") -> Picture:
    """Distance of T-route estimates to the exact marginal and their excess loss, against T, with the merge as a line.

    table: of `posterior.convergence`.
    """
    figure, (left, right) = panels(2, 10.5, 4.3)
    routes, merged = table[table["what"] == "routes"], table[table["what"] == "merged"].iloc[0]
    (colour, marker), sizes = STYLES["random"], routes["T"]
    left.fill_between(sizes, routes["error_low"], routes["error_high"], color=colour, alpha=0.2, linewidth=0)
    left.plot(sizes, routes["error"], color=colour, marker=marker, label="T routes: mean, 10 to 90 % of draws")
    left.plot(sizes, routes["error"].iloc[0] / sizes**0.5, color="#444444", ls=":", label="one route / sqrt(T)")
    left.plot(sizes, routes["bias"], color=colour, linestyle="--", alpha=0.7, label="of the draws' mean (bias)")
    left.axhline(merged["error"], color=STYLES["merged"][0], label="the merge")
    left.set(xscale="log", yscale="log", xlabel="routes T", ylabel="total variation to the exact marginal")
    low, high = routes["loss_bias"] - routes["loss_sd"], routes["loss_bias"] + routes["loss_sd"]
    right.fill_between(sizes, low, high, color=colour, alpha=0.2, linewidth=0)
    right.plot(sizes, routes["loss_bias"], color=colour, marker=marker, label="loss: mean ± sd of draws")
    right.axhline(merged["loss_bias"], color=STYLES["merged"][0], label="the merge")
    right.axhline(0, color=STYLES["exact"][0], linewidth=0.8, label="exact marginal")
    right.set(xscale="log", xlabel="routes T", ylabel="loss above the exact marginal's (nats)")
    legend: dict[Any, Any] = {}
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.set_xticks(list(sizes), [str(t) for t in sizes], minor=False)
        ax.minorticks_off()
        legend |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    if title:
        figure.suptitle(title)
    steps = "; ".join(f"T = {t} {error:.4f}" for t, error in zip(sizes, routes["error"], strict=True))
    first, last = routes.iloc[0], routes.iloc[-1]
    ends = f"{first['loss_bias']:+.4f} nats with one route, {last['loss_bias']:+.4f} with {last['T']}"
    return Picture(
        figure,
        f"{title + '. ' if title else ''}Total variation between the average over T random routes and the exact "
        f"marginal: {steps}; the merge {merged['error']:.4f}. Beside it the loss above the exact marginal's, {ends}, "
        f"the merge {merged['loss_bias']:+.4f}.",
    )


# -- calibration -----------------------------------------------------------------------------------------------------


def plot_reliability(table: DataFrame) -> Picture:
    """Accuracy against confidence, a panel a method; a point's area is its bin's share of the rows.

    table: `calibration.reliability`'s columns and `method`.
    """
    methods = table.groupby("method", sort=False)
    figure, axes = panels(len(methods), 2.6 * len(methods) + 0.6, 3.2)
    lowest = max(0.0, float(table["confidence"].min()) - 0.05)
    parts = []
    for (method, rows), ax in zip(methods, axes, strict=True):
        (colour, _), share = style_of(str(method)), rows["count"] / rows["count"].sum()
        ax.plot([0, 1], [0, 1], color="#444444", linestyle=":")
        ax.plot(rows["confidence"], rows["accuracy"], color=colour, alpha=0.4)
        ax.scatter(rows["confidence"], rows["accuracy"], s=20 + 400 * share, color=colour, alpha=0.7)
        ax.set(xlabel="confidence", xlim=(lowest, 1.03), ylim=(-0.05, 1.05))
        ax.set_title(str(method), fontsize=10)
        ax.grid(alpha=0.3)
        parts.append(f"{method} {100 * float((share * (rows['accuracy'] - rows['confidence'])).sum()):+.1f} points")
    axes[0].set_ylabel("accuracy (area: share of rows)")
    return Picture(figure, f"Reliability diagrams: accuracy minus confidence, on average, {'; '.join(parts)}.")
