"""Lesson 06: the average over drawn routes on its way to the average over all of them, beside the merge.

The twins have 16 routes, so the exact marginal (Eq. 7) is a mean over what all of them answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adamix_lab.analysis.calibration import adaptive_ece, ece, risk_coverage
from adamix_lab.analysis.plots import STYLES, Picture, new_figure, panels, plot_risk_coverage
from adamix_lab.analysis.posterior import (
    Samples,
    convergence,
    entropy,
    equivalent_routes,
    every_route,
    fix_batches,
    marginal,
    merged_sample,
    total_variation,
    uncertainty,
)
from adamix_lab.core.routing import generator_for
from adamix_lab.lessons.answers import Answers, on_batches
from adamix_lab.lessons.widgets import Explorer, Number, Steps, View, Words, mark_prediction
from adamix_lab.models.model import MixtureModel, load_trained, trained_tensors
from adamix_lab.tasks.loading import load_task
from adamix_lab.tasks.tasks import Task, data_root
from adamix_lab.training.shipped import load_twin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


DRAWS = 200
ROWS = 124  # of 996: where a model must run
ELSEWHERE = {"sst2-m2": "SST-2, M = 2", "sst2-m4": "SST-2, M = 4", "mrpc-m2": "MRPC, M = 2"}


def samples_of(answers: Answers) -> tuple[Samples, Samples]:
    """(every route, the merge) as `analysis.posterior` takes them."""
    routes = Samples(answers.routes, answers.labels, exact=True, routes=answers.index)
    return routes, Samples(answers.merged.unsqueeze(1), answers.labels)


def converging(answers: Answers, draws: int = DRAWS) -> DataFrame:
    """`posterior.convergence` of a run: a row a T, and one for the merge."""
    return convergence(*samples_of(answers), draws=draws)


def estimates(answers: Answers, size: int, draws: int = DRAWS) -> Tensor:
    """Log-probabilities of the average over `size` routes, drawn with replacement: `[draws, rows, C]`."""
    picked = torch.randint(answers.routes.shape[1], (draws, size), generator=generator_for(0, size))
    return torch.stack([marginal(answers.routes[:, numbers]) for numbers in picked])


def route_distance(answers: Answers) -> Tensor:
    """Total variation between one route's answer and the exact marginal, mean over routes, `[rows]`."""
    return total_variation(answers.routes, marginal(answers.routes).unsqueeze(1)).mean(1)


def merge_distance(answers: Answers) -> Tensor:
    """Total variation between the merge's answer and the exact marginal, `[rows]`."""
    return total_variation(answers.merged, marginal(answers.routes))


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
        found.append(on_batches(fixed))
    return found


def pulling(twin: str, seed: int, shares: Sequence[float], rows: int = ROWS) -> DataFrame:
    """Mean distances to the exact marginal as experts are pulled together.

    Columns: share, route (one drawn route), merge, worth (drawn routes that are as near as the merge).
    """
    import pandas as pd

    def row(share: float, answers: Answers) -> dict[str, float]:
        table = converging(answers)
        route, merge = (float(table.loc[table["T"] == size, "error"].iloc[0]) for size in (1, 0))
        return {"share": share, "route": route, "merge": merge, "worth": equivalent_routes(table)}

    found = pulled_answers(twin, seed, shares, rows)
    return pd.DataFrame([row(share, answers) for share, answers in zip(shares, found, strict=True)])


