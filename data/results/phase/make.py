"""The phase map of AdaMix, of the runs that are finished: its table, a picture a task, and a sentence on what decides.

    python data/results/phase/make.py --runs runs/phase     # writes map.parquet, stops.csv, map.txt and TASK.png

`data/grids/phase.yaml` says what a cell, its dose, a family of comparisons and a verdict are. `map.parquet` has a line
a cell, panel and unit: `mean` is AdaMix minus the opponent, `low` and `high` the corrected interval, `steps` are the
opponent's and `first_steps` AdaMix's, `fit` is the single adapter's training loss at its end. A cell whose ladder is
not finished has no dose and no place in the pictures. `predict.py` goes on from there.
"""

import json
from collections import Counter
from dataclasses import replace
from itertools import product
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd
import typer

from adamix_lab.analysis.plots import save_figure
from adamix_lab.analysis.statistics import verdict_of
from adamix_lab.core.files import write_text
from adamix_lab.experiments.contrasts import Scores, Side, minus
from adamix_lab.experiments.grids import Grid, read_grid
from adamix_lab.experiments.results import Results, gather, read_results
from adamix_lab.lessons.ablations import draw_phase, drawn_lines, tally

PLACE = ["task", "rows", "label_noise", "lr"]
CELL = [*PLACE, "steps"]
FAMILY = 9  # comparisons
EXPERTS = {"AdaMix": 4, "AdaMix M=2": 2, "AdaMix M=8": 8}
OWN, ROUTES = "each at its own stop", "random routes"
PANELS = ("single", "single + SWA", ROUTES, "single, lr/M", OWN, "AdaMix, down shared")  # any M has the first three


def read(runs: Path) -> Results:
    """The finished runs, with what makes a cell beside them."""
    gather(runs)
    results = read_results(runs)
    told = results.table.drop_duplicates("run").set_index("run")["settings"].map(json.loads)
    cells = pd.DataFrame(told.tolist(), told.index)[[*CELL, "judged_on"]]
    return replace(results, table=results.table.drop(columns=["task", "steps"]).join(cells, "run"))


