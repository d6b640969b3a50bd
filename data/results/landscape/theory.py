"""Merging against ensembling on the shipped experts: estimates and measurements, likeness, curvature, by stage.

    python data/results/landscape/theory.py --twin adamix --twin no-consistency --seeds 2

makes `theory.json` beside it, and the pictures; a run that was killed goes on when the command is given again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adamix_lab.analysis.landscape import task_batches
from adamix_lab.analysis.plots import (
    STAGE_SIZES,
    Picture,
    Rows,
    _mean,
    _quiet,
    correlation,
    panels,
    plot_curvature,
    save_figure,
    style_of,
)
from adamix_lab.analysis.points import Point, point_of
from adamix_lab.analysis.theory import Gap, barycentre, curvature, expert_similarity, pulled, two_points
from adamix_lab.core.files import write_text
from adamix_lab.core.merging import merge_gap
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.tasks.tasks import load_task
from adamix_lab.training.doctor import versions
from adamix_lab.training.shipped import SEEDS, STAGES, TWINS, load_twin

Row = dict[str, Any]
Tables = dict[str, list[Row]]
SCALES = (0.125, 0.25, 0.5, 1.0)


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

    def sets(self) -> list[Row]:
        """Twin, seed and stage of every set."""
        every = itertools.product(self.twins, self.seeds, self.stages)
        return [{"twin": twin, "seed": seed, "stage": stage} for twin, seed, stage in every]


def empty_tables() -> Tables:
    """The names of the tables that `study_set` fills."""
    return {name: [] for name in ("pairs", "scales", "barycentres", "stages", "curvature")}


def study_set(study: Study, place: Row) -> Tables:
    """Tidy tables of one set of experts; every row names twin, seed and stage.

    Returns:
        "pairs": gaps of random pairs of routes; "scales": some of them pulled together; "barycentres": the merge
        against every route; "stages": likeness of experts and merge gaps, a row a measure; "curvature": at the merge,
        with the gap.
    """
    mixture, tokenizer = load_twin(place["twin"], place["seed"], place["stage"])
    batches = task_batches(load_task("aspects"), tokenizer, study.rows)
    tables, gap = empty_tables(), barycentre(mixture, batches).row()
    tables["barycentres"] = [{**place, **gap}]
    tables["stages"] = [{**place, **row} for row in _likeness(mixture, batches[0])]
    tables["stages"].append({**place, "measure": "measured", "value": gap["measured"]})
    bent = curvature(mixture, batches, seed=place["seed"], probes=study.probes)
    tables["curvature"] = [{**bent, **place, "measured": gap["measured"]}]
    if place["seed"] == study.seeds[0]:
        tables["pairs"] = [{**place, **pair.row()} for pair in gaps_of_pairs(mixture, batches, study.pairs)]
        for scale in SCALES if place["stage"] == study.stages[-1] else ():
            found = gaps_of_pairs(mixture, batches, study.scaled, scale)
            tables["scales"] += [{**place, "scale": scale, **pair.row()} for pair in found]
    return tables


def gaps_of_pairs(mixture: MixtureModel, batches: Sequence[Batch], number: int, scale: float = 1.0) -> list[Gap]:
    """Gaps of so many different random pairs of routes, pulled to a share of their distance (seed 0)."""
    routes = mixture.space.number
    if number > routes * (routes - 1) // 2:
        raise ValueError(f"pairs = {number}: expected at most {routes * (routes - 1) // 2}, as {routes} routes make.")
    generator = generator_for(0)
    ends: list[tuple[Point, Point]] = []
    seen: set[frozenset[tuple[int, ...]]] = set()
    while len(ends) < number:
        first, second = mixture.space.draw(generator, (2,))
        pair = frozenset((tuple(first.flatten().tolist()), tuple(second.flatten().tolist())))
        if len(pair) == 2 and pair not in seen:
            seen.add(pair)
            ends.append(pulled(point_of(mixture, first), point_of(mixture, second), scale))
    return two_points(mixture, ends, batches)


def _likeness(mixture: MixtureModel, batch: Batch) -> Iterator[Row]:
    yield from expert_similarity(mixture, batch)
    for site, gap in merge_gap(mixture, batch).items():
        yield {"site": site, "measure": "merge_gap", "value": gap}


def write_theory(folder: Path, study: Study, say: Callable[[str], None] = print) -> Tables:
    """The tables of a study as `theory.json`, written after every set of experts, and their pictures.

    A run that was killed goes on after the last set that is there. Raises ValueError where the file is another
    study's.
    """
    path = folder / "theory.json"
    asked = json.loads(json.dumps(asdict(study)))
    record = {"study": asked, "done": [], **empty_tables()}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["study"] != asked:
            raise ValueError(
                f"{path} holds another study ({record['study']}): expected {asked}. Choose another folder, or "
                "delete it."
            )
    for place in study.sets():
        if place in record["done"]:
            continue
        found = study_set(study, place)
        for name, rows in found.items():
            record[name] += rows
        record["done"].append(place)
        write_text(path, json.dumps({**record, "versions": versions()}) + "\n")
        told = "{twin}, seed {seed}, {stage}: merge - ensemble {measured:.4f}, estimated {estimate:.4f} nats"
        say(told.format(**found["barycentres"][0]))
    tables = {name: record[name] for name in empty_tables()}
    plot_theory(tables, folder, say)
    return tables


def plot_theory(tables: Tables, folder: Path, say: Callable[[str], None] = print) -> None:
    """The pictures of a study's tables, e.g. as read from `theory.json`."""
    _write(plot_gaps(tables["pairs"], tables["barycentres"]), folder / "gaps.png", say)
    _write(plot_scales(tables["scales"]), folder / "scales.png", say)
    _write(plot_stages(tables["stages"]), folder / "stages.png", say)
    _write(plot_curvature(tables["curvature"]), folder / "curvature.png", say)


