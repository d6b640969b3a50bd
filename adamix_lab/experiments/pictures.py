"""Pictures of results: the paper's Figures 1, 5 and 7, as far as runs reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adamix_lab.analysis.pictures_routes import panels
from adamix_lab.analysis.plots import STYLES, Picture

if TYPE_CHECKING:
    from pandas import DataFrame

OTHER = ("#666666", "x")
VARIANTS = {
    "adamix": STYLES["merged"],
    "single": STYLES["single"],
    "no consistency": ("#7A3300", ">"),
    "no sharing": ("#8A8F00", "p"),
}
Point = tuple[str, float, float]  # name, millions of parameters, score


def score_against_parameters(printed: Sequence[Point], ours: Sequence[Point], tasks: Sequence[str]) -> Picture:
    """Figure 1: mean score against parameters at inference (millions, logarithmic); the paper's left, ours right."""
    figure, axes = panels(2, 11, 4.6)
    told = []
    for ax, points, title in zip(
        axes,
        (printed, ours),
        ("the paper, Table 1: RoBERTa-large, 8 tasks", f"here: {', '.join(tasks)}"),
        strict=True,
    ):
        widest = max(parameters for _, parameters, _ in points)
        for name, parameters, score in points:
            colour, marker = style(name)
            place = (-6, "right") if parameters == widest else (6, "left")  # labels stay inside
            ax.plot(parameters, score, color=colour, marker=marker, markersize=8, linestyle="")
            ax.annotate(
                name, (parameters, score), textcoords="offset points", xytext=(place[0], 4), ha=place[1], fontsize=8
            )
        ax.set(xscale="log", xlabel="parameters that tuning stores (millions)", ylabel="mean score")
        ax.set_title(title, fontsize=10)
        ax.margins(x=0.25, y=0.15)
        ax.grid(alpha=0.3)
        told.append("; ".join(f"{name} {score:.1f} with {size:.3g} million" for name, size, score in points))
    return Picture(figure, f"Mean score against stored parameters. In the paper: {told[0]}. Here: {told[1]}.")


def strategies_by_seed(table: DataFrame) -> Picture:
    """Figure 5: what random routing, one expert and the ensemble give beyond the merge, a dot a seed, by task.

    table: columns task, strategy, seed, difference (points, strategy minus merged).
    """
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = panels(1, max(6.0, 1.6 * len(tasks) + 3), 4.4)
    names = [name for name in ("random", "fixed", "ensemble", "exact") if name in set(table["strategy"])]
    told = []
    for n, name in enumerate(names):
        colour, marker = STYLES[name]
        own = table[table["strategy"] == name]
        for place, task in enumerate(tasks):
            values = own.loc[own["task"] == task, "difference"]
            if not len(values):
                continue
            at = place + 0.18 * (n - (len(names) - 1) / 2)
            first = name not in {line.get_label() for line in axes.lines}
            axes.plot(
                [at] * len(values), values, color=colour, marker=marker, linestyle="", alpha=0.6,
                label=name if first else None,
            )  # fmt: skip
            axes.plot([at - 0.06, at + 0.06], [values.mean()] * 2, color=colour, linewidth=2)
            told.append(f"{task}, {name} {values.mean():+.2f} ({values.min():+.2f} to {values.max():+.2f})")
    axes.axhline(0, color=STYLES["merged"][0], label="merged")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("points beyond the merge")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    return Picture(figure, "Points beyond the merge, a dot a seed, mean and range: " + "; ".join(told) + ".")


def losses(curves: Mapping[str, DataFrame]) -> Picture:
    """Figure 7: training loss of the task against steps with and without sharing, mean over seeds, a panel a task.

    curves: by task, columns variant, step, loss (one row a run and step).
    """
    figure, axes = panels(len(curves), 4.2 * len(curves) + 1.5, 4.0)
    told = []
    for ax, (task, table) in zip(_flat(axes), curves.items(), strict=True):
        for variant, own in table.groupby("variant", sort=False):
            colour, _ = style(str(variant))
            mean = own.groupby("step")["loss"].mean()
            dashed = "-" if str(variant).lower() == "adamix" else "--"
            ax.plot(mean.index, mean, color=colour, linestyle=dashed, label=str(variant))
            told.append(
                f"{task}, {variant}: {mean.iloc[0]:.3f} at step {mean.index[0]}, {mean.iloc[-1]:.3f} at the last"
            )
        ax.set(xlabel="step", ylabel="training loss (nats)", title=task)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=8)
    return Picture(figure, "Training loss of the task against steps, mean over seeds: " + "; ".join(told) + ".")


def style(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant: AdaMix's is the merge's, as everywhere."""
    return VARIANTS.get(variant.lower().removesuffix(" adapter"), OTHER)


def _flat(axes: Any) -> list[Any]:
    return list(axes.flatten()) if hasattr(axes, "flatten") else [axes]
