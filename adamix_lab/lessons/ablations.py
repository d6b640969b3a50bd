"""Lesson 07: results of a grid as differences between variants, paired by seed, and how far they can be trusted."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adamix_lab.analysis.plots import STYLES, Picture, new_figure, panels
from adamix_lab.analysis.statistics import Estimate, holm
from adamix_lab.core.errors import LabError, unknown
from adamix_lab.core.files import write_atomically, write_text
from adamix_lab.experiments.claims import OPEN, SIGNIFICANT
from adamix_lab.experiments.contrasts import BUDGETS, Budget, Contrast, Scores, Side, minus
from adamix_lab.experiments.figures import VARIANTS
from adamix_lab.experiments.results import CURVES, PREDICTIONS, RESULTS, read_results, tasks_of, variants_of
from adamix_lab.lessons.widgets import Explorer, View, Words, mark_prediction
from adamix_lab.tasks.tasks import data_root

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


EFFECT, NULL, ONE_SEED = "effect", "null result", "one seed"
ALL = "all"
# Results that ship in data/results, with what makes them.
MAKERS = {
    "core": "adamix-lab ablate data/grids/core.yaml --folder DIR --out data/results/core",
    "budget": "adamix-lab ablate data/grids/budget.yaml --threads 1 --no-snapshots --out data/results/budget",
}


# -- opening ----------------------------------------------------------------------------------------------


def is_there(name: str) -> bool:
    """Whether shipped results of that name are there."""
    return (data_root() / "results" / name / RESULTS).is_file()


def shipped(*names: str) -> str:
    """The first of the shipped results that is there; where none is, the last, which says so when it is opened."""
    order = names or tuple(MAKERS)
    return next((name for name in order if is_there(name)), order[-1])


def results_folder(name: str) -> Path:
    """The folder of shipped results by their name, or any folder by its path (a file in it serves, too).

    Raises FileNotFoundError, with the command that makes them, where there are none.
    """
    if name in MAKERS:
        if not is_there(name):
            raise FileNotFoundError(
                f"The results “{name}” are not there: expected tables in data/results/{name}. They are made by "
                f"{MAKERS[name]} (data/grids/README.md says what DIR holds)."
            )
        return data_root() / "results" / name
    place = Path(os.path.expanduser(name.strip()))
    place = place.parent if place.is_file() else place
    if not place.is_dir():
        raise FileNotFoundError(
            f"“{name}” is no folder here: expected one that adamix-lab ablate wrote, with {RESULTS} in it, or one of "
            f"{', '.join(MAKERS)}."
        )
    return place


def open_results(name: str) -> Scores:
    """The results of a folder, or of shipped ones by name, looked up by what is compared.

    Raises FileNotFoundError as `results_folder` does; ValueError for files that are not whole or hold something else.
    """
    place = results_folder(name)
    files = [place / file for file in (RESULTS, PREDICTIONS, CURVES)]
    return _read(place, tuple(f.stat().st_mtime_ns if f.is_file() else 0 for f in files))


@lru_cache(maxsize=4)
def _read(place: Path, changed: tuple[int, ...]) -> Scores:
    try:
        return Scores(read_results(place))
    except ImportError as error:
        raise LabError(str(error)) from error
    except (TypeError, KeyError) as error:  # columns by these names, and something else in them
        raise LabError(
            f"{place / RESULTS} has the columns of results but not their contents ({error}): expected what "
            "adamix-lab ablate wrote."
        ) from error


# -- comparing --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A reference minus another side on one task, in points.

    Attributes:
        reference, other: names of what is compared.
        budget: "steps", or "compute": as many operations as AdaMix's steps take.
        by_seed: the difference for each seed that both have.
        estimate: its mean with a 95 % t-interval over seeds.
        adjusted: p after Holm's correction over all that is compared at once.
    """

    task: str
    reference: str
    other: str
    budget: Budget
    by_seed: dict[int, float]
    estimate: Estimate
    adjusted: float = math.nan

    @property
    def label(self) -> str:
        """The other side, with its budget where that is operations."""
        return f"{self.other}, equal compute" if self.budget == "compute" else self.other

    @property
    def known(self) -> bool:
        """Whether the interval over all seeds leaves 0 out, so that there is a winner to be named."""
        return self.estimate.p < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """Of this comparison among all that were made at once."""
        if self.estimate.number == 1:
            return ONE_SEED
        if self.adjusted < SIGNIFICANT:
            return EFFECT
        return OPEN if self.known or math.isnan(self.estimate.p) else NULL


