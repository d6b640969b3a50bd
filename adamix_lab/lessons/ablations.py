"""Lesson 07: comparisons to predict, the phase map, the opponents' dashboard over stored or own results, claims."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from adamix_lab.analysis.plots import Picture, panels
from adamix_lab.analysis.statistics import ALIKE, NOT_SHOWN, SHOWN, SMALLEST, line_of
from adamix_lab.core.errors import LabError
from adamix_lab.experiments.contrasts import Scores
from adamix_lab.experiments.results import CURVES, PREDICTIONS, RESULTS, read_results
from adamix_lab.experiments.settings import BUDGETS
from adamix_lab.lessons import shared
from adamix_lab.lessons.controls import Sentence, choices, described
from adamix_lab.lessons.drawing import MOST, Row, Table, draw_forest, effects_table, outcome, row_about
from adamix_lab.lessons.strategies import seeds_of
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.lessons.world import world_explorer
from adamix_lab.tasks.tasks import data_root

if TYPE_CHECKING:
    from pandas import DataFrame

__getattr__ = shared  # what all notebooks use

# -- six comparisons to predict -----------------------------------------------------------------------------------

ANSWERS = ("AdaMix", "the other", "neither")
MEASURES = {  # by unit: a measure's name, and where AdaMix is ahead in a forest
    "points": ("accuracy", "right of 0 AdaMix is ahead"),
    "nats": ("loss", "left of 0 AdaMix is ahead: it loses less"),
}


@cache
def texts() -> dict[str, list[dict[str, str]]]:
    """The six questions, and the articles' sentences: `data/lessons/ablations.yaml`."""
    path = data_root() / "lessons" / "ablations.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def question(number: int) -> str:
    """The question about a comparison, from 1 on."""
    every = texts()["questions"]
    return f"Question {number} of {len(every)}. {every[number - 1]['question']}"


def result(number: int) -> tuple[Callable[[], Any], str]:
    """(what shows the result of a comparison, and why; which of ANSWERS is right), for `Prediction.then`.

    A winner is named only where a difference is shown.
    """
    effect, why = (texts()["questions"][number - 1][name] for name in ("effect", "why"))
    return lambda: [draw_forest([row_about("07", effect)]), why], outcome("07", effect, *ANSWERS)


# -- the phase map ------------------------------------------------------------------------------------------------

PHASE, PHASE_LR = data_root() / "results" / "phase" / "map.parquet", 2e-3  # the rate at which all of it is measured
HATCHES = {SHOWN: "", ALIKE: "..", NOT_SHOWN: "///"}
BOX = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}  # behind a number, which hatches would cross
LEGEND = """dose: how often the steps were doubled beyond the single adapter's best stop
blue: AdaMix is ahead, red: it is behind (striped: not shown, dotted: alike)
the number: the winner's {}"""


def drawn_lines(lines: DataFrame) -> DataFrame:
    """The lines of a phase map that have a place in its pictures."""
    return lines[(lines["lr"] == PHASE_LR) & lines["dose"].notna()]


def leads(lines: DataFrame) -> Any:
    """-1, 0 or 1 a line of the phase map: AdaMix is shown behind, neither, shown ahead."""
    return np.where(lines["verdict"] == SHOWN, np.sign(lines["mean"]), 0).astype(int)


def tally(lines: DataFrame) -> str:
    """How many cells, and how many of them are shown, or alike."""
    found, alike = list(leads(lines)), list(lines["verdict"]).count(ALIKE)
    return f"of {len(lines)} cells ahead in {found.count(1)}, behind in {found.count(-1)}, alike in {alike}"


