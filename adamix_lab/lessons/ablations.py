"""Lesson 07: cells to predict, the map of what was measured, the opponents' dashboard, and sentences with verdicts."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from adamix_lab.analysis.plots import Picture, new_figure
from adamix_lab.analysis.statistics import SHOWN, SMALLEST
from adamix_lab.core.errors import LabError
from adamix_lab.experiments.claims import FAILS, HOLDS, OPEN, verdicts_of
from adamix_lab.lessons.answers import load_answers, place_of
from adamix_lab.lessons.checks.beyond import check_detectable as check_detectable
from adamix_lab.lessons.checks.beyond import check_paired_interval as check_paired_interval
from adamix_lab.lessons.checks.telling import attempt as attempt
from adamix_lab.lessons.comparisons import Line, compare, judged_alone, open_results, own_folders
from adamix_lab.lessons.comparisons import detectable as detectable
from adamix_lab.lessons.comparisons import seeds_needed as seeds_needed
from adamix_lab.lessons.effects import MOST, Table, draw_forest, effects_table
from adamix_lab.lessons.widgets import Explorer, Steps, View
from adamix_lab.lessons.widgets import Prediction as Prediction
from adamix_lab.lessons.widgets import brier as brier
from adamix_lab.lessons.world import world_explorer
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.shipped import SENTENCE_SEEDS

# -- six cells to predict -----------------------------------------------------------------------------------


ANSWERS = ("AdaMix", "the other", "neither")


@dataclass(frozen=True)
class Cell:
    """A comparison that learners predict before they see it.

    Attributes:
        effect: its line in the lesson's table.
        question: what is asked.
        why: what is told with the result.
    """

    effect: str
    question: str
    why: str


REVIEWS = "noisy reviews, accuracy at equal rate: AdaMix minus single"
ARCHIVE = "SST-2, accuracy at equal steps: AdaMix minus single"
NOISY, CLEAN = (f"{data} sentences, accuracy: AdaMix minus" for data in ("noisy", "clean"))
CELLS = (
    Cell(
        REVIEWS,
        "2,000 film reviews, a quarter of the labels wrong, 2.4 passes: AdaMix or a single adapter?",
        "A step draws one of four experts in each layer, so an expert gets the task's gradient in about 75 of the 300 "
        "steps. Where passes are few, nobody learns by heart, and those who learn slowly lose.",
    ),
    Cell(
        f"{NOISY} single",
        "400 sentences, a quarter of the labels wrong, twelve passes: AdaMix or a single adapter?",
        "Those who learn slowly learn fewer wrong labels by heart. Is this AdaMix, or is it slowness?",
    ),
    Cell(
        f"{CLEAN} single",
        "The same 400 sentences, all labels right: AdaMix or a single adapter?",
        "Without wrong labels there is less to be spared. (In loss AdaMix is ahead: see the dashboard.)",
    ),
    Cell(
        f"{NOISY} slow-swa",
        "Wrong labels again: AdaMix or one adapter at lr/M, its steps averaged?",
        "This is the moment to remember: where labels are wrong, an adapter with smaller steps and averaged weights "
        "catches AdaMix. On the clean sentences it does not: there AdaMix is ahead of it by 0.9 points, shown as well.",
    ),
    Cell(
        f"{NOISY} probe",
        "Wrong labels again: AdaMix or a tuned linear probe, which trains no adapter?",
        "On few noisy rows the frozen vectors and a strong penalty are hard to beat in accuracy; in loss it is the "
        "other way round (see the dashboard).",
    ),
    Cell(
        ARCHIVE,
        "SST-2: AdaMix or a single adapter?",
        "The difference is shown, and no evidence for AdaMix: rates were searched for 300 steps, used for 2,000, and "
        "one more right answer of 800 gave the single adapter three times AdaMix's rate. In a pilot at a smaller rate "
        "the two were 0.3 points apart.",
    ),
)


def line_about(effect: str) -> Line:
    """The line of the lesson's table with that name."""
    return next(line for line in effects_table("07", effect).rows if line["effect"] == effect)