def worth_elsewhere() -> DataFrame:
    """How many drawn routes the merge was worth in the project's runs on SST-2 and MRPC, one seed each.

    Raises FileNotFoundError where their tables are missing.
    """
    import pandas as pd

    rows: dict[str, dict[str, float]] = {}
    for folder, name in ELSEWHERE.items():
        place = data_root() / "results" / "posterior" / folder
        if not (place / "convergence.csv").is_file():
            raise FileNotFoundError(
                f"{place} holds no convergence.csv: expected what `adamix-lab posterior` writes. Restore data/results "
                "from the project's repository, or run the command in data/results/README.md."
            )
        table = pd.read_csv(place / "convergence.csv")
        told = pd.read_csv(place / "uncertainty.csv").set_index("method").loc["exact marginal"]
        rows[name] = {
            "one route": table.loc[table["T"] == 1, "error"].iloc[0],
            "merge": table.loc[table["T"] == 0, "error"].iloc[0],
            "worth": equivalent_routes(table),
            "mutual information": told["mutual_information"],
            "AUROC by entropy": told["auroc_entropy"],
            "AUROC by mutual information": told["auroc_mutual_information"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("experts")


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


# -- lesson 06's widget: a sampler of routes on a sentence of the learner's, beside the exact average and the merge
# A sentence's routes are computed once, by the tree, and kept; what moves under the slider is arithmetic on them.


SENTENCE = "film : a slow start, but I loved every minute of it."
MOST = 64
PICKS = 1000
SURE = 0.95
Ask = Callable[[str, str], tuple[Tensor, Tensor]]


def asker(models: Mapping[str, tuple[MixtureModel, Any]], task: Task) -> Ask:
    """(experts, sentence) to log-probabilities of every route `[S, C]` and of the merge `[C]`, each computed once."""

    @lru_cache(maxsize=256)
    def ask(experts: str, sentence: str) -> tuple[Tensor, Tensor]:
        mixture, tokenizer = models[experts]
        fixed = fix_batches(mixture, task, tokenizer, [{task.text[0]: sentence}], batch_size=1)
        return every_route(fixed).log_probabilities[0], merged_sample(fixed).log_probabilities[0, 0]

    return ask


@lru_cache(maxsize=4)
def picks(routes: int) -> Tensor:
    """Many draws of MOST routes each, `[PICKS, MOST]`: the first T of a draw are its draw of T routes."""
    return torch.randint(routes, (PICKS, MOST), generator=generator_for(0))


@dataclass(frozen=True)
class Sampled:
    """What T drawn routes say of a sentence.

    Attributes:
        experts: whose routes.
        name: of the last class, whose probability is looked at.
        size: T.
        routes: that probability under every route, `[S]`.
        exact: under all routes together.
        merged: of the merge.
        averages: of draws of 1, 2, ..., MOST routes, `[PICKS, MOST]`.
        doubt: (entropy of the average, mean entropy of a route), in nats.
    """

    experts: str
    name: str
    size: int
    routes: Tensor
    exact: float
    merged: float
    averages: Tensor
    doubt: tuple[float, float]

    @property
    def errors(self) -> Tensor:
        """Distances of the draws' averages to the exact one, `[PICKS, MOST]`."""
        return (self.averages - self.exact).abs()

    @property
    def nearer(self) -> Tensor:
        """The share of draws that are nearer to the exact average than the merge is, for each T, `[MOST]`."""
        return (self.errors < abs(self.merged - self.exact)).float().mean(0)


def sampled(ask: Ask, classes: tuple[str, ...], sentence: str, size: int, experts: str) -> Sampled:
    """The state of the sampler."""
    log_p, merged = ask(experts, sentence)
    routes = log_p[:, -1].exp()
    averages = routes[picks(len(routes))].cumsum(1) / torch.arange(1, MOST + 1)
    exact = marginal(log_p.unsqueeze(0))[0]
    doubt = float(entropy(exact)), float(entropy(log_p).mean())
    return Sampled(experts, classes[-1], size, routes, float(exact[-1].exp()), float(merged[-1].exp()), averages, doubt)


def smallest(state: Sampled) -> int | None:
    """The smallest T at which 19 of 20 draws are nearer to the exact average than the merge; None up to MOST."""
    enough = (state.nearer >= SURE).nonzero()
    return int(enough[0]) + 1 if len(enough) else None


def draw_sampled(state: Sampled) -> View:
    """The routes' answers with the drawn ones marked and the averages of many draws; distances against T."""
    figure, (left, right) = panels(2, 9.0, 3.5)
    _draw_answers(left, state)
    _draw_distances(right, state)
    handles = [ax.get_legend_handles_labels() for ax in (left, right)]
    figure.legend(*(a + b for a, b in zip(*handles, strict=True)), loc="outside upper center", ncols=5, frameon=False,
                  fontsize=8)  # fmt: skip
    drawn, nearer = float(state.averages[0, state.size - 1]), float(state.nearer[state.size - 1])
    whole, own = state.doubt
    name, number = state.name, len(state.routes)
    readout = (
        f"{state.experts}, T = {state.size}: this draw says {100 * drawn:.1f} % {name}, all {number} routes "
        f"{100 * state.exact:.1f} %, the merge {100 * state.merged:.1f} %. {100 * nearer:.0f} % of {PICKS:,} draws are "
        f"nearer to all {number} than the merge. Doubt in nats: H {whole:.3f} = E[H] {own:.3f} + MI "
        f"{max(whole - own, 0.0):.3f}."
    )
    low, high = 100 * float(state.routes.min()), 100 * float(state.routes.max())
    error = float(state.errors[:, state.size - 1].mean())
    alt = (
        f"Probability of {name} ({state.experts}): {number} routes from {low:.0f} to {high:.0f} %, all together "
        f"{100 * state.exact:.1f} %, merge {100 * state.merged:.1f} %, this draw of {state.size} {100 * drawn:.1f} %. "
        f"Beside it distances to all {number} against T: at T = {state.size} {100 * error:.1f} points on average over "
        f"draws, the merge {100 * abs(state.merged - state.exact):.1f}."
    )
    return View(readout, Picture(figure, alt))


def _draw_answers(ax: Any, state: Sampled) -> None:
    colour, marker = STYLES["random"]
    counts = torch.bincount(picks(len(state.routes))[0, : state.size], minlength=len(state.routes))
    ax.axvline(100 * state.exact, color=STYLES["exact"][0], linestyle=":", label=f"all {len(state.routes)} routes")
    ax.axvline(100 * state.merged, color=STYLES["merged"][0], label="the merge")
    spread = torch.linspace(-0.3, 0.3, len(state.routes))  # apart, so that equal answers are seen as many
    ax.scatter(100 * state.routes, 1 + spread, s=14, color="#888888", zorder=2)
    ax.scatter(100 * state.routes, 1 + spread, s=28.0 * counts, color=colour, alpha=0.6, zorder=3)
    cloud = state.averages[: PICKS // 5, state.size - 1]
    ax.scatter(100 * cloud, torch.linspace(-0.3, 0.3, len(cloud)), s=4, color=colour, alpha=0.35, zorder=2)
    ax.plot(100 * float(state.averages[0, state.size - 1]), 0, marker=marker, markersize=11, color=colour,
            markeredgecolor="white", linestyle="none", label=f"this draw of {state.size}", zorder=4)  # fmt: skip
    ax.set_yticks([0, 1], ["averages\nof T", "routes\n(drawn: large)"])
    ax.set(ylim=(-0.5, 1.5), xlim=(-3, 103), xlabel=f"probability of “{state.name}” (%)")
    ax.grid(axis="x", alpha=0.3)


def _draw_distances(ax: Any, state: Sampled) -> None:
    colour, marker = STYLES["random"]
    sizes = [2**n for n in range(int(math.log2(MOST)) + 1)]
    errors = 100 * state.errors[:, [size - 1 for size in sizes]].clamp_min(1e-5)
    ax.plot(sizes, errors.quantile(SURE, 0), color=colour, linestyle="--", label="19 of 20 draws are below")
    ax.plot(sizes, errors.mean(0), color=colour, marker=marker, markersize=5, label="draws of T, mean")
    ax.axhline(100 * max(abs(state.merged - state.exact), 1e-5), color=STYLES["merged"][0])
    ax.axvline(state.size, color="#444444", linestyle=":", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="routes T", ylabel=f"points from all {len(state.routes)}")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    plain_ticks(ax)


def route_sampler(models: Mapping[str, tuple[MixtureModel, Any]], task: Task, sentence: str = SENTENCE) -> Explorer:
    """The widget of lesson 06.

    models: (mixture, tokenizer) by the name that the learner sees; the first one is shown at the start.
    """
    ask, names = asker(models, task), tuple(models)
    for name in names:
        ask(name, sentence)  # so that the first move is as quick as the others
    best = smallest(sampled(ask, task.classes, sentence, 1, names[0]))
    return Explorer(
        "Sampler of routes",
        "Find the smallest T at which 19 of 20 draws are nearer to all routes than the merge is. Then type a sentence "
        "with a mutual information (MI) above 0.1 nats, and one below 0.001.",
        [
            Words("sentence", "sentence", sentence),
            Number("size", "routes T", 1, MOST, 1, 1),
            Steps("experts", "experts", names, names[0]),
        ],
        lambda sentence, size, experts: sampled(ask, task.classes, sentence, size, experts),
        draw_sampled,
        shown={"sentence": sentence, "size": best or MOST, "experts": names[0]},
    )


# -- lesson 06, further: calibration of routes, their average and the merge; acting on doubt -----------------


def calibrations(runs: Sequence[Answers]) -> DataFrame:
    """Calibration errors in points, a row a seed: one route (the first), all of them, the merge; both kinds of bins."""
    import pandas as pd

    rows = []
    for answers in runs:
        told = {
            "one route": answers.routes[:, 0],
            "all routes": marginal(answers.routes),
            "merge": answers.merged,
        }
        kinds = {"ECE": ece, "adaptive": adaptive_ece}
        rows.append(
            {f"{name}, {kind}": 100 * error(log_p, answers.labels) for name, log_p in told.items()
             for kind, error in kinds.items()}
        )  # fmt: skip
    return pd.DataFrame(rows, index=[f"seed {n}" for n in range(len(rows))])


def risks(answers: Answers) -> Picture:
    """Wrong answers among the surest rows: all routes sorted by entropy and by mutual information, the merge."""
    import pandas as pd

    right = marginal(answers.routes).argmax(-1) == answers.labels
    told = uncertainty(samples_of(answers)[0])
    tables = {
        "exact, by entropy": risk_coverage(told["entropy"], right),
        "routes, by mutual information": risk_coverage(told["mutual_information"], right),
        "merged, by entropy": risk_coverage(entropy(answers.merged), answers.merged_right),
    }
    return plot_risk_coverage(pd.concat([table.assign(method=name) for name, table in tables.items()]))
