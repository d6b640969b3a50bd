"""Pictures of uncertainty: calibration, risk against coverage, where it comes from, text from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adamix_lab.analysis.pictures_landscapes import panels
from adamix_lab.analysis.plots import STYLES, Picture

if TYPE_CHECKING:
    from pandas import DataFrame


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
