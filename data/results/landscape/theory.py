"""Merging against ensembling on the shipped experts: estimates and measurements, likeness, curvature, by stage.

    python data/results/landscape/theory.py --twin adamix --twin no-consistency --seeds 2

makes `theory.json` beside it, and the pictures; a run that was killed goes on when the command is given again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from adamix_lab.analysis import plots
from adamix_lab.analysis.landscape import task_batches
from adamix_lab.analysis.points import Point, point_of
from adamix_lab.analysis.theory import Gap, barycentre, contract, curvature, expert_similarity, two_points
from adamix_lab.core.errors import one_of, positive
from adamix_lab.core.files import write_text
from adamix_lab.core.merging import merge_gap
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.models.model import MixtureModel
from adamix_lab.tasks.loading import load_task
from adamix_lab.training.doctor import versions
from adamix_lab.training.shipped import SEEDS, STAGES, TWINS, load_twin

Row = dict[str, Any]
Tables = dict[str, list[Row]]
TABLES = ("pairs", "scales", "barycentres", "stages", "curvature")
SCALES = (0.125, 0.25, 0.5, 1.0)
TITLES = {
    "cosine": "cosine of experts",
    "angle": "angle between spans (degrees)",
    "cka": "CKA of experts' updates",
    "merge_gap": "relative gap of a site's output",
    "measured": "merge minus ensemble (nats)",
}


@dataclass(frozen=True)
class Study:
    """Which shipped experts are looked at, and how closely.

    Attributes:
        twins, seeds, stages: every combination is a set of experts.
        rows: of the evaluation set of "aspects", the first ones.
        pairs: of routes, drawn for the first seed.
        scaled: pairs pulled together, at the last stage.
        probes: random signs for the trace.
    """

    twins: tuple[str, ...] = tuple(TWINS)
    seeds: tuple[int, ...] = SEEDS
    stages: tuple[str, ...] = tuple(STAGES)
    rows: int = 128
    pairs: int = 32
    scaled: int = 8
    probes: int = 8

    def __post_init__(self) -> None:
        for name in ("rows", "pairs", "scaled", "probes"):
            positive(name, getattr(self, name))
        positive("seeds", len(self.seeds))

    def sets(self) -> list[Row]:
        """Twin, seed and stage of every set."""
        every = itertools.product(self.twins, self.seeds, self.stages)
        return [{"twin": twin, "seed": seed, "stage": stage} for twin, seed, stage in every]


def study_set(study: Study, experts: Row) -> Tables:
    """Tidy tables of one set of experts; every row names twin, seed and stage.

    Returns:
        "pairs": gaps of random pairs of routes; "scales": some of them pulled together; "barycentres": the merge
        against every route; "stages": likeness of experts and merge gaps, a row a measure; "curvature": at the merge,
        with the gap.
    """
    mixture, tokenizer = load_twin(experts["twin"], experts["seed"], experts["stage"])
    batches = task_batches(load_task("aspects"), tokenizer, study.rows)
    tables: Tables = {name: [] for name in TABLES}
    gap = barycentre(mixture, batches).row()
    tables["barycentres"] = [gap]
    tables["stages"] = expert_similarity(mixture, batches[0])
    gaps = merge_gap(mixture, batches[0])
    tables["stages"] += [{"site": site, "measure": "merge_gap", "value": value} for site, value in gaps.items()]
    tables["stages"].append({"measure": "measured", "value": gap["measured"]})
    found = curvature(mixture, batches, seed=experts["seed"], probes=study.probes)
    tables["curvature"] = [{**found, "measured": gap["measured"]}]
    if experts["seed"] == study.seeds[0]:
        tables["pairs"] = [pair.row() for pair in gaps_of_pairs(mixture, batches, study.pairs)]
        for scale in SCALES if experts["stage"] == study.stages[-1] else ():
            pairs = gaps_of_pairs(mixture, batches, study.scaled, scale)
            tables["scales"] += [{"scale": scale, **pair.row()} for pair in pairs]
    return {name: [{**experts, **row} for row in rows] for name, rows in tables.items()}


def gaps_of_pairs(mixture: MixtureModel, batches: Sequence[Batch], number: int, scale: float = 1.0) -> list[Gap]:
    """Gaps of so many different random pairs of routes, pulled to a share of their distance (seed 0)."""
    routes = mixture.space.number
    if number > routes * (routes - 1) // 2:
        raise ValueError(f"pairs = {number}: expected at most {routes * (routes - 1) // 2}, as {routes} routes make.")
    generator = generator_for(0)
    pairs: dict[frozenset[tuple[int, ...]], tuple[Point, Point]] = {}
    while len(pairs) < number:
        first, second = mixture.space.draw(generator, (2,))
        pair = frozenset(tuple(route.flatten().tolist()) for route in (first, second))
        if len(pair) == 2 and pair not in pairs:
            pairs[pair] = contract(point_of(mixture, first), point_of(mixture, second), scale)
    return two_points(mixture, list(pairs.values()), batches)


def write_theory(folder: Path, study: Study, say: Callable[[str], None] = print) -> Tables:
    """The tables of a study as `theory.json`, written after every set of experts, and their pictures.

    A run that was killed goes on after the last set that is there. Raises ValueError where the file is another
    study's.
    """
    path, settings = folder / "theory.json", json.loads(json.dumps(asdict(study)))
    record = {"study": settings, "done": [], **{name: [] for name in TABLES}}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["study"] != settings:
            raise ValueError(
                f"{path} holds another study ({record['study']}): expected {settings}. Choose another folder, or "
                "delete it."
            )
    for experts in study.sets():
        if experts in record["done"]:
            continue
        found = study_set(study, experts)
        for name, rows in found.items():
            record[name] += rows
        record["done"].append(experts)
        write_text(path, json.dumps({**record, "versions": versions()}) + "\n")
        line = "{twin}, seed {seed}, {stage}: merge - ensemble {measured:.4f}, estimated {estimate:.4f} nats"
        say(line.format(**found["barycentres"][0]))
    pictures = {
        "gaps": plot_gaps(record["pairs"], record["barycentres"]),
        "scales": plot_scales(record["scales"]),
        "stages": plot_stages(record["stages"]),
        "curvature": plots.plot_curvature(record["curvature"]),
    }
    for name, picture in pictures.items():
        plots.save_figure(picture.figure, folder / f"{name}.png", picture.alt)
        say(f"{folder / name}.png: {picture.alt}")
    return {name: record[name] for name in TABLES}


def plot_gaps(pairs: Sequence[Row], barycentres: Sequence[Row]) -> plots.Picture:
    """The estimate of merge minus ensemble against the measured difference: pairs of routes, and barycentres.

    Rows: twin, stage, estimate, measured (nats).
    """
    figure, axes = plots.panels(2, 11, 4.8)
    parts, titles = [], ("pairs of routes", "all experts against all routes")
    for ax, rows, title in zip(axes, (pairs, barycentres), titles, strict=True):
        found = plots.scatter_twins(ax, rows, "measured", "estimate", alpha=0.6)
        ax.axline((0, 0), slope=1, color="#444444", linewidth=1)
        ax.set_xscale("symlog", linthresh=1e-3)
        ax.set_yscale("symlog", linthresh=1e-3)
        ax.set_title(f"{title} (n = {len(rows)})\n{found}")
        ax.set(xlabel="measured: loss of the merge minus of the ensemble (nats)", ylabel="second-order estimate (nats)")
        ax.legend(frameon=False, fontsize=8, title="larger: later in training", title_fontsize=8)
        values = [row[key] for row in rows for key in ("measured", "estimate")]
        parts.append(f"{title}: {len(rows)} points, {found}, values from {min(values):.4f} to {max(values):.4f}")
    return plots.Picture(
        figure, f"Estimated against measured gap between merge and logit ensemble. {'; '.join(parts)}."
    )


def plot_scales(rows: Sequence[Row]) -> plots.Picture:
    """Where the estimate breaks: measured and estimated gap of pairs pulled to a share of their distance.

    rows: twin, scale, estimate, measured, averaged here over equal (twin, scale).
    """
    figure, ax = plots.new_figure(7.5, 4.5)
    parts = []
    for twin, group in pd.DataFrame(rows).groupby("twin", sort=False):
        colour, marker = plots.style_of(str(twin))
        means = group[["measured", "estimate"]].abs().groupby(group["scale"]).mean()
        ax.plot(means["measured"], color=colour, marker=marker, label=f"{twin}, measured")
        ax.plot(means["estimate"], color=colour, marker=marker, markerfacecolor="white", linestyle="--")
        listed = ", ".join(f"{scale:g}: {m:.2g} and {e:.2g}" for scale, m, e in means.itertuples())
        parts.append(f"{twin} at {listed}")
    ax.set(xscale="log", yscale="log", ylabel="mean |merge - ensemble| (nats)")
    ax.set_xlabel("share of the two routes' distance (dashed: estimated)")
    ax.legend(frameon=False, fontsize=8)
    plots.despine(ax)
    return plots.Picture(figure, f"Measured and estimated size of the gap by distance. {'; '.join(parts)}.")


def plot_stages(
    rows: Sequence[Row], measures: Sequence[str] = ("cosine", "cka", "merge_gap", "measured")
) -> plots.Picture:
    """One panel a measure over stages of training, a line a twin: means over seeds, each seed a dot.

    rows: twin, seed, stage, measure, value.
    """
    figure, axes = plots.panels(len(measures), 3.4 * len(measures), 3.8)
    table, parts = pd.DataFrame(rows), []
    stages = list(table["stage"].unique())
    for ax, measure in zip(axes, measures, strict=True):
        for twin, group in table[table["measure"] == measure].groupby("twin", sort=False):
            colour, marker = plots.style_of(str(twin))
            means = group.groupby("stage", sort=False)["value"].mean()[stages]
            seeds = group.groupby(["stage", "seed"], sort=False)["value"].mean()
            ax.plot(range(len(stages)), means, color=colour, marker=marker, label=twin)
            ax.scatter([stages.index(stage) for stage, _ in seeds.index], seeds, s=8, color=colour)
            parts.append(f"{TITLES[measure]}, {twin}: {', '.join(f'{mean:.3f}' for mean in means)}")
        ax.set_xticks(range(len(stages)), stages)
        ax.set_title(TITLES[measure], fontsize=10)
        plots.despine(ax)
    axes[-1].legend(frameon=False, fontsize=8)
    return plots.Picture(figure, f"Measures at stages {', '.join(stages)}. {'; '.join(parts)}.")


def main(
    rows: int = 128, pairs: int = 32, seeds: int = 3, twin: list[str] | None = None, out: Path = Path(__file__).parent
) -> None:
    """Merging against ensembling on the shipped experts: `theory.json` and its pictures.

    --rows: the first so many of the evaluation set. --pairs: of routes, a stage. --seeds: 0, 1, ... of the twins.
    --twin: once for each; all four by default.
    """
    for name in twin or ():
        one_of("Twin", name, TWINS)
    write_theory(out, Study(tuple(twin or TWINS), tuple(range(seeds)), rows=rows, pairs=pairs))


if __name__ == "__main__":
    typer.run(main)