def truth_of(effect: str) -> str:
    """Which of ANSWERS is right: a winner is named only where a difference is shown."""
    line = line_about(effect)
    ahead = float(line["mean"]) > 0 if line["unit"] == "points" else float(line["mean"]) < 0
    return ANSWERS[not ahead] if line["verdict"] == SHOWN else ANSWERS[2]


def question(number: int) -> str:
    """The question about a cell, from 1 on."""
    return f"Question {number} of {len(CELLS)}. {CELLS[number - 1].question}"


def result(number: int) -> tuple[Callable[[], Any], str]:
    """(what shows the result of a cell, and why; which of ANSWERS is right), for `Prediction.then`."""
    cell = CELLS[number - 1]
    return lambda: [draw_forest([line_about(cell.effect)]), cell.why], truth_of(cell.effect)


# -- the map of what was measured -----------------------------------------------------------------------------


CLIP, ROWS = 5.0, (100, 400, 1000, 2000)
TASKS, REAL = ("aspects", "subjectivity", "reviews", "mpqa"), ("subjectivity", "reviews")
NOISE = ", 25% noise"
OWN_BEST = "each at its own best rate and head, 150 steps, one seed"


@dataclass(frozen=True)
class Box:
    """A box of the map: accuracies in % of one seed."""

    single: float
    adamix: float

    @property
    def difference(self) -> float:
        """AdaMix minus the single adapter, in points."""
        return self.adamix - self.single


@lru_cache(maxsize=1)
def measured() -> dict[tuple[str, int], Box]:
    """The map by task and rows: single adapters and AdaMix, each with the head that has the smaller loss on a slice."""
    text = (data_root() / "results" / "heads" / "heads.csv").read_text(encoding="utf-8")
    best: dict[tuple[str, int], dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        if row["wins"] == "True":
            best.setdefault((row["task"], int(row["rows"])), {})[row["method"]] = float(row["accuracy"])
    return {place: Box(own["single"], own["adamix"]) for place, own in best.items() if len(own) == 2}


def draw_map(hidden: bool = False) -> Picture:
    """AdaMix minus a single adapter by task and number of rows, each at its own best; open boxes say so.

    hidden: only which boxes were measured, for those who have not predicted yet.
    """
    from matplotlib import colormaps

    boxes, names = measured(), [*TASKS, *(f"{task}{NOISE}" for task in REAL)]
    figure, ax = new_figure(8.6, 3.6)
    told = []
    for y, name in enumerate(names):
        for x, rows in enumerate(ROWS):
            box = boxes.get((name, rows))
            colour: Any = "white"
            text = "open"
            if box:
                share = 0.5 + 0.5 * max(-1.0, min(1.0, box.difference / CLIP))
                colour = "#DDDDDD" if hidden else colormaps["PuOr"](0.15 + 0.7 * share)
                text = "measured" if hidden else f"{box.difference:+.1f}\n(best {max(box.single, box.adamix):.0f} %)"
                told.append(f"{name}, {rows} rows{'' if hidden else f': {box.difference:+.1f}'}")
            ax.fill_between([x - 0.5, x + 0.5], y - 0.5, y + 0.5, facecolor=colour, edgecolor="#666666",
                            hatch="//" if box and not hidden else None, linewidth=0.5)  # fmt: skip
            ax.text(x, y, text, ha="center", va="center", fontsize=9, color="black" if box else "#666666",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.8})  # fmt: skip
    ax.set_xticks(range(len(ROWS)), [f"{rows:,} rows" for rows in ROWS])
    ax.set_yticks(range(len(names)), [name.replace(NOISE, ", ¼ labels wrong") for name in names])
    ax.set(xlim=(-0.5, len(ROWS) - 0.5), ylim=(len(names) - 0.5, -0.5))
    ax.set_title(
        "AdaMix against one adapter" if hidden else "AdaMix minus one adapter, points; hatched: not shown", loc="left"
    )
    count = f"{len(told)} of {len(names) * len(ROWS)} boxes are measured"
    if hidden:
        return Picture(figure, f"A map of data by number of training rows; {count}, the others are open.")
    return Picture(figure, f"AdaMix minus one adapter, {OWN_BEST}, in points; {count}: {'; '.join(told)}.")


