"""Pictures: one colour and marker a method everywhere, and an alt text beside each figure.

Functions draw on Axes and return; nothing here shows or closes a figure but `save_figure`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.core.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

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


@dataclass(frozen=True)
class Bar:
    """One line of a comparison: a label, an accuracy with its interval, and the method whose style it takes."""

    label: str
    accuracy: float
    low: float
    high: float
    style: str


def compare(bars: Sequence[Bar], ax: Axes) -> str:
    """Accuracies with 95 % intervals, one a row, best read from the left. Returns the alt text."""
    for n, bar in enumerate(reversed(bars)):
        colour, marker = STYLES[bar.style]
        ax.plot([100 * bar.low, 100 * bar.high], [n, n], color=colour, linewidth=2, alpha=0.5, solid_capstyle="round")
        ax.plot(100 * bar.accuracy, n, color=colour, marker=marker, markersize=9)
        ax.annotate(
            f"{100 * bar.accuracy:.1f}",
            (100 * bar.accuracy, n),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            fontsize=9,
        )
    ax.set_yticks(range(len(bars)), [bar.label for bar in reversed(bars)])
    ax.set_ylim(-0.6, len(bars) - 0.2)
    ax.set_xlabel("accuracy on the evaluation rows (%), with 95 % intervals")
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    listed = "; ".join(
        f"{bar.label} {100 * bar.accuracy:.1f} % ({100 * bar.low:.1f} to {100 * bar.high:.1f})" for bar in bars
    )
    return f"Accuracy with 95 % intervals, a line a model. {listed}."


def new_figure(width: float = 8.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure that belongs to no window and needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def save_figure(figure: Figure, path: Path, alt: str) -> Path:
    """Writes the picture (PNG) and, beside it, its alt text (.txt)."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
    write_text(path.with_suffix(".txt"), alt + "\n")
    return path


class Picture:
    """A figure with an alt text that JupyterLab and exported pages read out: HTML `<img alt>`, PNG and plain text."""

    def __init__(self, figure: Figure, alt: str) -> None:
        self.figure = figure
        self.alt = alt

    def html(self) -> str:
        """The picture as `<img alt=...>` with its data inside."""
        return self._tag(self._encoded())

    def _tag(self, data: str) -> str:
        import html

        return f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{data}"/>'

    def _encoded(self) -> str:
        import base64
        import io

        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        # `savefig` would draw twice, once to lay out; a learner waits for this
        self.figure.set_dpi(100)
        canvas, buffer = FigureCanvasAgg(self.figure), io.BytesIO()
        canvas.draw()
        Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).save(buffer, format="png")
        return base64.b64encode(buffer.getvalue()).decode()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self._encoded(), {"image/png": {"alt": self.alt}}
        return {"text/html": self._tag(data), "image/png": data, "text/plain": self.alt}, metadata


# -- pictures of landscapes, of the estimates beside what they estimate, and of experts as training goes on ----------


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


# -- pictures of random routes: strategies over many draws, and estimates on their way to the exact marginal ---------


SCOPES = {  # strategy: label
    "random-route": "one for all",
    "random": "a batch",
    "random-example": "an example",
    "random-token": "a token",
}
MEASURES = {"accuracy": ("accuracy (%)", 100.0), "loss": ("loss (nats)", 1.0)}


def plot_strategies(table: DataFrame) -> Picture:
    """Violins of the random strategies and of ensembles of K routes, with the merge, experts and exact marginal.

    table: of `calibration.strategy_table`. Ensembles are those that average logits.
    """
    figure, axes = panels(2, 11, 4.6)
    told = [_violins(table, measure, ax) for measure, ax in zip(MEASURES, axes, strict=True)]
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    rows, routes = int(table["rows"].iloc[0]), int(table["routes"].iloc[0])
    alt = f"Violins of inference strategies over draws, {rows} rows, {routes:,} routes. " + " ".join(told)
    return Picture(figure, alt)


