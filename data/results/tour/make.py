"""The seeds that the tour sets its live one beside: ten times what `make tour` trains, by the same code.

    python data/results/tour/make.py            # goes on where it was stopped; about ten minutes a core
    python data/results/tour/make.py --pooling mean --out data/results/tour/mean     # the same below the other head

`seeds.csv`: of each line of the tour's table, in points (accuracy) and nats (loss), the mean over the rows by seed;
`rows_own` and `rows_difference` are what the choice of rows adds to the variance of the mean over seeds, of the line
itself and of AdaMix merged minus it (`rows_variance` of `adamix_lab.analysis.statistics`). `looks.csv`: of each look on
the way, every 25 steps, the loss on the training labels as given and the accuracy on the rows to be judged on, by seed.
`record.json` has settings, versions and date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from adamix_lab.analysis.statistics import rows_variance
from adamix_lab.core.files import write_text
from adamix_lab.experiments.grids import read_grid
from adamix_lab.experiments.tour import ADAMIX, DIGITS, Line, Look, perform_seed
from adamix_lab.training.doctor import versions

SEEDS = range(20, 30)


def seed_rows(found: Mapping[int, Sequence[Line]]) -> list[dict[str, Any]]:
    """The rows of `seeds.csv`, of each seed's lines."""
    rows = []
    for unit in DIGITS:
        values = {
            (line.model, line.strategy): torch.stack([getattr(lines[n], unit) for lines in found.values()])
            for n, line in enumerate(next(iter(found.values())))
        }  # each [seeds, rows]
        for (model, strategy), own in values.items():
            added = {"rows_own": own, "rows_difference": values[ADAMIX, "merged"] - own}
            means = dict(zip(found, own.mean(1).tolist(), strict=True))
            variances = {name: rows_variance(each.numpy()) for name, each in added.items()}
            rows.append({"model": model, "strategy": strategy, "unit": unit, **variances, **means})
    return rows


def look_rows(found: Mapping[int, Mapping[str, Sequence[Look]]]) -> list[dict[Any, Any]]:
    """The rows of `looks.csv`, of each seed's looks by model."""
    return [
        {"model": name, "step": look["step"], "unit": unit, **{str(s): found[s][name][n][unit] for s in found}}
        for name, looks in next(iter(found.values())).items()
        for n, look in enumerate(looks)
        for unit in ("loss", "accuracy")
    ]


def write_table(path: Path, rows: Sequence[Mapping[Any, Any]], digits: int) -> None:
    """Writes rows as CSV, floats to so many digits."""
    write_text(path, pd.DataFrame(rows).to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n"))


def write(found: Mapping[int, Sequence[Line]], out: Path, pooling: str = "cls") -> None:
    """Writes the seeds and what they were."""
    write_table(out / "seeds.csv", seed_rows(found), 9)
    settings = {run.key: vars(run) for run in read_grid("tour", pooling=pooling).runs}
    record = {"command": f"python data/results/tour/make.py --pooling {pooling}"}
    record |= {"date": datetime.now(UTC).date().isoformat(), "versions": versions(), "settings": settings}
    write_text(out / "record.json", json.dumps(record, indent=1) + "\n")


def main(
    out: Annotated[Path, typer.Option()] = Path(__file__).parent,
    work: Path = Path("runs/tour-seeds"),
    pooling: str = "cls",
) -> None:
    """Trains and judges what is left and writes all files. --pooling: what the head reads, as in `load_backbone`."""
    found, looks = {}, {}
    for seed in SEEDS:
        print(f"seed {seed}", flush=True)
        learned = perform_seed(read_grid("tour", seed=seed, pooling=pooling).runs, work)
        found[seed] = [line for model in learned.values() for line in model.lines]
        looks[seed] = {name: model.looks for name, model in learned.items() if model.looks}
    write(found, out, pooling)
    write_table(out / "looks.csv", look_rows(looks), 4)


if __name__ == "__main__":
    typer.run(main)
