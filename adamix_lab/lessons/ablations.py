"""Lesson 07: the ablation dashboard, and one seed's league table beside the chance of a wrong winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamix_lab.analysis.plots import STYLES, Picture, new_figure, panels
from adamix_lab.analysis.statistics import ALIKE, NOT_SHOWN, SHOWN
from adamix_lab.core.files import write_atomically, write_text
from adamix_lab.experiments.contrasts import Scores
from adamix_lab.experiments.figures import VARIANTS
from adamix_lab.experiments.results import tasks_of, variants_of
from adamix_lab.lessons.comparisons import (
    ALL,
    Compared,
    compare,
    fewest_seeds,
    league_table,
    open_results,
    shipped,
    wrong_winner,
)
from adamix_lab.lessons.widgets import Explorer, View, Words, mark_prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


MOST = 24  # lines that can be read in one picture
OTHERS = (("#00798C", "d"), ("#5B4FA2", "<"), ("#8A1C5B", "*"), ("#1F6F3A", "8"))
FILES = ("comparisons.csv", "comparisons.pdf")
COLUMNS = (
    "task", "reference", "other", "budget", "difference", "low", "high", "seeds", "p", "p_holm", "verdict",
    "fewest_seeds", "by_seed",
)  # fmt: skip


@dataclass(frozen=True)
class Board:
    """What is on screen: a folder's comparisons, and what its table holds besides."""

    compared: list[Compared]
    tasks: list[str]
    variants: list[str]
    notes: tuple[str, ...] = ()


def board(folder: str, task: str = ALL, against: str = "AdaMix") -> Board:
    """Opens a folder of results and compares, as `open_results` and `compare` do."""
    scores = open_results(folder)
    results = scores.results
    return Board(compare(scores, task, against), tasks_of(results), variants_of(results), results.notes)


# -- drawing ----------------------------------------------------------------------------------------------