def stops_of(table: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """Each method's rung with the smallest mean loss on the slices, where all of its ladder is finished."""
    rungs = Counter((*attrgetter(*PLACE)(run), run.variant) for run in grid.runs if run.judged_on == "slice")
    tried = table[(table["judged_on"] == "slice") & (table["strategy"] == "merged") & (table["metric"] == "loss")]
    lines = []
    for key, own in tried.groupby([*PLACE, "variant"]):
        if len(own) == rungs[key]:
            losses = own.groupby("steps")["value"].mean().reset_index()
            lines.append([*key, *losses.iloc[best := losses["value"].argmin()], best in (0, len(losses) - 1)])
    return pd.DataFrame(lines, columns=[*PLACE, "variant", "steps", "loss", "edge"])


def planned(grid: Grid, stops: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of a grid, a line each; at its own stop, each side takes as many steps as its stop has."""
    known = {tuple(key): round(steps) for *key, steps in stops[[*PLACE, "variant", "steps"]].itertuples(index=False)}
    seeds = Counter((attrgetter(*CELL)(run), run.variant) for run in grid.runs if run.judged_on != "slice")
    lines = []
    for (cell, variant), panel in product([key for key in seeds if key[1] in EXPERTS], PANELS):
        *place, steps = cell
        stop, second = known.get((*place, "single")), {OWN: "single", ROUTES: variant}.get(panel, panel)
        first_steps = known.get((*place, variant)) if panel == OWN else steps
        common = min(seeds[(*place, first_steps), variant], seeds[cell, second])
        if common and (panel != OWN or steps == stop) and (variant == "AdaMix" or panel in PANELS[:3]):
            dose = np.log2(steps / stop) if stop else np.nan
            lines.append([*cell, panel, EXPERTS[variant], variant, first_steps, second, dose, common])
    return pd.DataFrame(lines, columns=[*CELL, *"panel experts first first_steps second dose seeds".split()])


def table_of(results: Results, plan: pd.DataFrame) -> pd.DataFrame:
    """The lines of the plan that all seeds have, judged, in points and in nats."""
    table, curves = results.table[results.table["judged_on"] != "slice"], results.curves
    losses = curves.groupby("run")["task_loss"].agg(lambda each: each.tail(5).mean())
    single = table[table["variant"] == "single"].drop_duplicates("run")
    fit = single["run"].map(losses).groupby([single[name] for name in CELL]).mean()
    named = table.assign(task=table[PLACE].astype(str).agg(", ".join, axis=1), compute="steps")
    scores = Scores(replace(results, table=named.assign(variant=named["variant"] + " @ " + named["steps"].astype(str))))
    lines = []
    for line, measure in product(plan.to_dict("records"), ("score", "nll")):
        first = Side(f"{line['first']} @ {line['first_steps']}")
        second = Side(f"{line['second']} @ {line['steps']}", "random" if line["panel"] == ROUTES else "merged")
        on = scores.on_task(contrast := minus(first, second, measure=measure), ", ".join(str(line[n]) for n in PLACE))
        if len(on.by_seed) == line["seeds"]:
            judged = verdict_of(on.estimate, contrast.unit, FAMILY)
            line |= {"unit": judged.unit, "mean": on.estimate.mean, "low": judged.low, "high": judged.high}
            line |= {"verdict": judged.verdict, "rows_variance": on.rows_variance, "by_seed": json.dumps(on.by_seed)}
            for name, side in (("mean_first", first), ("mean_second", second)):
                line[name] = np.mean([*scores.by_seed(on.task, side, contrast, "steps").values()])
            lines.append(line | {"fit": fit.get(tuple(line[name] for name in CELL), np.nan)})
    return pd.DataFrame(lines)


def decides(table: pd.DataFrame) -> str:
    """One sentence: what AdaMix's advantage over the single adapter goes with, and what is left against the others."""
    by = {panel: table[(table["panel"] == panel) & (table["unit"] == "points")] for panel in PANELS}
    own = by["single"].rename(columns={"label_noise": "wrong labels", "fit": "the single adapter's training loss"})
    own = own.assign(epochs=own["steps"] / own["rows"])
    causes = ["dose", "epochs", "rows", "wrong labels", "lr", "the single adapter's training loss"]
    varied = own[[name for name in causes if own[name].nunique() > 1]]
    going = varied.corrwith(own["mean"], method="spearman").sort_values(key=lambda each: -each.abs())
    told = ", ".join(f"{name} ({value:+.2f})" for name, value in going.items())
    against = "; ".join(f"{panel}: {tally(lines)}" for panel, lines in by.items())
    return f"AdaMix's advantage over the single adapter goes with {told} (rank correlations); {against}."


def main(runs: Path = Path("runs/phase"), out: Path = Path(__file__).parent) -> None:
    """Writes the map, and says what is missing."""
    grid, results = read_grid("phase"), read(runs)
    plan = planned(grid, stops := stops_of(results.table, grid))
    table = table_of(results, plan)
    table.to_parquet(out / "map.parquet", index=False)
    write_text(out / "stops.csv", stops.to_csv(index=False, float_format="%.4g", lineterminator="\n"))
    drawn = drawn_lines(table[table["unit"] == "points"])
    for task, lines in drawn.groupby("task", sort=False):
        save_figure((picture := draw_phase(lines).picture).figure, out / f"{task}.png", picture.alt)
    left = dict(Counter(plan["panel"]) - Counter(table["panel"][table["unit"] == "points"])) or "none"
    doses = f"{plan['dose'].notna().sum()} of {len(plan)} comparisons have a dose. Missing by panel: {left}."
    write_text(out / "map.txt", f"{decides(table)}\n{doses}\n")
    print((out / "map.txt").read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