def plot_gaps(rows: Rows, barycentres: Rows = ()) -> Picture:
    """The estimate of merge minus ensemble against the measured difference: pairs of routes, and barycentres.

    rows, barycentres: twin, stage, estimate, measured (nats).
    """
    figure, axes = panels(2 if barycentres else 1, 11 if barycentres else 6, 4.8)
    told = []
    titles = ("pairs of routes", "all experts against all routes")
    for ax, given, title in zip(axes, (rows, barycentres), titles, strict=False):
        for name in dict.fromkeys(str(row["twin"]) for row in given):
            colour, marker = style_of(name)
            mine = [row for row in given if row["twin"] == name]
            sizes = [STAGE_SIZES.get(str(row["stage"]), 40) for row in mine]
            x, y = ([row[key] for row in mine] for key in ("measured", "estimate"))
            ax.scatter(x, y, s=sizes, color=colour, marker=marker, alpha=0.6, linewidth=0, label=name)
        both = [row[key] for row in given for key in ("measured", "estimate")]
        ax.axline((0, 0), slope=1, color="#444444", linewidth=1)
        ax.set_xscale("symlog", linthresh=1e-3)
        ax.set_yscale("symlog", linthresh=1e-3)
        r, rank = correlation(given)
        ax.set_title(f"{title} (n = {len(given)})\ncorrelation {r:.2f}, of ranks {rank:.2f}")
        ax.set_xlabel("measured: loss of the merge minus of the ensemble (nats)")
        ax.set_ylabel("second-order estimate (nats)")
        ax.legend(frameon=False, fontsize=8, title="larger: later in training", title_fontsize=8)
        _quiet(ax)
        told.append(
            f"{title}: {len(given)} points, correlation {r:.2f}, of ranks {rank:.2f}, "
            f"values from {min(both):.4f} to {max(both):.4f}"
        )
    return Picture(figure, "Estimated against measured gap between merge and logit ensemble. " + "; ".join(told) + ".")


