"""The paper's Figures 1, 5 and 7 from results, as far as runs reach, and the tour's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from adamix_lab.analysis.plots import STYLES, Picture, despine, panels
from adamix_lab.experiments.claims import printed_table
from adamix_lab.experiments.contrasts import Contrast, Scores, Side, minus, task_loss

if TYPE_CHECKING:
    from pandas import DataFrame

PANELS = 4
OTHER = ("#666666", "x")
VARIANTS = {
    "adamix": STYLES["merged"],
    "single": STYLES["single"],
    "no consistency": ("#7A3300", ">"),
    "no sharing": ("#8A8F00", "p"),
}
Look = dict[str, float]  # step, loss, accuracy
Point = tuple[str, float, float]  # name, millions of parameters, score


def style(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant: AdaMix's is the merge's, as everywhere."""
    return VARIANTS.get(variant.lower().removesuffix(" adapter"), OTHER)


# -- from results: a picture, or None where they do not reach ----------------------------------------------


def figure_1(scores: Scores) -> Picture | None:
    """Mean score against stored parameters, over the tasks that AdaMix ran on."""
    table, plain = scores.results.table, Contrast(())
    tasks = [task for task in scores.tasks() if scores.by_seed(task, Side("AdaMix"), plain, "steps")]
    ours: list[Point] = []
    for variant in dict.fromkeys(table.loc[(table["compute"] == "steps") & (table["examples"] == 0), "variant"]):
        means = [list(scores.by_seed(task, Side(variant), plain, "steps").values()) for task in tasks]
        if means and all(means):
            stored = float(table.loc[table["variant"] == variant, "stored"].median())
            ours.append((variant, stored / 1e6, float(np.mean([np.mean(values) for values in means]))))
    printed = [
        (row["model"], float(row["parameters"].removesuffix("M")), float(row["average"])) for row in printed_table(1)
    ]
    return score_against_parameters(printed, ours, tasks) if len(ours) >= 2 else None


def figure_5(scores: Scores) -> Picture | None:
    """What other ways to answer give beyond the merge, seed by seed."""
    import pandas as pd

    rows = []
    for strategy in ("random", "fixed", "ensemble", "exact"):
        for task in scores.tasks():
            on = scores.on_task(minus(Side("AdaMix", strategy), Side("AdaMix")), task)
            rows += [(task, strategy, seed, difference) for seed, difference in on.by_seed.items()]
    table = pd.DataFrame(rows, columns=["task", "strategy", "seed", "difference"])
    return strategies_by_seed(table) if rows else None


def figure_7(scores: Scores) -> Picture | None:
    """Training losses with and without sharing, of the first tasks that have both."""
    curves, table = scores.results.curves, scores.results.table
    names = [scores.variant(name) for name in ("AdaMix", "no sharing")]
    if curves is None or None in names:
        return None
    runs = table[(table["compute"] == "steps") & (table["examples"] == 0) & table["variant"].isin(names)]
    losses_of = curves[["run", "step"]].assign(loss=curves[task_loss(curves)])
    joined = losses_of.merge(runs.drop_duplicates("run")[["run", "task", "variant"]], on="run")
    both = {
        task: part.sort_values("variant", key=lambda column: column != names[0])
        for task, part in joined.groupby("task", sort=False)
        if part["variant"].nunique() == 2
    }
    return losses(dict(list(both.items())[:PANELS])) if both else None


FIGURES = {1: figure_1, 5: figure_5, 7: figure_7}


# -- drawing ----------------------------------------------------------------------------------------------


def score_against_parameters(printed: Sequence[Point], ours: Sequence[Point], tasks: Sequence[str]) -> Picture:
    """Figure 1: mean score against parameters at inference (millions, logarithmic); the paper's left, ours right."""
    figure, axes = panels(2, 11, 4.6)
    told = []
    titles = ("the paper, Table 1: RoBERTa-large, 8 tasks", f"here: {', '.join(tasks)}")
    for ax, points, title in zip(axes, (printed, ours), titles, strict=True):
        widest = max(parameters for _, parameters, _ in points)
        for name, parameters, score in points:
            colour, marker = style(name)
            shift, side = (-6, "right") if parameters == widest else (6, "left")  # labels stay inside
            ax.plot(parameters, score, color=colour, marker=marker, markersize=8, linestyle="")
            ax.annotate(name, (parameters, score), (shift, 4), textcoords="offset points", ha=side, fontsize=8)
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
    figure, (axes,) = panels(1, max(6.0, 1.6 * len(tasks) + 3), 4.4)
    names = [name for name in ("random", "fixed", "ensemble", "exact") if name in set(table["strategy"])]
    told = []
    for n, name in enumerate(names):
        colour, marker = STYLES[name]
        own = table[table["strategy"] == name]
        places = own["task"].map(tasks.index) + 0.18 * (n - (len(names) - 1) / 2)
        axes.plot(places, own["difference"], color=colour, marker=marker, linestyle="", alpha=0.6, label=name)
        for (task, at), values in own.groupby(["task", places], sort=False)["difference"]:
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
    for ax, (task, table) in zip(axes, curves.items(), strict=True):
        for variant, own in table.groupby("variant", sort=False):
            colour, _ = style(str(variant))
            mean = own.groupby("step")["loss"].mean()
            dashed = "-" if str(variant).lower() == "adamix" else "--"
            ax.plot(mean.index, mean, color=colour, linestyle=dashed, label=str(variant))
            ends = f"{mean.iloc[0]:.3f} at step {mean.index[0]}, {mean.iloc[-1]:.3f} at the last"
            told.append(f"{task}, {variant}: {ends}")
        ax.set(xlabel="step", ylabel="training loss (nats)", title=task)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=8)
    return Picture(figure, "Training loss of the task against steps, mean over seeds: " + "; ".join(told) + ".")


def draw_looks(looks: Mapping[str, Sequence[Look]]) -> Picture:
    """Loss on the training labels as given, and accuracy on other rows' true labels, against steps."""
    figure, axes = panels(2, 10.5, 4.2)
    said = ["Loss on the training labels as given, wrong ones included, and accuracy on true labels, step by step."]
    labels = {"loss": "loss on the training labels as given (nats)", "accuracy": "accuracy on true labels (%)"}
    for (name, own), style in zip(looks.items(), ("single", "merged", "dropout"), strict=True):
        for ax, (what, label) in zip(axes, labels.items(), strict=True):
            colour, marker = STYLES[style]
            ax.plot(*([look[key] for look in own] for key in ("step", what)), color=colour, marker=marker, label=name)
            ax.set(xlabel="step", ylabel=label)
            despine(ax)
        best, last = max(own, key=lambda look: look["accuracy"]), own[-1]
        said.append(
            f"{name[0].upper()}{name[1:]}: the loss goes from {own[0]['loss']:.2f} to {last['loss']:.2f}; the accuracy "
            f"is {best['accuracy']:.1f} % at best, after {best['step']} steps, and {last['accuracy']:.1f} % at the end."
        )
    axes[0].legend(frameon=False)
    return Picture(figure, " ".join(said))
