"""CLS against the mean of all tokens: which head the embedded backbone should have, by rows that choose nothing else.

    python data/results/heads/make.py --folder DIR --out runs/heads    # DIR holds mpqa/; goes on where it was

Four tasks, four sizes of training set, a single adapter and AdaMix: 32 cells, each with both heads at their own best
rate, which the search of `adamix-lab ablate` chooses by the NLL on a fifth of the training rows (seed 0). The rule,
written before the first run: a head wins a cell by the smaller NLL on that fifth, and the default of the embedded
backbone changes to the mean if it wins more than half of the cells. Accuracy and NLL on the tasks' own evaluation rows
stand beside; they decide nothing. After the 32 cells the same is measured with a quarter of the labels of
`subjectivity` flipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from adamix_lab.core.files import write_text
from adamix_lab.experiments.ablation import RECORD, ablate, with_rates
from adamix_lab.experiments.grids import Grid, grid_of
from adamix_lab.experiments.results import task_name
from adamix_lab.experiments.running import mixture_of, task_of
from adamix_lab.experiments.settings import Engine, Run
from adamix_lab.fast.blocks import fans_out, may_cut
from adamix_lab.fast.prefix import may_cache
from adamix_lab.fast.tree import walks

HEADS = ("cls", "mean")
PARTS = ((["aspects", "subjectivity", "reviews", "mpqa"], 0.0), (["subjectivity"], 0.25))  # tasks, wrong labels
SIZES = (400, 1000, 100, 2000)  # in the order in which they are measured
BASE: dict[str, Any] = {
    "steps": 150,
    "batch_size": 16,
    "top_blocks": 2,
    "max_length": 64,
    "evaluation_rows": 1000,
    "exact": 0,
}
SEARCH = {"factors": [0.2, 0.65, 2]}  # of the rate 0.003
VARIANTS = {f"{name}, {head}": {"method": name, "pooling": head} for name in ("single", "adamix") for head in HEADS}


def grid_for(tasks: list[str], noise: float, folder: Path | None) -> Grid:
    """The runs of some tasks."""
    settings = {**BASE, "sample": None, "compute": "best", "label_noise": noise, "folder": folder and str(folder)}
    axes = {"seed": [0], "task": tasks, "rows": list(SIZES), "variant": VARIANTS}
    return grid_of({"search": SEARCH, "base": settings, "axes": axes})


def forgone(pooling: str) -> str:
    """The fast ways that the check refuses a head; it is asked on rows of the embedded task."""
    run = Run(**{**BASE, "pooling": pooling})
    mixture, tokenizer = mixture_of(run, task := task_of(run))
    batch = dict(tokenizer([row[task.text[0]] for row in task.train[:2]], padding=True, return_tensors="pt"))
    ways = {
        "cached prefix": may_cache(mixture).permitted,
        "shared prefix": fans_out(mixture, batch),
        "last block cut to one position": may_cut(mixture.model, batch),
        "tree of routes": may_cut(mixture.model, batch) and walks(mixture, batch),
    }
    return "; ".join(name for name, permitted in ways.items() if not permitted)


def rows_of(results: pd.DataFrame, grid: Grid, out: Path) -> Iterator[dict[str, Any]]:
    """A row a finished run: what its merge has, and the smallest NLL of its trials."""
    chosen = json.loads((out / RECORD).read_text(encoding="utf-8"))["chosen"]
    dev = {(each["task"], each["variant"]): min(trial["loss"] for trial in each["tried"]) for each in chosen}
    lost = {head: forgone(head) for head in HEADS}
    for run in with_rates(grid, out):
        own = results[(results["run"] == run.key) & (results["strategy"] == "merged")]
        if own.empty:
            continue
        first, nll = own[own["primary"]].iloc[0], own[own["metric"] == "loss"].iloc[0]["value"]
        row = {"task": task_name(replace(run, rows=None)), "rows": run.rows, "method": run.method, "head": run.pooling}
        row |= {"seeds": 1, "lr": run.lr, "steps": run.steps, "dev_nll": dev[task_name(run), run.variant]}
        row |= {"accuracy": 100 * first["value"], "nll": nll, "ms_a_step": 1000 * first["seconds"] / run.steps}
        row |= {"forgoes": lost[run.pooling], "settings": json.dumps(BASE)}
        yield row | {name: first[name] for name in ("device", "versions", "date")}


def with_wins(table: pd.DataFrame) -> pd.DataFrame:
    """The table with whether a head has the smaller NLL in its cell; of a cell with one head neither has."""
    cell = table.groupby(["task", "rows", "method"])["dev_nll"]
    table.insert(8, "wins", (table["dev_nll"] == cell.transform("min")) & (cell.transform("size") == len(HEADS)))
    return table


def main(
    folder: Annotated[Path | None, typer.Option(help="Holds mpqa/, with train and test files.")] = None,
    out: Annotated[Path, typer.Option(help="Where the runs lie, and the table.")] = Path("runs/heads"),
) -> None:
    """Performs what is left of the runs and writes the table, `heads.csv`, of those that are finished."""
    rows: list[dict[str, Any]] = []
    for tasks, noise in PARTS:
        grid, place = grid_for(tasks, noise, folder), out / f"noise-{noise}"
        results, _ = ablate(grid, place, Engine(threads=1))
        rows += rows_of(results, grid, place) if results is not None else []
    table = with_wins(pd.DataFrame(rows))
    write_text(out / "heads.csv", table.to_csv(index=False, float_format="%.4g"))
    rule = table[~table["task"].str.contains("noise")]
    print(rule.groupby("head")["wins"].sum().to_string(), f"of {len(rule) // len(HEADS)} cells")


if __name__ == "__main__":
    typer.run(main)
