"""Pictures of random routes: strategies over many draws, and estimates on their way to the exact marginal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adamix_lab.analysis.pictures_landscapes import panels
from adamix_lab.analysis.plots import STYLES, Picture

if TYPE_CHECKING:
    from pandas import DataFrame

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