def compare(scores: Scores, task: str = ALL, against: str = "AdaMix") -> list[Compared]:
    """Every difference to a reference, task by task, corrected for their number (Holm).

    Args:
        task: one of the results', or "all".
        against: a variant ("AdaMix"): all other variants, merged, are compared with it; or a variant and a strategy
            ("AdaMix, merged"): its other strategies are.

    Raises ValueError for a task, variant or strategy that was not run, and where nothing can be compared.
    """
    few = not scores.tasks()
    tasks = scores.tasks(few)
    task = {name.lower(): name for name in (ALL, *tasks)}.get(task.strip().lower(), task)
    if task != ALL and task not in tasks:
        raise unknown("Task", task, [ALL, *tasks])
    reference, others, names = _sides(scores, against)
    compute = scores.results.table.loc[scores.results.table["compute"] == "compute", ["task", "variant"]]
    own = set(compute.itertuples(index=False, name=None))
    found = []
    for here in tasks if task == ALL else [task]:
        for name, other in zip(names[1:], others, strict=True):
            for budget in BUDGETS:
                if budget == "compute" and not {(here, reference.variant), (here, other.variant)} & own:
                    continue
                on = scores.on_task(minus(reference, other, few_shot=few), here, budget)
                if on.by_seed:
                    found.append(Compared(here, names[0], name, budget, on.by_seed, on.estimate))
    if not found:
        raise LabError(
            f"Nothing can be compared with {against!r} on {task!r}: expected two variants with runs of one seed. Let "
            "more runs finish, or choose another."
        )
    adjusted = holm([each.estimate.p for each in found])
    return [replace(each, adjusted=p) for each, p in zip(found, adjusted, strict=True)]


def _sides(scores: Scores, against: str) -> tuple[Side, list[Side], list[str]]:
    """The reference, the others, and the names of both."""
    name, _, strategy = (part.strip() for part in against.partition(","))
    table, variants = scores.results.table, variants_of(scores.results)
    variant = scores.variant(name)
    if variant is None:
        raise unknown("Variant", name, variants)
    if not strategy:
        others = [other for other in variants if other != variant]
        return Side(variant), [Side(other) for other in others], [variant, *others]
    strategies = list(dict.fromkeys(table.loc[table["variant"] == variant, "strategy"]))
    if strategy not in strategies:
        raise unknown(f"Strategy of {variant}", strategy, strategies)
    if len(strategies) == 1:
        raise LabError(f"{variant} answers in one way only ({strategy}): nothing to compare. Choose a mixture.")
    others = [other for other in strategies if other != strategy]
    return Side(variant, strategy), [Side(variant, other) for other in others], [f"{variant}, {strategy}", *others]


def own_scores(scores: Scores, task: str, variant: str, budget: Budget = "steps") -> dict[int, float]:
    """A variant's merged score by seed, times 100, in the order of seeds: lists of two variants are pairs."""
    found = scores.by_seed(task, Side(variant), Contrast((), few_shot=not scores.tasks()), budget)
    return dict(sorted(found.items()))


def league_table(scores: Scores, task: str, seed: int = 0) -> DataFrame:
    """One seed's scores at equal steps, the best first: what a report of one run a variant would print."""
    import pandas as pd

    found = {variant: own_scores(scores, task, variant).get(seed) for variant in variants_of(scores.results)}
    column = f"{scores.primary[task]} x 100, seed {seed}"
    table = pd.DataFrame({column: {variant: score for variant, score in found.items() if score is not None}})
    return table.sort_values(column, ascending=False).round(1)


# -- how far to trust -------------------------------------------------------------------------------------


def wrong_winner(differences: Sequence[float], seeds: int, draws: int = 20_000) -> float:
    """Chance that the mean of so many seeds names another winner than the mean of all (a tie counts half).

    The seeds are drawn with replacement from the differences, one a seed: without it, as many as there are would
    never be wrong. Estimated by draws; its standard error is below 0.4 points.
    """
    values = np.asarray(differences, dtype=float)
    chosen = np.random.default_rng(0).integers(0, len(values), (draws, seeds))
    signs = np.sign(np.round(values[chosen].mean(1), 9)) * np.sign(np.round(values.mean(), 9))
    return float((signs < 0).mean() + (signs == 0).mean() / 2)


def fewest_seeds(compared: Compared, below: float = 0.05) -> int | None:
    """The fewest seeds from which on their mean names the wrong winner more rarely than that.

    None: not with these runs, because all seeds together name none, or because even as many as there are do not do.
    """
    if not compared.known:
        return None
    values = list(compared.by_seed.values())
    rare = [wrong_winner(values, n) < below for n in range(1, len(values) + 1)]
    return next((n for n in range(1, len(values) + 1) if all(rare[n - 1 :])), None)


