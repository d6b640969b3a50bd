"""Predictions of cells that the phase map has not seen, frozen before these are run, and how they did.

    python data/results/phase/predict.py make     # predictions.csv, of the finished map (`make.py`) alone; once
    python data/results/phase/predict.py score --runs runs/phase-test     # test.csv and score.csv, of phase-test's runs

`predictions.csv` has a line a cell and panel of `data/grids/phase-test.yaml`: `said`, the mean difference in points;
the chances that it is shown `behind`, shown `ahead`, or `neither`; the likeliest of them as `sign`, with its
`probability`. A prediction is an average over the map's cells of that panel, which count less the further off they lie,
and one cell more that shows nothing. AdaMix of M experts is looked up at a dose that is smaller by log2(M / 4); a task
without stops has the geometric mean of the others' at its place. It is scored by Brier's score over the three outcomes
and by the mean error in points, against "always not shown", and against such averages over cells that are alike in
epochs alone, or in the single adapter's training loss alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from make import CELL, PLACE, planned, read, table_of

from adamix_lab.core.errors import LabError
from adamix_lab.core.files import write_text
from adamix_lab.experiments.grids import read_grid
from adamix_lab.lessons.ablations import PHASE_LR, leads

HERE = Path(__file__).parent
KEY = [*CELL, "panel", "experts"]
SIGNS, CHANCES = np.array([-1, 0, 1]), ["behind", "neither", "ahead"]
app = typer.Typer(add_completion=False)


def axes_of(lines: pd.DataFrame, rule: str) -> Any:
    """Where cells lie for a rule, `[cells, axes]`, in units of about what makes a difference."""
    if rule == "epochs":
        return np.log2(lines[["steps"]].to_numpy(float) / lines[["rows"]].to_numpy(float))
    if rule == "training loss":
        return lines[["fit"]].to_numpy(float) / 0.1
    dose = lines["dose"] - np.log2(lines["experts"] / 4)
    return np.stack([dose, np.log2(lines["rows"]) / 2, lines["label_noise"] / 0.2, np.log(lines["lr"] / PHASE_LR)], 1)


def predicted(table: pd.DataFrame, cells: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Mean and chances of each cell."""
    lines = []
    for panel, where in zip(cells["panel"], axes_of(cells, rule), strict=True):
        near = table[(table["panel"] == panel) & (table["unit"] == "points")]
        weight = np.exp(-0.5 * ((axes_of(near, rule) - where) ** 2).sum(1))
        chances = (weight @ (leads(near)[:, None] == SIGNS) + (SIGNS == 0)) / (weight.sum() + 1)
        mean = weight @ near["mean"] / (weight.sum() + 1)
        lines.append([mean, *chances, SIGNS[chances.argmax()], chances.max()])
    return pd.DataFrame(lines, cells.index, ["said", *CHANCES, "sign", "probability"])


def cells_of_test(stops: pd.DataFrame) -> pd.DataFrame:
    """What `phase-test` compares."""
    grid, place = read_grid("phase-test"), [*PLACE[1:], "variant"]
    means = np.exp2(np.log2(stops.set_index(place)["steps"]).groupby(level=place).mean()).reset_index()
    others = {run.task for run in grid.runs} - set(stops["task"])
    return planned(grid, pd.concat([stops, *(means.assign(task=task) for task in sorted(others))]))


@app.command()
def make(out: Path = HERE) -> None:
    """Predicts, once. Raises LabError for a map that is not whole, and where predictions are frozen already."""
    if (out / "predictions.csv").exists():
        raise LabError(
            f"{out / 'predictions.csv'} is there: predictions are frozen. Expected none; delete no frozen ones."
        )
    table, stops = pd.read_parquet(out / "map.parquet"), pd.read_csv(out / "stops.csv")
    plan = planned(read_grid("phase"), stops)
    if len(table) < 2 * len(plan) or plan["dose"].isna().any():
        raise LabError(f"{len(table) // 2} of {len(plan)} comparisons are there, or doses are missing: finish the map.")
    said = (cells := cells_of_test(stops)).join(predicted(table, cells, "the map"))
    write_text(out / "predictions.csv", said.to_csv(index=False, float_format="%.4g", lineterminator="\n"))


@app.command()
def score(runs: Path = Path("runs/phase-test"), out: Path = HERE) -> None:
    """Scores the frozen predictions and the simple rules on the finished cells."""
    table, said = pd.read_parquet(out / "map.parquet"), pd.read_csv(out / "predictions.csv")
    found = table_of(read(runs), cells_of_test(pd.read_csv(out / "stops.csv")))
    write_text(out / "test.csv", found.to_csv(index=False, float_format="%.4g", lineterminator="\n"))
    found = found[found["unit"] == "points"].merge(said[[*KEY, "said", *CHANCES]], "left", KEY)
    rules = {"the map": found, "always not shown": found.assign(said=0.0, behind=0.0, neither=1.0, ahead=0.0)}
    rules |= {rule: predicted(table, found, rule) for rule in ("epochs", "training loss")}
    happened, lines = leads(found)[:, None] == SIGNS, []
    for rule, own in rules.items():
        brier = ((own[CHANCES].to_numpy(float) - happened) ** 2).sum(1).mean()
        lines.append(
            {"rule": rule, "cells": len(found), "brier": brier, "error": (found["mean"] - own["said"]).abs().mean()}
        )
    scores = pd.DataFrame(lines)
    write_text(out / "score.csv", scores.to_csv(index=False, float_format="%.4g", lineterminator="\n"))
    print(scores.to_string(index=False))


if __name__ == "__main__":
    app()
