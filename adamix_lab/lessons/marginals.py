"""Lesson 04: the average over drawn routes on its way to the average over all of them, beside the merge.

The twins have 16 routes, so the exact marginal (Eq. 7) is a mean over what all of them answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adamix_lab.analysis.plots import STYLES, Picture, new_figure
from adamix_lab.analysis.posterior import convergence, distance, marginal, worth
from adamix_lab.analysis.samples import Samples, every_route, fix_batches, merged_sample
from adamix_lab.core.model import load_trained, trained_tensors
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.answers import Answers
from adamix_lab.lessons.widgets import mark_prediction
from adamix_lab.tasks.tasks import data_root, load_task
from adamix_lab.training.twins import load_twin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

DRAWS = 200
ROWS = 124  # of 996: where a model must run
ELSEWHERE = {"sst2-m2": "SST-2, M = 2", "sst2-m4": "SST-2, M = 4", "mrpc-m2": "MRPC, M = 2"}


def samples_of(answers: Answers) -> tuple[Samples, Samples]:
    """(every route, the merge) as `analysis.posterior` takes them."""
    routes = Samples(answers.routes, answers.labels, "routes", exact=True, routes=answers.index)
    return routes, Samples(answers.merged.unsqueeze(1), answers.labels, "merged")


def converging(answers: Answers, draws: int = DRAWS) -> DataFrame:
    """`posterior.convergence` of a run: a row a T, and one for the merge."""
    return convergence(*samples_of(answers), draws=draws)


def estimates(answers: Answers, size: int, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Log-probabilities of the average over `size` routes, drawn with replacement: `[draws, rows, C]`."""
    picked = torch.randint(answers.routes.shape[1], (draws, size), generator=generator_for(seed, size))
    return torch.stack([marginal(answers.routes[:, numbers]) for numbers in picked])


def route_distance(answers: Answers) -> Tensor:
    """Total variation between one route's answer and the exact marginal, mean over routes, `[rows]`."""
    return distance(answers.routes, marginal(answers.routes).unsqueeze(1)).mean(1)


def merge_distance(answers: Answers) -> Tensor:
    """Total variation between the merge's answer and the exact marginal, `[rows]`."""
    return distance(answers.merged, marginal(answers.routes))


def bayes_weights(answers: Answers, rows: Tensor | slice) -> Tensor:
    """What Bayes' rule makes of a uniform prior over routes after some rows, `[routes]`: prior times likelihood."""
    return (-answers.loss[rows].double().sum(0)).softmax(0)