def plot_scales(rows: Rows) -> Picture:
    """Where the estimate breaks: measured and estimated gap of pairs pulled to a share of their distance.

    rows: twin, stage, scale, estimate, measured, averaged here over equal (twin, scale).
    """
    figure, (ax,) = panels(1, 7.5, 4.5)
    told = []
    for name in dict.fromkeys(str(row["twin"]) for row in rows):
        colour, marker = style_of(name)
        scales = sorted({float(row["scale"]) for row in rows if row["twin"] == name})
        means = {
            key: [_mean([abs(r[key]) for r in rows if r["twin"] == name and r["scale"] == s]) for s in scales]
            for key in ("measured", "estimate")
        }
        ax.plot(scales, means["measured"], color=colour, marker=marker, label=f"{name}, measured")
        ax.plot(scales, means["estimate"], color=colour, marker=marker, markerfacecolor="white", linestyle="--")
        listed = ", ".join(
            f"{s:g}: {m:.2g} and {e:.2g}" for s, m, e in zip(scales, means["measured"], means["estimate"], strict=True)
        )
        told.append(f"{name} at {listed}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("share of the two routes' distance (dashed: estimated)")
    ax.set_ylabel("mean |merge - ensemble| (nats)")
    ax.legend(frameon=False, fontsize=8)
    _quiet(ax)
    return Picture(figure, f"Measured and estimated size of the gap by distance. {'; '.join(told)}.")


def plot_stages(rows: Rows, measures: Sequence[str] = ("cosine", "cka", "merge_gap", "measured")) -> Picture:
    """One panel a measure over stages of training, a line a twin: means over seeds, each seed a dot.

    rows: twin, seed, stage, measure, value.
    """
    names = {"cosine": "cosine of experts", "angle": "angle between spans (degrees)", "cka": "CKA of experts' updates"}
    names |= {"merge_gap": "relative gap of a site's output", "measured": "merge minus ensemble (nats)"}
    figure, axes = panels(len(measures), 3.4 * len(measures), 3.8)
    told = []
    for ax, measure in zip(axes, measures, strict=True):
        stages = list(dict.fromkeys(row["stage"] for row in rows if row["measure"] == measure))
        for twin in dict.fromkeys(str(row["twin"]) for row in rows):
            colour, marker = style_of(twin)
            mine = [row for row in rows if row["twin"] == twin and row["measure"] == measure]
            means = [_mean([r["value"] for r in mine if r["stage"] == stage]) for stage in stages]
            ax.plot(range(len(stages)), means, color=colour, marker=marker, label=twin)
            by_seed = {(r["stage"], r["seed"]): [] for r in mine}  # type: ignore[var-annotated]
            for r in mine:
                by_seed[r["stage"], r["seed"]].append(r["value"])
            ax.scatter([stages.index(s) for s, _ in by_seed], [_mean(v) for v in by_seed.values()], s=8, color=colour)
            told.append(f"{names.get(measure, measure)}, {twin}: {', '.join(f'{m:.3f}' for m in means)}")
        ax.set_xticks(range(len(stages)), stages)
        ax.set_title(names.get(measure, measure), fontsize=10)
        _quiet(ax)
    axes[-1].legend(frameon=False, fontsize=8)
    return Picture(figure, f"Measures at stages {', '.join(map(str, stages))}. {'; '.join(told)}.")


def _write(picture: Picture, path: Path, say: Callable[[str], None]) -> None:
    save_figure(picture.figure, path, picture.alt)
    say(f"{path}: {picture.alt}")


def main() -> None:
    """Reads the command line and makes the study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=128, help="the first so many evaluation rows")
    parser.add_argument("--pairs", type=int, default=32, help="pairs of routes a stage")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of the twins")
    parser.add_argument("--twin", action="append", choices=TWINS, help="once for each; default: all four")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    given = parser.parse_args()
    study = Study(tuple(given.twin or TWINS), tuple(range(given.seeds)), rows=given.rows, pairs=given.pairs)
    write_theory(given.out, study)


if __name__ == "__main__":
    main()
