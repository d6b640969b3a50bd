"""The paper's Figures 5 and 7 from results, each None where runs do not reach, and the tour's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adamix_lab.analysis.plots import STYLES, Picture, despine, panels, style_of
from adamix_lab.experiments.contrasts import Scores, Side, minus, task_loss

PANELS = 4
Look = dict[str, float]  # step, loss, accuracy


def figure_5(scores: Scores) -> Picture | None:
    """What random routing, one expert and the ensemble give beyond the merge (points), a dot a seed, by task."""
    strategies, told = ("random", "fixed", "ensemble", "exact"), []
    found = {
        (strategy, task): list(on.by_seed.values())
        for strategy in strategies
        for task in scores.tasks()
        if (on := scores.on_task(minus(Side("AdaMix", strategy), Side("AdaMix")), task)).by_seed
    }
    if not found:
        return None
    tasks = list(dict.fromkeys(task for _, task in found))
    figure, (axes,) = panels(1, max(6.0, 1.6 * len(tasks) + 3), 4.4)
    for (strategy, task), values in found.items():
        (colour, marker), place = STYLES[strategy], tasks.index(task) + 0.18 * strategies.index(strategy) - 0.27
        label = strategy if strategy not in axes.get_legend_handles_labels()[1] else None
        axes.plot([place] * len(values), values, color=colour, marker=marker, linestyle="", alpha=0.6, label=label)
        axes.plot([place - 0.06, place + 0.06], [np.mean(values)] * 2, color=colour, linewidth=2)
        told.append(f"{task}, {strategy} {np.mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})")
    axes.axhline(0, color=STYLES["merged"][0], label="merged")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("points beyond the merge")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    return Picture(figure, "Points beyond the merge, a dot a seed, mean and range: " + "; ".join(told) + ".")


def figure_7(scores: Scores) -> Picture | None:
    """Training losses with and without sharing, mean over seeds, of the first tasks that have both."""
    curves, table = scores.results.curves, scores.results.table
    names = [scores.variant(name) for name in ("AdaMix", "no sharing")]
    if curves is None or None in names:
        return None
    runs = table[(table["compute"] == "steps") & (table["examples"] == 0) & table["variant"].isin(names)]
    joined = curves.merge(runs.drop_duplicates("run")[["run", "task", "variant"]], on="run")
    means = joined.groupby(["task", "variant", "step"])[task_loss(curves)].mean()
    shown = [task for task in joined["task"].unique() if means[task].index.unique("variant").size == 2][:PANELS]
    if not shown:
        return None
    told = []
    figure, axes = panels(len(shown), 4.2 * len(shown) + 1.5, 4.0)
    for ax, task in zip(axes, shown, strict=True):
        for variant, line in zip(names, "- --".split(), strict=True):
            mean = means[task, variant]
            ax.plot(mean.index, mean, color=style_of(str(variant))[0], linestyle=line, label=str(variant))
            ends = f"{mean.iloc[0]:.3f} at step {mean.index[0]}, {mean.iloc[-1]:.3f} at the last"
            told.append(f"{task}, {variant}: {ends}")
        ax.set(xlabel="step", ylabel="training loss (nats)", title=task)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=8)
    return Picture(figure, "Training loss of the task against steps, mean over seeds: " + "; ".join(told) + ".")


FIGURES = {5: figure_5, 7: figure_7}


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