def pulled(trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Trained tensors with every expert moved towards the experts' mean, to that share of its distance.

    The merge stays as it is. share: 1 changes nothing, 0 makes every expert the merge.
    """
    return {
        name: w.mean(0, keepdim=True) + share * (w - w.mean(0, keepdim=True)) if name.startswith("experts.") else w
        for name, w in trained.items()
    }


def pulled_answers(twin: str, seed: int, shares: Sequence[float], rows: int = ROWS) -> list[Answers]:
    """What a shipped twin's routes answer once its experts are pulled together, for each share of their distance.

    On so many rows, spread evenly over the set: what lies below the experts is computed once.
    """
    task, (mixture, tokenizer) = load_task("aspects"), load_twin(twin, seed)
    spread = task.evaluation[:: max(1, len(task.evaluation) // rows)][:rows]
    fixed = fix_batches(mixture, task, tokenizer, spread, batch_size=64)
    trained = {name: tensor.clone() for name, tensor in trained_tensors(mixture).items()}
    found = []
    for share in shares:
        load_trained(mixture, pulled(trained, share))
        routes, merged = every_route(fixed), merged_sample(fixed)
        assert routes.routes is not None
        log_p = merged.log_probabilities[:, 0]
        found.append(Answers(routes.log_probabilities, log_p, fixed.labels, routes.routes))
    return found


def pulling(twin: str, seed: int, shares: Sequence[float], rows: int = ROWS) -> DataFrame:
    """Mean distances to the exact marginal as experts are pulled together.

    Columns: share, route (one drawn route), merge, worth (drawn routes that are as near as the merge).
    """
    import pandas as pd

    def row(share: float, answers: Answers) -> dict[str, float]:
        table = converging(answers)
        route, merge = (float(table.loc[table["T"] == size, "error"].iloc[0]) for size in (1, 0))
        return {"share": share, "route": route, "merge": merge, "worth": worth(table)}

    found = pulled_answers(twin, seed, shares, rows)
    return pd.DataFrame([row(share, answers) for share, answers in zip(shares, found, strict=True)])


def worth_elsewhere() -> DataFrame:
    """How many drawn routes the merge was worth in the project's runs on SST-2 and MRPC, one seed each.

    Raises FileNotFoundError where their tables are missing.
    """
    import pandas as pd

    rows = []
    for folder, name in ELSEWHERE.items():
        place = data_root() / "results" / "posterior" / folder
        if not (place / "convergence.csv").is_file():
            raise FileNotFoundError(
                f"{place} holds no convergence.csv: expected what `adamix-lab posterior` writes. Restore data/results "
                "from the project's repository, or run the command in data/results/README.md."
            )
        table = pd.read_csv(place / "convergence.csv")
        told = pd.read_csv(place / "uncertainty.csv").set_index("method").loc["exact marginal"]
        rows.append(
            {
                "experts": name,
                "one route": table.loc[table["T"] == 1, "error"].iloc[0],
                "merge": table.loc[table["T"] == 0, "error"].iloc[0],
                "worth": worth(table),
                "mutual information": told["mutual_information"],
                "AUROC by entropy": told["auroc_entropy"],
                "AUROC by mutual information": told["auroc_mutual_information"],
            }
        )
    return pd.DataFrame(rows).set_index("experts")


def plain_ticks(ax: Axes) -> None:
    """Numbers rather than powers of ten on a logarithmic y axis."""
    low, high = ax.get_ylim()
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(alpha=0.3)


def draw_convergence(runs: Mapping[str, Sequence[DataFrame]], predicted: float | None = None) -> Picture:
    """Distance to the exact marginal against T, a panel a set of experts, a thin line a seed, the merge level.

    Args:
        runs: tables of `converging`, one a seed, by the name of the experts.
        predicted: how many drawn routes the learner thinks the first panel's merge is worth.
    """
    from adamix_lab.analysis.pictures_routes import panels

    figure, axes = panels(len(runs), 4.4 * len(runs), 3.6)
    told = []
    for ax, (name, tables) in zip(axes, runs.items(), strict=True):
        errors = 100 * torch.stack([torch.tensor(table["error"].to_numpy()) for table in tables])
        sizes, merges = [int(size) for size in tables[0]["T"][:-1]], errors[:, -1]
        for what, lines in (("random", errors[:, :-1]), ("merged", merges[:, None].expand(-1, len(sizes)))):
            colour, marker = STYLES[what]
            label = ("average of T drawn routes" if what == "random" else "the merge") if ax is axes[-1] else None
            ax.plot(sizes, lines.T, color=colour, alpha=0.35, linewidth=1)
            ax.plot(sizes, lines.mean(0), color=colour, marker=marker, linewidth=2, label=label)
        ax.set_xscale("symlog", base=2, linthresh=1, linscale=0.7)
        ax.set(yscale="log", title=name, xlabel="routes T", xlim=(-0.1, 80), ylim=(0.15, 60))
        ax.set_xticks([0, *sizes], ["none", *map(str, sizes)])
        plain_ticks(ax)
        drawn = errors.mean(0)
        told.append(
            f"{name}: {drawn[0]:.1f} points with one route, {drawn[-2]:.2f} with {sizes[-1]}; the merge "
            f"{drawn[-1]:.1f} (seeds {', '.join(f'{value:.1f}' for value in merges)})"
        )
    axes[0].set_ylabel("points from all 16 routes")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    alt = f"Mean distance to the average over all routes against T, {len(tables)} seeds. {'; '.join(told)}."
    return Picture(figure, mark_prediction(axes[0], alt, predicted, "routes"))


def draw_pulling(table: DataFrame, name: str) -> Picture:
    """Distances of one route and of the merge to the exact marginal as experts are pulled together: `pulling`'s."""
    figure, ax = new_figure(6.4, 3.6)
    shares = list(table["share"])
    for what, column, label in (("random", "route", "one drawn route"), ("merged", "merge", "the merge")):
        colour, marker = STYLES[what]
        ax.plot(shares, 100 * table[column], color=colour, marker=marker, markersize=8, label=label)
    for share, height, number in zip(shares, 100 * table["merge"], table["worth"], strict=True):
        ax.annotate(f"worth {number:.1f}", (share, height), xytext=(8, -14), textcoords="offset points", fontsize=9)
    ax.set(xscale="log", yscale="log", xlabel="distance of the experts from their mean, as a share of the trained one")
    ax.set_ylabel("points from all 16 routes")
    ax.set_xticks(shares, [f"{share:g}" for share in shares])
    ax.set_xlim(0.85 * min(shares), 1.5 * max(shares))
    ax.margins(y=0.15)
    plain_ticks(ax)
    ax.legend(frameon=False)
    told = "; ".join(
        f"share {row.share:g}: one route {100 * row.route:.2f} points, merge {100 * row.merge:.2f}, worth "
        f"{row.worth:.1f} routes"
        for row in table.itertuples()
    )
    return Picture(figure, f"Distance to the average over all routes as experts of {name} are pulled together. {told}.")
