"""CLS against the mean of all tokens: which head the embedded backbone should have, by rows that choose nothing else.

    python data/results/heads/make.py --folder DIR --out runs/heads              # DIR holds mpqa/; minutes, on one core
    python data/results/heads/make.py --folder DIR --out runs/heads --seeds 3    # goes on where it was

Four tasks, four sizes of training set, a single adapter and AdaMix: 32 cells, each with both heads at their own best
rate, which the search of `adamix-lab ablate` chooses by the NLL on a fifth of the training rows (seed 0; the other
seeds train at the same rate, on rows of their own). The rule, written before the first run: a head wins a cell by the
smaller NLL on that fifth, averaged over the seeds, and the default of the embedded backbone changes to the mean if it
wins more than half of the cells. Accuracy and NLL on the tasks' own evaluation rows stand beside; they
decide nothing. After the 32 cells the same is measured with a quarter of the labels of `subjectivity` flipped.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import typer

from adamix_lab.core.files import write_text
from adamix_lab.experiments.ablation import TRIALS, ablate, with_rates
from adamix_lab.experiments.grids import Grid, grid_of
from adamix_lab.experiments.performing import perform_all
from adamix_lab.experiments.results import RESULTS, finished, read_table, task_name
from adamix_lab.experiments.running import mixture_of, prepare, task_of, train_whole
from adamix_lab.experiments.settings import Engine, Run, Terms
from adamix_lab.fast.blocks import fans_out, may_cut
from adamix_lab.fast.prefix import may_cache
from adamix_lab.fast.tree import walks
from adamix_lab.tasks.tasks import data_root

HEADS = ("cls", "mean")
FACTS = ("device", "versions", "date")
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


def grid_for(seed: int, size: int, tasks: list[str], noise: float, folder: Path | None) -> Grid:
    """The runs of one seed and size. Rows and wrong labels are the seed's own."""
    settings = {**BASE, "sample": None, "compute": "best", "label_noise": noise, "folder": folder and str(folder)}
    axes = {"seed": [seed], "task": tasks, "rows": [size], "variant": VARIANTS}
    return grid_of({"search": SEARCH, "base": settings, "axes": axes})


def on_slice(run: Run) -> Run:
    """A chosen run as its trial was: judged on the fifth of its training rows that it does not train on."""
    return replace(run, judged_on="slice", temperature=None, exact=0, compute="steps")


def merged(out: Path, run: Run) -> dict[str, Any]:
    """What the merge of a finished run has: "value", "loss", and where and when."""
    table = read_table(out / run.key / RESULTS).query("strategy == 'merged'")
    first, loss = table[table["primary"]].iloc[0], table[table["metric"] == "loss"].iloc[0]
    facts = {name: first[name] for name in FACTS}
    return {"value": first["value"], "loss": loss["value"], **facts}


def step_cost(run: Run) -> float:
    """Milliseconds of CPU time a training step of a run's task, method and head, on 400 rows."""
    same: dict[str, Any] = {
        "seed": 0,
        "rows": 400,
        "lr": 1e-3,
        "compute": "steps",
        "temperature": None,
        "evaluation_rows": 64,
    }
    return _step_cost(replace(run, **same))


@cache
def _step_cost(run: Run) -> float:
    took = []
    for steps in (5, 35):  # what the first steps have besides (the short-cuts are tried) is left out
        prepared = prepare(replace(run, steps=steps))
        with TemporaryDirectory() as work:
            start = time.process_time()
            train_whole(prepared, Path(work), Terms(snapshots=False))
            took.append(time.process_time() - start)
    return 1000 * (took[1] - took[0]) / 30


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


def table_of(out: Path, runs: list[Run]) -> pd.DataFrame:
    """A row a task, size, method and head, over the seeds whose runs are finished."""
    done = [run for run in runs if finished(out, run) and finished(out / TRIALS, on_slice(run))]
    cells: dict[tuple[str, int, str, str], list[Run]] = {}
    for run in done:
        cells.setdefault((task_name(replace(run, rows=None)), run.rows or 0, run.method, run.pooling), []).append(run)
    lost, rows = {head: forgone(head) for head in HEADS}, []
    for (task, size, method, head), own in cells.items():
        found, dev = [merged(out, run) for run in own], [merged(out / TRIALS, on_slice(run)) for run in own]
        means = {name: sum(each[name] for each in found) / len(found) for name in ("value", "loss")}
        row = {"task": task, "rows": size, "method": method, "head": head, "seeds": len(own)}
        row |= {"lr": own[0].lr, "steps": own[0].steps, "dev_nll": sum(each["loss"] for each in dev) / len(dev)}
        row |= {"accuracy": 100 * means["value"], "nll": means["loss"], "ms_a_step": step_cost(own[0])}
        rows.append(row | {"forgoes": lost[head], "settings": json.dumps(BASE), **{n: found[0][n] for n in FACTS}})
    table = pd.DataFrame(rows)
    cell = table.groupby(["task", "rows", "method"])["dev_nll"]
    table.insert(8, "wins", (table["dev_nll"] == cell.transform("min")) & (cell.transform("size") == len(HEADS)))
    return table


def main(
    folder: Annotated[Path, typer.Option(help="Holds mpqa/, with train and test files.")],
    out: Annotated[Path, typer.Option(help="Where the runs lie.")] = Path("runs/heads"),
    seeds: Annotated[int, typer.Option(help="A number of seeds, from 0.")] = 1,
    minutes: Annotated[float, typer.Option(help="Of this call; a later one goes on.")] = 60.0,
) -> None:
    """Performs what is left of the runs and writes the table of those that are finished."""
    end, runs, place = time.time() + 60 * minutes, list[Run](), data_root() / "results" / "heads" / "heads.csv"
    clean = ["aspects", "subjectivity", "reviews", "mpqa"]
    parts = ((clean, 0.0), (["subjectivity"], 0.25))
    for seed, (tasks, noise), size in itertools.product(range(seeds), parts, SIZES):
        grid = grid_for(seed, size, tasks, noise, folder)
        engine = Engine(threads=1, snapshots=False, minutes=max(0.01, (end - time.time()) / 60))
        results, _ = ablate(grid, out, engine)
        if results is None:
            break
        chosen = list(with_rates(grid, out))
        perform_all([on_slice(run) for run in chosen], out / TRIALS, engine, end, print)
        runs += chosen
        table = table_of(out, runs)
        write_text(place, table.to_csv(index=False, float_format="%.4g"))
        rule = table[~table["task"].str.contains("noise")]
        print(rule.groupby("head")["wins"].sum().to_string(), f"of {len(rule) // len(HEADS)} cells")


if __name__ == "__main__":
    typer.run(main)
