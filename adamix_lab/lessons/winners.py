"""Lesson 07: one seed's league table beside the chance that a few seeds name the wrong winner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adamix_lab.analysis.pictures_routes import panels
from adamix_lab.analysis.plots import Picture
from adamix_lab.experiments.contrasts import Scores
from adamix_lab.experiments.results import variants_of
from adamix_lab.lessons.ablations import Compared, compare, fewest_seeds, league_table, wrong_winner
from adamix_lab.lessons.dashboard import in_points, style_of
from adamix_lab.lessons.prediction import mark_prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

BELOW = 5  # per cent: how rarely a winner may be wrong


def draw_winners(scores: Scores, task: str, seed: int = 0, predicted: float | None = None) -> Picture:
    """Left: the league table of one seed. Right: the chance of another winner than all seeds name, by number of seeds.

    predicted: that chance in % for one seed, as the learner expects it.
    """
    compared = [each for each in compare(scores, task) if each.budget == "steps"]
    figure, (left, right) = panels(2, 10.5, 4.0)
    variants = variants_of(scores.results)
    table = league_table(scores, task, seed)
    told = _league(left, table, variants, f"{task}: {table.columns[0]}")
    chances = [_chances(right, each, style_of(each.other, variants)) for each in compared]
    right.axhline(BELOW, color="black", linewidth=1, linestyle=":")
    right.annotate(f"{BELOW} %", (1, BELOW), xytext=(0, 3), textcoords="offset points", fontsize=8)
    right.set(xlabel="seeds", ylabel="chance of another winner (%)", ylim=(-2, None))
    right.set_xticks(range(1, max(each.estimate.number for each in compared) + 1))
    right.set_title("dashed: all seeds together name no winner", fontsize=9, loc="left")
    right.grid(alpha=0.3)
    alt = f"League table of seed {seed} on {task}: {told}. Chance that so many seeds, drawn with replacement, name "
    alt += f"another winner than all: {'; '.join(chances)}."
    alt = mark_prediction(right, alt, predicted, axis="y")
    right.legend(frameon=False, fontsize=8, loc="best")
    return Picture(figure, alt)


def _league(ax: Axes, table: DataFrame, variants: list[str], title: str) -> str:
    column = table.columns[0]
    for place, (variant, score) in enumerate(table[column].items()):
        colour, marker = style_of(str(variant), variants)
        ax.plot(score, place, color=colour, marker=marker, markersize=10)
        ax.annotate(f"{score:.1f}", (score, place), xytext=(8, -4), textcoords="offset points")
    ax.set_yticks(range(len(table)), [f"{n}. {variant}" for n, variant in enumerate(table.index, 1)])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.margins(x=0.25)
    ax.set_title(title, fontsize=9, loc="left")
    ax.grid(axis="x", alpha=0.3)
    return ", ".join(f"{variant} {score:.1f}" for variant, score in table[column].items())


def _chances(ax: Axes, each: Compared, style: tuple[str, str]) -> str:
    values = list(each.by_seed.values())
    numbers = range(1, len(values) + 1)
    chances = [100 * wrong_winner(values, n) for n in numbers]
    line = "-" if each.known else "--"
    label = f"{each.reference} or {each.other}"
    ax.plot(numbers, chances, color=style[0], marker=style[1], linestyle=line, label=label)
    shown = ", ".join(f"{chance:.0f} %" for chance in chances)
    return f"{label} ({'a winner is known' if each.known else 'no winner is known'}) {shown}"


def winners_table(compared: list[Compared]) -> DataFrame:
    """A row a comparison: difference, verdict, chance of another winner with one seed, fewest seeds below 5 %."""
    import pandas as pd

    rows = {
        f"{each.task}: {each.reference} minus {each.label}": {
            "points": in_points(each),
            "verdict": each.verdict,
            "one seed wrong": f"{100 * wrong_winner(list(each.by_seed.values()), 1):.0f} %",
            "fewest seeds": str(fewest_seeds(each) or "not with these runs"),
        }
        for each in compared
    }
    return pd.DataFrame(rows).T
