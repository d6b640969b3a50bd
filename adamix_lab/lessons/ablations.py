"""Lesson 07: cells to predict, the map of what was measured, the opponents' dashboard, and sentences with verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from adamix_lab.analysis.plots import Picture, new_figure
from adamix_lab.analysis.statistics import SMALLEST
from adamix_lab.core.errors import LabError
from adamix_lab.experiments.claims import FAILS, HOLDS, OPEN, verdicts_of
from adamix_lab.lessons.answers import load_answers
from adamix_lab.lessons.checks.beyond import check_detectable, check_paired_interval
from adamix_lab.lessons.checks.telling import attempt
from adamix_lab.lessons.comparisons import (
    Line,
    compare,
    detectable,
    judged_alone,
    open_results,
    own_folders,
    seeds_needed,
)
from adamix_lab.lessons.drawing import draw_cells
from adamix_lab.lessons.effects import MOST, Table, draw_forest, effects_table, outcome, row_about
from adamix_lab.lessons.widgets import Explorer, Prediction, Steps, View, brier
from adamix_lab.lessons.world import world_explorer
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.shipped import SENTENCE_SEEDS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Prediction", "attempt", "brier", "check_detectable", "check_paired_interval", "detectable", "seeds_needed"]

# -- six comparisons to predict -----------------------------------------------------------------------------------

ANSWERS = ("AdaMix", "the other", "neither")


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


# -- the map of what was measured -----------------------------------------------------------------------------

CLIP, ROWS = 7.0, (100, 400, 1000, 2000)
REAL = ("subjectivity", "reviews")
NOISE = ", 25% noise"
TASKS = ("aspects", "subjectivity", "reviews", "mpqa", *(f"{task}{NOISE}" for task in REAL))


def measured() -> DataFrame:
    """Accuracies (%) of one seed by (task, rows): "single" and "adamix", each with its better head on a slice."""
    import pandas as pd

    table = pd.read_csv(data_root() / "results" / "heads" / "heads.csv")
    return table[table["wins"]].pivot_table("accuracy", ["task", "rows"], "method")[["single", "adamix"]].dropna()


def draw_map(hidden: bool = False) -> Picture:
    """AdaMix minus a single adapter by task and number of rows, each at its own best; open boxes say so.

    hidden: only which boxes were measured, for those who have not predicted yet.
    """
    boxes = measured()
    gaps = (boxes["adamix"] - boxes["single"]).unstack().reindex(index=TASKS, columns=ROWS)
    best = boxes.max(axis=1).unstack().reindex(index=TASKS, columns=ROWS)
    told = [f"{task}, {rows} rows" + ("" if hidden else f": {gaps.loc[task, rows]:+.1f}")
            for task in TASKS for rows in ROWS if not np.isnan(gaps.loc[task, rows])]  # fmt: skip

    def text(gap: float, height: float) -> str:
        if np.isnan(gap):
            return "open"
        return "measured" if hidden else f"{gap:+.1f}\n(best {height:.0f} %)"

    texts = [[text(*pair) for pair in zip(*rows, strict=True)] for rows in zip(gaps.values, best.values, strict=True)]
    figure, ax = new_figure(8.6, 3.6)
    names = [name.replace(NOISE, ", ¼ labels wrong") for name in TASKS]
    columns = [f"{rows:,} rows" for rows in ROWS]
    values, colours = (0 * gaps, "Greys") if hidden else (gaps, "PuOr")
    draw_cells(ax, values, names, columns, -CLIP, CLIP, texts, colours)
    title = "AdaMix against one adapter" if hidden else "AdaMix minus one adapter, points; one seed: nothing is shown"
    ax.set_title(title, loc="left")
    alt = f"{title}, by data and number of training rows, each at its own best rate and head, 150 steps"
    count = f"{len(told)} of {gaps.size} boxes are measured, the others are open"
    return Picture(figure, f"{alt}; {count}: {'; '.join(told)}.")


# -- the dashboard ----------------------------------------------------------------------------------------------

JUDGED = ("with its family", "as if it were alone")


def families() -> list[str]:
    """The families of the lesson's table, in its order."""
    return list(dict.fromkeys(line["family"] for line in effects_table("07").rows))


def lines_of(results: str, unit: str, judged: str, own: Mapping[str, Path]) -> list[Line]:
    """The lines of a family of the lesson's table, or of a folder of the learner's own, in a unit."""
    if results in own:
        lines = compare(open_results(own[results]), unit)
    else:
        lines = [line for line in effects_table("07").rows if (line["family"], line["unit"]) == (results, unit)]
    if not lines:
        raise LabError(f"{results} was not measured in {unit}: choose another unit.")
    return [judged_alone(line) for line in lines] if judged == JUDGED[1] else lines


def draw_lines(lines: Sequence[Line]) -> View:
    """The forest of some lines, and in words how many are shown, alike, and not shown."""
    verdicts = [line["verdict"] for line in lines]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
    better = (
        "right of 0 AdaMix is ahead" if lines[0]["unit"] == "points" else "left of 0 AdaMix is ahead: it loses less"
    )
    more = f" The first {MOST} are drawn." if len(lines) > MOST else ""
    readout = f"{len(lines)} comparison{'s' * (len(lines) > 1)}, {counts}; {better}.{more}"
    return View(readout, draw_forest(lines[:MOST]))


def opponents(root: Path = Path()) -> Explorer:
    """The dashboard: AdaMix minus each opponent, of stored results or of those below a folder of the learner's."""
    own, stored = own_folders(root), families()
    return Explorer(
        "AdaMix minus its opponents",
        "Name an opponent that is not beaten on noisy sentences, in accuracy and in loss. Then find a line of noisy "
        "sentences whose verdict is another one once it is judged alone.",
        [
            Steps("results", "results", (*stored, *own), stored[0]),
            Steps("unit", "measured in", tuple(SMALLEST), "points"),
            Steps("judged", "judged", JUDGED, JUDGED[0]),
        ],
        partial(lines_of, own=own),
        draw_lines,
        shown={"unit": "nats"},
    )


# -- runs to compare by hand, claims, and one dimension --------------------------------------------------------------


def accuracies(*names: str) -> list[Any]:
    """Accuracies in % on noisy sentences, an array `[seeds]` a merged learner. Raises ValueError for an unknown one."""

    def of(name: str, seed: int) -> float:
        return 100 * float(load_answers(name, seed, data="noisy").merged_right.mean())

    return [np.array([of(name, seed) for seed in SENTENCE_SEEDS]) for name in names]


VERDICTS = {HOLDS: "shown", FAILS: "the opposite is shown", OPEN: "not shown"}


def claims() -> Table:
    """The paper's claims and the articles' sentences, each with its verdict."""
    paper = [
        {"who": "paper", "says": found.claim.says, "verdict": VERDICTS[found.verdict], "lesson": "07"}
        for found in verdicts_of(open_results("core"))
    ]
    return Table([*paper, *({"who": "article", **each} for each in texts()["sentences"])], tuple(paper[0]))


def dials() -> Explorer:
    """Rows, steps and rate in one dimension, where each movement trains."""
    return world_explorer(
        "The same dials in one dimension",
        "Find the steps at which the merge is nearest to the truth, then halve the rate and find them again.",
        controls=("noise", "steps", "rate"),
        shown={"steps": 100},
        classes="two classes",
    )
