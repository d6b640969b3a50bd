"""Finished runs of a grid as tables that are committed, and as folders again, where a grid goes on on another machine.

    python data/results/make.py pack runs/fairly data/results/fairly/cls
    python data/results/make.py unpack data/results/fairly/cls runs/fairly
    python data/results/make.py compare data/results/fairly/cls

Trials of rates and stops, in `search/`, go along, so that none is done twice. A run's settings stand in its table;
what its files of rows were known by does not go along: put the same rows where `--folder` says. `compare` writes
AdaMix minus each other variant, judged by the rules of the report, with the intervals that hold for a family.
"""

import shutil
from functools import partial
from pathlib import Path

import typer

from adamix_lab.analysis.statistics import verdict_of
from adamix_lab.core.files import safe_join, write_atomically, write_text
from adamix_lab.experiments.ablation import TRIALS
from adamix_lab.experiments.contrasts import REFERENCE, Scores, Side, minus
from adamix_lab.experiments.results import COLUMNS, RESULTS, frame, gather, read_results, read_table

app = typer.Typer(add_completion=False)


@app.command()
def pack(runs: Path, tables: Path) -> None:
    """Gathers the finished runs and trials of a folder into tables."""
    for part in (place for place in (runs, runs / TRIALS) if any(place.glob(f"*/{RESULTS}"))):
        gather(part)
        for name in COLUMNS:
            write_atomically(tables / part.relative_to(runs) / name, partial(shutil.copyfile, part / name))
            if part != runs:  # a table there would be taken for that of a run called "search"
                (part / name).unlink()


@app.command()
def unpack(tables: Path, runs: Path) -> None:
    """Makes a folder a run again; one that is finished there already stays as it is."""
    for part in (place for place in (tables, tables / TRIALS) if (place / RESULTS).is_file()):
        to, every = runs / part.relative_to(tables), {name: read_table(part / name) for name in COLUMNS}
        for run in (each for each in every[RESULTS]["run"].unique() if not (to / each / RESULTS).is_file()):
            for name in reversed(COLUMNS):  # results last: with them it is finished
                write = every[name][every[name]["run"] == run].to_parquet
                write_atomically(safe_join(to, run) / name, partial(write, index=False, write_page_checksum=True))


@app.command()
def compare(tables: Path) -> None:
    """Writes comparisons.csv: AdaMix minus each other variant, by task, view and measure, each of these a family."""
    scores, rows = Scores(read_results(tables)), []
    reference = scores.variant(REFERENCE)
    if reference is None:
        raise typer.BadParameter(f"{tables} has no runs of AdaMix: expected some, which the others are compared with.")
    for (task, view), part in scores.results.table.groupby(["task", "compute"], sort=False):
        others = [name for name in part["variant"].unique() if name != reference]
        for measure, strategy in (("score", "merged"), ("nll", "merged"), ("nll", "scaled")):
            sides = {name: minus(Side(reference, strategy), Side(name, strategy), measure=measure) for name in others}
            found = {name: scores.on_task(contrast, task, view) for name, contrast in sides.items()}
            family = {name: on for name, on in found.items() if on.by_seed}
            for name, on in family.items():
                judged = verdict_of(on.estimate, sides[name].unit, len(family))
                own = [
                    sum(scores.by_seed(task, side, sides[name], view)[seed] for seed in on.by_seed) / len(on.by_seed)
                    for _, side in sides[name].terms
                ]
                bounds = (on.estimate.mean, judged.low, judged.high)
                what = (task, view, name, measure, strategy, len(on.by_seed), len(family))
                rows.append((*what, *own, *bounds, judged.verdict))
    names = "task view against measure strategy seeds family adamix other difference low high verdict".split()
    write_text(tables / "comparisons.csv", frame(rows, names).to_csv(index=False, float_format="%.6g"))


if __name__ == "__main__":
    app()
