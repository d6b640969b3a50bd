"""Lesson 09: what shipped writers wrote under one route, a new route for every token, and merged; the explorer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from statistics import fmean
from textwrap import fill

import numpy as np

from adamix_lab.analysis.plots import Picture, new_figure
from adamix_lab.core.objective import next_token_loss
from adamix_lab.generation.comparison import EXPLORED, EXPLORED_TEXTS, TASK, load_texts, load_writer, spread, write_one
from adamix_lab.generation.scores import score
from adamix_lab.generation.tasks import GenerationTask, coverage, load_generation_task, realised, slots_of
from adamix_lab.generation.training import encode_pairs
from adamix_lab.lessons import shared
from adamix_lab.lessons.controls import described
from adamix_lab.lessons.drawing import draw_cells, outline
from adamix_lab.lessons.widgets import Explorer, View
from adamix_lab.tasks.tasks import data_root

__all__ = ["encode_pairs", "load_texts", "load_writer", "next_token_loss", "score", "write_one"]
__getattr__ = shared  # what all notebooks use

ANSWERS = ("a route held for the text", "a new route for every token", "neither")
NAMES = {f"fixed-{n}": f"expert {n}" for n in range(4)}
NAMES |= {"random": "one random route a text", "anew": "a new route every token"}


def inputs() -> list[str]:
    """The ten sources that the explorer shows, spread over the evaluation set."""
    sources = load_generation_task(TASK).sources
    return [sources[n] for n in spread(len(sources), EXPLORED)]


# -- the explorer -------------------------------------------------------------------------------------------


def explored() -> dict[str, dict[str, list[str]]]:
    """What was written for the ten inputs, by the way's name in words and its beams."""
    return {plain(name): texts for name, texts in load_texts(file=EXPLORED_TEXTS).items()}


def written(number: int, route: str, beams: int) -> tuple[str, dict[str, str], str, int]:
    """(an input, counted from 1; what each route writes for it, by its name in words; the route; the beams)."""
    return inputs()[number - 1], {name: by[str(beams)][number - 1] for name, by in explored().items()}, route, beams


def share(route: str, beams: int) -> float:
    """The share of all slots of the ten inputs that a way of decoding, named in words, realises."""
    return fmean(coverage(explored()[route][str(beams)], inputs()))


def draw_written(source: str, texts: Mapping[str, str], route: str, beams: int) -> View:
    """The table of realised slots, a column a route, the chosen one outlined."""
    picture, text = draw_slots(source, texts, route), texts[route]
    slots = realised(text, slots_of(source))
    missing = [slot for slot, there in slots.items() if not there]
    lost = f"missing: {', '.join(missing)}" if missing else "all are there"
    way = f"{plain(route)}, {beams} beam{'s' if beams > 1 else ''}"
    readout = (
        f"{source} → “{text}” ({way}). {sum(slots.values())} of {len(slots)} slots, {lost}. On the ten inputs "
        f"this way realises {100 * share(route, beams):.0f} % of the slots."
    )
    alt = f"{picture.alt} Chosen: {way}, {100 * share(route, beams):.0f} % on ten inputs."
    return View(readout, Picture(picture.figure, alt))


def draw_slots(source: str, texts: Mapping[str, str], chosen: str | None = None) -> Picture:
    """A row a slot, a column a text: whether the value stands in it."""
    slots = slots_of(source)
    found = np.array([list(realised(text, slots).values()) for text in texts.values()]).T  # [slots, texts]
    figure, ax = new_figure(1.5 + 1.05 * len(texts), 1.0 + 0.42 * len(slots))
    rows, columns = [f"{slot}: {value}" for slot, value in slots.items()], [fill(plain(name), 12) for name in texts]
    draw_cells(ax, found, rows, columns, -0.2, 1.3, np.where(found, "✓", "–"), "Blues", 13)
    if chosen:
        outline(ax, 0, list(texts).index(chosen), len(slots))
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)
    counts = "; ".join(f"{plain(name)} {count}" for name, count in zip(texts, found.sum(0), strict=True))
    return Picture(figure, f"Which of {len(slots)} slots stand in each text for “{source}”: {counts}.")


def draw_task(task: GenerationTask) -> Picture:
    """What four people wrote for the first input: which slots each of them says."""
    return draw_slots(task.sources[0], {f"person {n}": text for n, text in enumerate(task.references[0], 1)})


def plain(name: str) -> str:
    """A route's name in words; any other name as it is."""
    return NAMES.get(name, name)


def decoding_explorer() -> Explorer:
    """The widget of lesson 09, over texts that were written beforehand."""
    return Explorer(**described("decoding"), compute=written, draw=lambda seen: draw_written(*seen))


# -- a table of the paper --------------------------------------------------------------------------------------


def e2e_scores() -> dict[str, dict[str, float]]:
    """Scores on E2E of the small decoder, trained in four ways, by way: `data/results/archive/e2e.json`."""
    record = json.loads((data_root() / "results" / "archive" / "e2e.json").read_text(encoding="utf-8"))
    return {line["title"]: line["scores"] for variant in record["variants"] for line in variant["rows"]}
