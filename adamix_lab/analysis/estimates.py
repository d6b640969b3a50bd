"""Tables over the shipped experts: the estimates beside the measured gaps, likeness and curvature, by stage."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adamix_lab.analysis.kinds import task_batches
from adamix_lab.analysis.points import Point, point_of
from adamix_lab.analysis.theory import Gap, barycentre, curvature, expert_similarity, pulled, two_points
from adamix_lab.core.merging import merge_gap
from adamix_lab.core.model import MixtureModel
from adamix_lab.core.routing import generator_for
from adamix_lab.core.views import Batch
from adamix_lab.tasks.tasks import load_task
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