def style_of(name: str, variants: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a variant or a strategy; those that have none of their own take turns."""
    known = {**STYLES, **VARIANTS}
    if name.lower() in known:
        return known[name.lower()]
    plain = [variant for variant in variants if variant.lower() not in VARIANTS]
    return OTHERS[plain.index(name) % len(OTHERS)] if name in plain else ("#666666", "x")


def draw_board(state: Board) -> View:
    """A line a comparison: its mean, its 95 % t-interval, each seed as a small mark."""
    shown = state.compared[:MOST]
    figure, ax = new_figure(8.2, 1.5 + 0.36 * len(shown))
    for n, each in enumerate(shown):
        _draw(ax, n, each, style_of(each.other, state.variants))
    ax.axvline(0, color="black", linewidth=1)
    several = len({each.task for each in shown}) > 1
    ax.set_yticks(range(len(shown)), [f"{each.task}: {each.label}" if several else each.label for each in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    reference = shown[0].reference
    ax.set_xlabel(f"{reference} minus the other, points (right of 0: {reference} is ahead)")
    title = "mean and 95 % interval, paired; filled: shown, after the correction for all on screen"
    ax.set_title(title, fontsize=9, loc="left")
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    told = "; ".join(f"{each.task}, {each.label} {in_points(each)}, {each.verdict}" for each in shown)
    alt = f"Differences in points, {reference} minus each other, paired by seed, with 95 % t-intervals: {told}."
    return View(in_words(state), Picture(figure, alt))


def _draw(ax: Axes, n: int, each: Compared, style: tuple[str, str]) -> None:
    colour, marker = style
    values = list(each.by_seed.values())
    ax.plot(values, [n + 0.22] * len(values), marker="|", markersize=7, linestyle="none", color=colour, alpha=0.7)
    if each.estimate.number > 1:
        ax.plot([each.estimate.low, each.estimate.high], [n, n], color=colour, linewidth=2, alpha=0.6)
    filled = colour if each.verdict == SHOWN else "white"
    ax.plot(each.estimate.mean, n, marker=marker, markersize=9, color=colour, markerfacecolor=filled)


def in_points(each: Compared) -> str:
    """`+1.2 (-0.3 to +2.7)`, or that there is one seed."""
    e = each.estimate
    return f"{e.mean:+.1f}, one seed" if e.number == 1 else f"{e.mean:+.1f} ({e.low:+.1f} to {e.high:+.1f})"


def in_words(state: Board) -> str:
    """How many comparisons are made, what intervals and the correction leave, and how many seeds would do."""
    compared = state.compared
    seeds = sorted({each.estimate.number for each in compared})
    several = len(compared) > 1
    parts = [
        f"{len(compared)} comparison{'s' if several else ''} on screen, {seeds[0]}"
        + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
        + f" seed{'s' if seeds[-1] > 1 else ''} each: {compared[0].reference} minus each other. "
        f"{sum(each.known for each in compared)} of the 95 % intervals leave out 0; corrected for {len(compared)}, "
        f"{sum(each.verdict == SHOWN for each in compared)} are shown."
    ]
    for verdict in (SHOWN, ALIKE):
        named = [f"{each.task}, {each.label} {in_points(each)}" for each in compared if each.verdict == verdict]
        parts += [f"{verdict[0].upper()}{verdict[1:]}: {'; '.join(named)}."] if named else []
    if rest := sum(each.verdict == NOT_SHOWN for each in compared):
        parts.append(f"Not shown: {rest}.")
    known = [each for each in compared if each.known]
    needed = [f"{each.task}, {each.label}: {fewest_seeds(each) or 'not with these runs'}" for each in known]
    parts.append(
        f"Fewest seeds that name the wrong winner in under 5 % of draws: {'; '.join(needed)}."
        if needed
        else "So no winner is known that a few seeds could miss."
    )
    if len(compared) > MOST:
        parts.append(f"The first {MOST} are drawn: choose a task to see the others.")
    parts.append(f"Tasks here: {', '.join(state.tasks)}. Variants: {', '.join(state.variants)}.")
    return " ".join([*parts, *state.notes])


# -- saving -----------------------------------------------------------------------------------------------


def rows_of(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """A row a comparison, for a table: see COLUMNS."""
    rows = []
    for each in compared:
        e, fewest = each.estimate, fewest_seeds(each)
        numbers = {"difference": e.mean, "low": e.low, "high": e.high, "p": e.p, "p_holm": each.adjusted}
        row: dict[str, Any] = {name: "" if math.isnan(x) else f"{x:.4g}" for name, x in numbers.items()}
        row |= {name: getattr(each, name) for name in ("task", "reference", "other", "budget", "verdict")}
        row |= {"seeds": e.number, "fewest_seeds": "" if fewest is None else fewest}
        row["by_seed"] = " ".join(f"{seed}:{value:.2f}" for seed, value in each.by_seed.items())
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def save_board(state: Board, view: View, folder: Path) -> tuple[Path, Path]:
    """Writes the table (CSV) and the picture (PDF, its alt text as the document's subject).

    Raises OSError where the folder cannot be written.
    """
    import pandas as pd

    table, picture = (folder / name for name in FILES)
    write_text(table, pd.DataFrame(rows_of(state.compared)).to_csv(index=False, lineterminator="\n"))
    about = {"Title": "Paired differences", "Subject": view.picture.alt}
    write_atomically(picture, lambda path: view.picture.figure.savefig(path, format="pdf", metadata=about))
    return table, picture


# -- the widget -------------------------------------------------------------------------------------------


def ablation_dashboard(folder: str | None = None, save_to: Path | None = None) -> Explorer:
    """The widget of lesson 07.

    Args:
        folder: shipped results by name, or a path; None takes what is shipped.
        save_to: where PDF and CSV go; None takes the folder in which the notebook runs.
    """
    start = folder or shipped()

    def save(state: Board, view: View) -> str:
        place = save_to or Path()
        paths = save_board(state, view, place)
        return f"Saved {len(state.compared)} comparisons: {' and '.join(str(path) for path in paths)}."

    return Explorer(
        "Ablation dashboard",
        "Find a comparison that is shown although it is one of many, and the fewest seeds that name its winner wrongly "
        "in under 5 % of draws. “Not with these runs” is an answer to both. Open “budget”, and a folder of your own.",
        [
            Words("folder", "folder of results", start, 400, "folder"),
            Words("task", "task, or all", ALL, 100, "task"),
            Words("against", "compared with", "AdaMix", 100, "variant"),
        ],
        board,
        draw_board,
        shown={"folder": start, "task": ALL, "against": "AdaMix, merged"},
        buttons={
            "variants": {"task": ALL, "against": "AdaMix"},
            "two budgets": {"folder": "budget", "task": ALL, "against": "AdaMix"},
        },
        actions={"Save PDF and CSV": save},
    )


# -- lesson 07: one seed's league table beside the chance that a few seeds name the wrong winner ---------------------


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