def draw_phase(lines: DataFrame) -> View:
    """AdaMix minus each opponent, a panel: rows and wrong labels downwards, doses to the right.

    lines: `drawn_lines` of the phase map (`data/results/phase/make.py`), of one task and unit.
    """
    from matplotlib import colormaps

    (task, unit), by_panel = lines[["task", "unit"]].iloc[0], lines.groupby("panel", sort=False)
    places, doses = sorted(set(zip(lines["label_noise"], lines["rows"], strict=True))), sorted(set(lines["dose"]))
    word, digits, told = MEASURES[unit][0], 0 if unit == "points" else 2, []
    figure, axes = panels(1, 9.0, (0.3 * len(places) + 1) * len(by_panel), len(by_panel))
    for ax, (panel, own) in zip(axes, by_panel, strict=True):
        heights = [places.index(place) - 0.5 for place in zip(own["label_noise"], own["rows"], strict=True)]
        colours = colormaps["RdBu"](0.5 + own["mean"] / SMALLEST[unit] / 10)  # they end at five times what matters
        hatches, best = [*own["verdict"].map(HATCHES)], own[["mean_first", "mean_second"]].max(axis=1).abs()
        cells = ax.bar(own["dose"], 1, 1, heights, color=colours, hatch=hatches, edgecolor="#999999")
        ax.bar_label(cells, best.map(f"{{:.{digits}f}}".format), label_type="center", bbox=BOX, in_layout=False)
        ax.set(title=panel, xlim=(doses[0] - 0.5, doses[-1] + 0.5), ylim=(len(places) - 0.5, -0.5))
        ax.set_xticks(doses, [f"{dose:+g}" for dose in doses])
        ax.set_yticks(range(len(places)), [f"{rows:,} rows, {100 * noise:.0f} % wrong" for noise, rows in places])
        told.append(f"{panel}: {tally(own)}")
    axes[-1].set_xlabel(LEGEND.format(word))
    ends = [
        f"{line.mean:+.{digits + 1}f} ({line.rows:,} rows, {100 * line.label_noise:.0f} % wrong, dose {line.dose:+g})"
        for line in lines.sort_values("mean").iloc[[0, -1]].itertuples()
    ]
    readout = f"{task}, {word}; AdaMix minus {'; '.join(told)}. Differences in {unit}: between {' and '.join(ends)}."
    return View(readout, Picture(figure, f"The phase map. {readout}"))


def phase_lines(task: str, opponent: str, unit: str) -> DataFrame:
    """The lines of a panel. Raises LabError for one that the map does not hold."""
    import pandas as pd

    table = drawn_lines(pd.read_parquet(PHASE))
    lines = table[(table["task"] == task) & (table["panel"] == opponent) & (table["unit"] == unit)]
    if lines.empty:
        raise LabError(f"{opponent} was not measured on {task}: choose another opponent.")
    return lines


def phase_map() -> Explorer | Sentence:
    """The map of AdaMix against an opponent, on a task and in a unit; where it is not made yet, words that say so."""
    if not PHASE.is_file():
        return Sentence("There is no phase map yet: `python data/results/phase/make.py` makes it of finished runs.")
    return Explorer(**described("phase"), compute=phase_lines, draw=draw_phase)


# -- results of stored grids, and of the learner's own --------------------------------------------------------------

SHIPPED = "cells measured archive/budget archive/core".split()


def own_folders(root: Path = Path()) -> dict[str, Path]:
    """Folders at most two below `root` with results of `adamix-lab ablate`, by their path; none of a single run."""
    found = {path.parent for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}{RESULTS}")}
    return {str(place.relative_to(root)): place for place in sorted(found) if not (place / "settings.json").is_file()}


def open_results(place: str | Path) -> Scores:
    """The results of a folder, or of shipped ones (SHIPPED), looked up by what is compared.

    Raises FileNotFoundError where there are none; ValueError for files that are not whole or hold something else.
    """
    folder = data_root() / "results" / place if place in SHIPPED else Path(place)
    files = [folder / file for file in (RESULTS, PREDICTIONS, CURVES)]
    return _read(folder, tuple(f.stat().st_mtime_ns if f.is_file() else 0 for f in files))


@lru_cache(maxsize=4)
def _read(folder: Path, changed: tuple[int, ...]) -> Scores:
    try:
        return Scores(read_results(folder))
    except (TypeError, KeyError) as error:  # columns by these names, and something else in them
        raise LabError(
            f"{folder / RESULTS} has the columns of results but not their contents ({error}): expected what "
            "adamix-lab ablate wrote."
        ) from error


def compare(scores: Scores, unit: str = "points") -> list[Row]:
    """AdaMix, merged, minus every other variant on each task and at each budget that was run, judged together.

    unit: "points" of the task's metric, or "nats", where a loss counts as it is (less is better). Raises ValueError
    where nothing can be compared.
    """
    word, sign = MEASURES[unit][0], 1 if unit == "points" else -1
    found = list(scores.against_each([unit], few_shot=not scores.tasks()))
    if not found:
        raise LabError(
            "Nothing can be compared with AdaMix here: expected it and another variant with runs of one seed. Let more "
            "runs finish, or choose other results."
        )
    lines: list[Row] = []
    for task, view, _, other, on in found:
        effect, rows = f"{task}, {word} at {BUDGETS[view]}: AdaMix minus {other}", math.sqrt(on.rows_variance or 0.0)
        lines.append(line_of(effect, unit, [sign * value for value in on.by_seed.values()], rows, len(found)))
    return lines


