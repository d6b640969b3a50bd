"""Tables over the shipped experts: the estimates beside the measured gaps, likeness and curvature, by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from adamix_lab.analysis.curvature import curvature
from adamix_lab.analysis.points import Point, point_of
from adamix_lab.analysis.similarity import expert_similarity
from adamix_lab.analysis.study import task_batches
from adamix_lab.analysis.theory import Gap, barycentre, pulled, two_points
from adamix_lab.merging import merge_gap
from adamix_lab.model import MixtureModel
from adamix_lab.routing import generator_for
from adamix_lab.tasks import load_task
from adamix_lab.twins import SEEDS, STAGES, TWINS, load_twin
from adamix_lab.views import Batch

Row = dict[str, Any]
SCALES = (0.125, 0.25, 0.5, 1.0)


def study(
    twins: Sequence[str] = tuple(TWINS),
    seeds: Sequence[int] = SEEDS,
    stages: Sequence[str] = tuple(STAGES),
    rows: int = 256,
    pairs: int = 32,
    scaled: int = 8,
    probes: int = 8,
    say: Callable[[str], None] = print,
) -> dict[str, list[Row]]:
    """Five tidy tables of shipped experts on the first rows of "aspects"; every row names twin, seed and stage.

    Returns:
        "pairs": gaps of random pairs of routes (first seed only); "scales": some of them pulled together (last stage);
        "barycentres": the merge against every route; "stages": likeness of experts and merge gaps, a row a measure;
        "curvature": at the merge, with the gap.
    """
    tables: dict[str, list[Row]] = {name: [] for name in ("pairs", "scales", "barycentres", "stages", "curvature")}
    for place, mixture, batches in _sets(twins, seeds, stages, rows):
        gap = barycentre(mixture, batches).row()
        tables["barycentres"].append({**place, **gap})
        tables["stages"] += [{**place, **row} for row in _likeness(mixture, batches[0])]
        tables["stages"].append({**place, "measure": "measured", "value": gap["measured"]})
        bent = curvature(mixture, batches, probes=probes)
        tables["curvature"].append({**place, **bent, "seed": place["seed"], "measured": gap["measured"]})
        if place["seed"] == seeds[0]:
            tables["pairs"] += [{**place, **gap.row()} for gap in gaps_of_pairs(mixture, batches, pairs)]
            for scale in SCALES if place["stage"] == stages[-1] else ():
                found = gaps_of_pairs(mixture, batches, scaled, scale)
                tables["scales"] += [{**place, "scale": scale, **gap.row()} for gap in found]
        told = "{twin}, seed {seed}, {stage}: merge - ensemble {measured:.4f}, estimated {estimate:.4f} nats"
        say(told.format(**place, **gap))
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


def _sets(
    twins: Sequence[str], seeds: Sequence[int], stages: Sequence[str], rows: int
) -> Iterator[tuple[Row, MixtureModel, list[Batch]]]:
    task = load_task("aspects")
    for twin in twins:
        for seed in seeds:
            for stage in stages:
                mixture, tokenizer = load_twin(twin, seed, stage)
                yield {"twin": twin, "seed": seed, "stage": stage}, mixture, task_batches(task, tokenizer, rows)