# -- the dashboard ----------------------------------------------------------------------------------------------


JUDGED = ("with its family", "as if it were alone")


def families() -> list[str]:
    """The families of the lesson's table, in its order."""
    return list(dict.fromkeys(line["family"] for line in effects_table("07").rows))


def lines_of(results: str, unit: str, judged: str, own: Mapping[str, Path]) -> list[Line]:
    """The lines of a family of the lesson's table, or of a folder of the learner's own, in a unit."""
    if results in own:
        lines: Sequence[Line] = compare(open_results(own[results]), unit)
    else:
        lines = [line for line in effects_table("07").rows if (line["family"], line["unit"]) == (results, unit)]
    if not lines:
        raise LabError(f"{results} was not measured in {unit}: choose another unit.")
    return [judged_alone(line) for line in lines] if judged == JUDGED[1] else list(lines)


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


# -- runs to compare by hand --------------------------------------------------------------------------------------


def accuracies(*names: str) -> list[Any]:
    """Accuracies in % on noisy sentences, an array `[seeds]` a learner, of the seeds that all have, merged.

    Raises ValueError for an unknown learner.
    """
    seeds = [n for n in SENTENCE_SEEDS if all(place_of(name, n, data="noisy").is_file() for name in names)]
    return [np.array([100 * float(load_answers(name, n, data="noisy").merged_right.mean()) for n in seeds])
            for name in names]  # fmt: skip


# -- claims ------------------------------------------------------------------------------------------------------


VERDICTS = {HOLDS: "shown", FAILS: "the opposite is shown", OPEN: "not shown"}
SENTENCES = (  # of two articles of 2025, in short; what is true instead; the lesson that tells it
    ("routing is intelligent and finds the module for a text", "false: routes are drawn before the text is read", "01"),
    ("no parameters choose modules, and no load is balanced", "true: chance needs neither", "01"),
    ("no operations are added", "true of answering; a training step has two passes", "02"),
    ("355 MB become 0.8 MB", "false: these are millions of parameters; 0.8 million take 3.2 MB", "00"),
    ("consistency counteracts instability", "measured", "02"),
    ("one module distils the ensemble", "exact, layer by layer, where experts enter affinely; else near", "03"),
    ("it is linked to Bayesian neural networks", "an analogy: no prior, no data in the weights of routes", "06"),
    ("it beats all others, with 30 examples, too", "not shown; on SST-2 a linear probe is ahead, which is shown", "07"),
    ("it avoids catastrophic forgetting", "trivially: the base is frozen, as with every adapter", "08"),
)


def claims() -> Table:
    """The paper's claims and the articles' sentences, each with its verdict."""
    paper = [(v.claim.says, VERDICTS[v.verdict], "07") for v in verdicts_of(open_results("core"))]
    rows = [("paper", *each) for each in paper] + [("article", *each) for each in SENTENCES]
    columns = ("who", "says", "verdict", "lesson")
    return Table([dict(zip(columns, row, strict=True)) for row in rows], columns)


# -- in one dimension --------------------------------------------------------------------------------------------


def dials() -> Explorer:
    """Rows, steps and rate in one dimension, where each movement trains."""
    return world_explorer(
        "The same dials in one dimension",
        "Find the steps at which the merge is nearest to the truth, then halve the rate and find them again.",
        controls=("noise", "steps", "rate"),
        shown={"steps": 100},
        classes="two classes",
    )