def detectable(rows: int, disagree: float) -> float:
    """The smallest true difference of two accuracies on the same rows that four tests of five tell from 0, in points.

    A 95 % interval of paired rows, normal approximation: (1.96 + 0.84) sqrt(disagree / rows).

    Args:
        rows: of the evaluation set.
        disagree: share of rows that exactly one of the two answers rightly.
    """
    return 100 * (1.96 + 0.84) * math.sqrt(disagree / rows)


def is_run(name: str, task: str, variant: str, budget: Budget = "steps") -> bool:
    """Whether shipped results are there and hold a variant at a budget."""
    return is_there(name) and bool(own_scores(open_results(name), task, variant, budget))


def right_rows(scores: Scores, task: str, variant: str, seed: int, budget: Budget = "steps") -> Any:
    """Whether a run, merged, answers each row of a task rightly, `[rows]`, as 0.0 and 1.0.

    Raises FileNotFoundError where the run or its predictions are not there.
    """
    answers, table = scores.results.predictions, scores.results.table
    runs = table[(table["task"] == task) & (table["variant"] == variant) & (table["compute"] == budget)]
    chosen = runs.loc[(runs["seed"] == seed) & (runs["examples"] == 0), "run"].unique()
    if answers is None or not len(chosen):
        raise FileNotFoundError(
            f"Predictions of {variant} on {task}, seed {seed}, are not there: expected them in {PREDICTIONS}. Run the "
            "grid to its end."
        )
    own = answers[(answers["run"] == chosen[0]) & (answers["strategy"] == "merged")].sort_values("row")
    return (own["label"] == own["prediction"]).to_numpy(float)


# -- lesson 07: the ablation dashboard. A results folder as paired differences with intervals, saved as PDF and CSV ---


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

    folder: str
    compared: list[Compared]
    tasks: list[str]
    variants: list[str]
    notes: tuple[str, ...] = ()


def board(folder: str, task: str = ALL, against: str = "AdaMix") -> Board:
    """Opens a folder of results and compares, as `open_results` and `compare` do."""
    scores = open_results(folder)
    results = scores.results
    return Board(folder, compare(scores, task, against), tasks_of(results), variants_of(results), results.notes)


# -- drawing ----------------------------------------------------------------------------------------------


def style_of(name: str, variants: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a variant or a strategy; those that have none of their own take turns."""
    known = {**STYLES, **VARIANTS}
    if name.lower() in known:
        return known[name.lower()]
    plain = [variant for variant in variants if variant.lower() not in VARIANTS]
    return OTHERS[plain.index(name) % len(OTHERS)] if name in plain else ("#666666", "x")


def draw_board(state: Board) -> View:
    """A line a comparison: its mean, its 95 % t-interval over seeds, each seed as a small mark."""
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
    ax.set_title(
        "mean and 95 % t-interval over seeds, paired; filled: an effect after Holm's correction",
        fontsize=9, loc="left",
    )  # fmt: skip
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
    filled = colour if each.verdict == EFFECT else "white"
    ax.plot(each.estimate.mean, n, marker=marker, markersize=9, color=colour, markerfacecolor=filled)


def in_points(each: Compared) -> str:
    """`+1.2 (-0.3 to +2.7)`, or that there is one seed."""
    e = each.estimate
    return f"{e.mean:+.1f}, one seed" if e.number == 1 else f"{e.mean:+.1f} ({e.low:+.1f} to {e.high:+.1f})"


def in_words(state: Board) -> str:
    """How many comparisons are made, what intervals and Holm's correction leave, and how many seeds would do."""
    compared = state.compared
    seeds = sorted({each.estimate.number for each in compared})
    several = len(compared) > 1
    parts = [
        f"{len(compared)} comparison{'s' if several else ''} on screen, {seeds[0]}"
        + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
        + f" seed{'s' if seeds[-1] > 1 else ''} each: {compared[0].reference} minus each other. "
        f"{sum(each.known for each in compared)} of the 95 % intervals leave out 0; Holm's correction for "
        f"{len(compared)} leaves {sum(each.verdict == EFFECT for each in compared)}."
    ]
    for verdict in (EFFECT, OPEN):
        named = [f"{each.task}, {each.label} {in_points(each)}" for each in compared if each.verdict == verdict]
        parts += [f"{verdict[0].upper()}{verdict[1:]}: {'; '.join(named)}."] if named else []
    if nulls := sum(each.verdict == NULL for each in compared):
        parts.append(f"{nulls} null result{'s' if nulls > 1 else ''}.")
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
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(state.compared))
    table, picture = (folder / name for name in FILES)
    write_text(table, text.getvalue())
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
        "Find a comparison that Holm's correction leaves standing, and the fewest seeds that name its winner wrongly "
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