def plot_convergence(table: DataFrame, title: str = "") -> Picture:
    """Distance of T-route estimates to the exact marginal and their excess loss, against T, with the merge as a line.

    table: of `posterior.convergence`.
    """
    figure, (left, right) = panels(2, 10.5, 4.3)
    routes, merged = table[table["what"] == "routes"], table[table["what"] == "merged"].iloc[0]
    colour, marker = STYLES["random"]
    left.fill_between(routes["T"], routes["error_low"], routes["error_high"], color=colour, alpha=0.2, linewidth=0)
    left.plot(routes["T"], routes["error"], color=colour, marker=marker, label="T routes: mean, 10 to 90 % of draws")
    line = routes["error"].iloc[0] / routes["T"] ** 0.5
    left.plot(routes["T"], line, color="#444444", linestyle=":", label="one route / sqrt(T)")
    left.plot(routes["T"], routes["bias"], color=colour, linestyle="--", alpha=0.7, label="of the draws' mean (bias)")
    left.axhline(merged["error"], color=STYLES["merged"][0], label="the merge")
    left.set(xscale="log", yscale="log", xlabel="routes T", ylabel="total variation to the exact marginal")
    low, high = routes["loss_bias"] - routes["loss_sd"], routes["loss_bias"] + routes["loss_sd"]
    right.fill_between(routes["T"], low, high, color=colour, alpha=0.2, linewidth=0)
    right.plot(routes["T"], routes["loss_bias"], color=colour, marker=marker, label="loss: mean ± sd of draws")
    right.axhline(merged["loss_bias"], color=STYLES["merged"][0], label="the merge")
    right.axhline(0, color=STYLES["exact"][0], linewidth=0.8, label="exact marginal")
    right.set(xscale="log", xlabel="routes T", ylabel="loss above the exact marginal's (nats)")
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.set_xticks(list(routes["T"]), [str(t) for t in routes["T"]], minor=False)
        ax.minorticks_off()
    legends = {
        label: handle for ax in (left, right) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(legends.values(), legends, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    if title:
        figure.suptitle(title)
    steps = "; ".join(f"T = {t} {error:.4f}" for t, error in zip(routes["T"], routes["error"], strict=True))
    first, last = routes.iloc[0], routes.iloc[-1]
    alt = (
        f"{title + '. ' if title else ''}Total variation between the average over T random routes and the exact "
        f"marginal: {steps}; the merge {merged['error']:.4f}. Beside it the loss above the exact marginal's, "
        f"{first['loss_bias']:+.4f} nats with one route, {last['loss_bias']:+.4f} with {last['T']}, the merge "
        f"{merged['loss_bias']:+.4f}."
    )
    return Picture(figure, alt)


def _violins(table: DataFrame, measure: str, ax: Any) -> str:
    import pandas as pd
    import seaborn

    label, factor = MEASURES[measure]
    scopes = table[table["strategy"].isin(list(SCOPES))]
    ensembles = table[(table["strategy"] == "ensemble") & (table["average"] == "logits")]
    parts = [scopes.assign(where=scopes["strategy"].map(SCOPES), style="random")]
    parts.append(ensembles.assign(where=ensembles["passes"].map("K = {}".format), style="ensemble"))
    data = pd.concat(parts).assign(value=lambda frame: factor * frame[measure])
    palette = {style: STYLES[style][0] for style in ("random", "ensemble")}
    seaborn.violinplot(
        data, x="where", y="value", hue="style", palette=palette, ax=ax, cut=0, inner=None, alpha=0.45, linewidth=0.8,
        density_norm="width", legend=False,
    )  # fmt: skip
    order = list(dict.fromkeys(data["where"]))
    groups = data.groupby("where", sort=False)["value"]
    best = groups.max() if measure == "accuracy" else groups.min()
    ax.scatter(order, groups.mean()[order], color="#222222", marker="_", s=160, label="mean of draws", zorder=3)
    ax.scatter(order, best[order], color="#222222", marker="x", s=28, label="best draw", zorder=3)
    merged = factor * table.loc[table["strategy"] == "merged", measure].iloc[0]
    ax.axhline(merged, color=STYLES["merged"][0], label="merged")
    fixed = factor * table.loc[table["strategy"] == "fixed", measure]
    colour, marker = STYLES["fixed"]
    ax.scatter([order[0]] * len(fixed), fixed, color=colour, marker=marker, s=28, label="each expert", zorder=4)
    whole = table[table["strategy"].isin(["exact", "monte-carlo"]) & (table["average"] == "probabilities")].iloc[0]
    name = "exact marginal" if whole["strategy"] == "exact" else "average of all drawn"
    ax.axhline(factor * whole[measure], color=STYLES["exact"][0], linestyle=":", label=name)
    ax.set(xlabel="random routes: what shares one | ensembles of K", ylabel=label)
    ax.set_xticks(range(len(order)), order, rotation=30, ha="right", rotation_mode="anchor")
    ax.grid(axis="y", alpha=0.3)
    digits = 1 if measure == "accuracy" else 4
    means = "; ".join(
        f"{where} {value:.{digits}f} (best {best[where]:.{digits}f})" for where, value in groups.mean().items()
    )
    return (
        f"{label.capitalize()}, mean of draws: {means}; merged {merged:.{digits}f}; {name} "
        f"{factor * whole[measure]:.{digits}f}."
    )


# -- pictures of uncertainty: calibration, risk against coverage, where it comes from, text from elsewhere -----------


def method_style(method: str) -> tuple[str, str]:
    """(colour, marker) of a method: that of the style its name begins with; routes have that of ensembles."""
    names = {"routes": "ensemble", "exact": "exact"} | {name: name for name in STYLES}
    return STYLES[next((style for start, style in names.items() if method.startswith(start)), "single")]


def plot_reliability(table: DataFrame) -> Picture:
    """Accuracy against confidence, a panel a method; a point's area is its bin's share of the rows.

    table: `calibration.reliability`'s columns and `method`.
    """
    methods = list(dict.fromkeys(table["method"]))
    figure, axes = panels(len(methods), 2.6 * len(methods) + 0.6, 3.2)
    lowest = max(0.0, float(table["confidence"].min()) - 0.05)
    told = []
    for method, ax in zip(methods, axes, strict=True):
        rows, (colour, _) = table[table["method"] == method], method_style(str(method))
        share = rows["count"] / rows["count"].sum()
        ax.plot([0, 1], [0, 1], color="#444444", linestyle=":")
        ax.plot(rows["confidence"], rows["accuracy"], color=colour, alpha=0.4)
        ax.scatter(rows["confidence"], rows["accuracy"], s=20 + 400 * share, color=colour, alpha=0.7)
        ax.set(title=method, xlabel="confidence", xlim=(lowest, 1.03), ylim=(-0.05, 1.05))
        ax.title.set_fontsize(10)
        ax.grid(alpha=0.3)
        told.append(f"{method} {100 * float((share * (rows['accuracy'] - rows['confidence'])).sum()):+.1f} points")
    figure.axes[0].set_ylabel("accuracy (area: share of rows)")
    return Picture(figure, f"Reliability diagrams: accuracy minus confidence, on average, {'; '.join(told)}.")


def plot_risk_coverage(table: DataFrame) -> Picture:
    """The share of wrong answers among the surest rows, a line a method.

    table: `calibration.risk_coverage`'s columns and `method`.
    """
    figure, (ax,) = panels(1, 6, 4.4)
    told = []
    for method, rows in table.groupby("method", sort=False):
        colour, marker = method_style(str(method))
        step = max(1, len(rows) // 8)
        ax.plot(rows["coverage"], 100 * rows["risk"], color=colour, marker=marker, markevery=step, label=method)
        half = rows.iloc[(rows["coverage"] - 0.5).abs().argmin()]
        told.append(f"{method} {100 * half['risk']:.1f} % at half coverage, {100 * rows['risk'].iloc[-1]:.1f} % of all")
    ax.set(xlabel="coverage: share of rows answered, surest first", ylabel="wrong answers (%)")
    ax.legend(frameon=False, fontsize=8)
    ax.grid(alpha=0.3)
    return Picture(figure, f"Risk against coverage. Wrong answers: {'; '.join(told)}.")


def plot_entropy(table: DataFrame) -> Picture:
    """Predictive entropy split into expected entropy and mutual information, a bar a method.

    table: of `calibration.compare_uncertainty`.
    """
    figure, (ax,) = panels(1, 7, 0.5 * len(table) + 1.6)
    names = list(table["method"])[::-1]
    rows = table.set_index("method").loc[names]
    ax.barh(names, rows["expected_entropy"], color="#777777", label="expected entropy of a sample")
    colour = STYLES["ensemble"][0]
    ax.barh(names, rows["mutual_information"], left=rows["expected_entropy"], color=colour, label="mutual information")
    for n, (_, row) in enumerate(rows.iterrows()):
        ax.annotate(f" MI {row['mutual_information']:.4f}", (row["entropy"], n), va="center", fontsize=8)
    ax.set(xlabel="entropy of the prediction (nats), mean over rows", xlim=(0, 1.2 * float(rows["entropy"].max())))
    ax.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    told = "; ".join(
        f"{row['method']} {row['entropy']:.3f} = {row['expected_entropy']:.3f} + {row['mutual_information']:.4f}"
        for _, row in table.iterrows()
    )
    return Picture(figure, f"Predictive entropy in nats, as expected entropy plus mutual information: {told}.")


def plot_inside_outside(table: DataFrame, kind: str = "entropy") -> Picture:
    """How uncertainty is distributed on the task's own rows and on text from elsewhere, a panel a method.

    table: columns method, where ("inside" or "outside") and one by the name of `kind`.
    """
    import seaborn

    methods = list(dict.fromkeys(table["method"]))
    figure, axes = panels(len(methods), 3.2 * len(methods) + 0.6, 3.4)
    colours = {"inside": STYLES["merged"][0], "outside": STYLES["random"][0]}
    dashes = {"inside": "-", "outside": "--"}
    told = []
    for method, ax in zip(methods, axes, strict=True):
        rows = table[table["method"] == method]
        for where, part in rows.groupby("where", sort=False):
            seaborn.ecdfplot(x=part[kind], ax=ax, color=colours[str(where)], linestyle=dashes[str(where)], label=where)
        ax.set(title=method, xlabel=f"{kind.replace('_', ' ')} (nats)", ylabel="share of rows below")
        ax.grid(alpha=0.3)
        medians = rows.groupby("where", sort=False)[kind].median()
        told.append(f"{method}: " + ", ".join(f"median {where} {value:.4f}" for where, value in medians.items()))
    figure.axes[0].legend(frameon=False, fontsize=8)
    return Picture(figure, f"Distribution of the {kind.replace('_', ' ')}. {'; '.join(told)}.")