def judged_alone(line: Row) -> Row:
    """A line as if nothing else had been compared."""
    values = [float(value) for value in line["by_seed"].split()]
    return line_of(line["effect"], line["unit"], values, float(line["rows_error"]), 1)


# -- the dashboard ----------------------------------------------------------------------------------------------

ALONE = "as if it were alone"


def lines_of(results: str, unit: str, judged: str, own: Mapping[str, Path]) -> list[Row]:
    """The lines of a family of the lesson's table, or of a folder of the learner's own, in a unit."""
    if results in own:
        lines = compare(open_results(own[results]), unit)
    else:
        lines = [line for line in effects_table("07").rows if (line["family"], line["unit"]) == (results, unit)]
    if not lines:
        raise LabError(f"{results} was not measured in {unit}: choose another unit.")
    return [judged_alone(line) for line in lines] if judged == ALONE else lines


def draw_lines(lines: Sequence[Row]) -> View:
    """The forest of some lines, and in words how many are shown, alike, and not shown."""
    verdicts = [line["verdict"] for line in lines]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
    more = f" The first {MOST} are drawn." if len(lines) > MOST else ""
    readout = f"{len(lines)} comparison{'s' * (len(lines) > 1)}, {counts}; {MEASURES[lines[0]['unit']][1]}.{more}"
    return View(readout, draw_forest(lines[:MOST]))


def opponents(root: Path = Path()) -> Explorer:
    """The dashboard: AdaMix minus each opponent, of stored results or of those below a folder of the learner's."""
    own, families = own_folders(root), dict.fromkeys(line["family"] for line in effects_table("07").rows)
    words = described("opponents", results=choices([*families, *own]))
    return Explorer(**words, compute=partial(lines_of, own=own), draw=draw_lines)


# -- runs to compare by hand, claims, and one dimension --------------------------------------------------------------


def accuracies(*names: str) -> list[Any]:
    """Accuracies in % on noisy sentences, an array `[seeds]` a merged learner. Raises ValueError for an unknown one."""
    return [np.array([100 * float(run.merged_right.mean()) for run in seeds_of(name, "noisy")]) for name in names]


def claims() -> Table:
    """The paper's claims, as the stored report judges them, and the articles' sentences, each with its verdict."""
    with (data_root() / "results/measured/report/claims.csv").open(encoding="utf-8", newline="") as file:
        judged = [(row["claim"], row["at equal steps"]) for row in csv.DictReader(file)]
    paper = [{"who": "paper", "says": says, "verdict": verdict, "lesson": "07"} for says, verdict in judged]
    return Table([*paper, *({"who": "article", **each} for each in texts()["sentences"])], tuple(paper[0]))


def dials() -> Explorer:
    """Rows, steps and rate in one dimension, where each movement trains."""
    return world_explorer(**described("dials"))


# -- how far to trust -------------------------------------------------------------------------------------


def detectable(rows: int, disagree: float) -> float:
    """The smallest true difference of two accuracies on the same rows that four tests of five tell from 0, in points.

    A 95 % interval of paired rows, normal approximation: (1.96 + 0.84) sqrt(disagree / rows).

    Args:
        rows: of the evaluation set.
        disagree: share of rows that exactly one of the two answers rightly.
    """
    return 100 * (1.96 + 0.84) * math.sqrt(disagree / rows)


def seeds_needed(differences: Sequence[float], smallest: float) -> int:
    """About how many seeds make the 95 % interval of a mean difference as narrow as ± the smallest that matters.

    Raises LabError for fewer than two differences, for infinite ones, and where the smallest is not above 0.
    """
    from scipy.stats import norm, t

    if len(differences) < 2 or not np.isfinite(differences).all() or not smallest > 0:
        raise LabError(f"{differences} and ± {smallest}: expected two finite differences or more, and a width above 0.")
    spread = float(np.std(differences, ddof=1))
    least = int((norm.ppf(0.975) * spread / smallest) ** 2)  # by the normal's quantile, which lies below Student's
    return next(n for n in itertools.count(max(2, least)) if t.ppf(0.975, n - 1) * spread / math.sqrt(n) <= smallest)
