"""The paper's figures from results: what is drawn, or why it is not."""

from __future__ import annotations

import numpy as np

from adamix_lab.experiments.contrasts import Contrast, Scores, Side, minus
from adamix_lab.experiments.document import Block, Heading, Image, Paragraph
from adamix_lab.experiments.overview import names_of
from adamix_lab.experiments.paper import paper_table, read
from adamix_lab.experiments.pictures import Point, losses, score_against_parameters, strategies_by_seed
from adamix_lab.experiments.results import variant_called

PANELS = 4


def figures(scores: Scores) -> list[Block]:
    """Figures 1, 5 and 7, each with what the paper says of it; one that these results cannot draw is "not run"."""
    blocks: list[Block] = []
    for number, draw in ((1, _figure_1), (5, _figure_5), (7, _figure_7)):
        said = [row["says"] for row in read("figures.csv") if row["figure"] == str(number)]
        blocks += [Heading(f"Figure {number}", 3), Paragraph(f"The paper: {'; '.join(said)}.")]
        blocks.append(draw(scores) or Paragraph("Here: not run."))
    return blocks


def _figure_1(scores: Scores) -> Block | None:
    table = scores.results.table
    plain = Contrast(())
    tasks = scores.tasks()
    reference = [task for task in tasks if scores.by_seed(task, Side("AdaMix"), plain, "steps")]
    points: list[Point] = []
    for variant in names_of(scores.results):
        means = [scores.by_seed(task, Side(variant), plain, "steps") for task in reference]
        if not means or not all(means):
            continue
        score = float(np.mean([np.mean(list(by_seed.values())) for by_seed in means]))
        stored = float(table.loc[table["variant"] == variant, "stored"].median())
        points.append((variant, stored / 1e6, score))
    if len(points) < 2:
        return None
    printed = [
        (row["model"], float(row["parameters"].removesuffix("M")), float(row["average"])) for row in paper_table(1)
    ]
    return Image(score_against_parameters(printed, points, reference), "figure1.png")


def _figure_5(scores: Scores) -> Block | None:
    import pandas as pd

    rows = []
    for strategy in ("random", "fixed", "ensemble", "exact"):
        contrast = minus(Side("AdaMix", strategy), Side("AdaMix"))
        for task in scores.tasks():
            on = scores.on_task(contrast, task)
            rows += [
                {"task": task, "strategy": strategy, "seed": seed, "difference": value}
                for seed, value in on.by_seed.items()
            ]
    return Image(strategies_by_seed(pd.DataFrame(rows)), "figure5.png") if rows else None


def _figure_7(scores: Scores) -> Block | None:
    curves, table = scores.results.curves, scores.results.table
    names = [variant_called(scores.results, name) for name in ("AdaMix", "no sharing")]
    if curves is None or None in names:
        return None
    own = "task_loss" if "task_loss" in curves.columns and curves["task_loss"].notna().any() else "loss"
    runs = table[(table["compute"] == "steps") & (table["examples"] == 0)]
    runs = runs[runs["variant"].isin(names)].drop_duplicates("run")[["run", "task", "variant"]]
    joined = curves.merge(runs, on="run").rename(columns={"loss": "total_loss"} if own != "loss" else {})
    joined = joined.rename(columns={own: "loss"})
    panels = {}
    for task, part in joined.groupby("task", sort=False):
        if part["variant"].nunique() == 2:
            panels[str(task)] = part.sort_values("variant", key=lambda column: column != names[0])
    panels = dict(list(panels.items())[:PANELS])
    return Image(losses(panels), "figure7.png") if panels else None
