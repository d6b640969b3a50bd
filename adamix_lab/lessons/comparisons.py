"""Lesson 07: results of a grid as differences between variants, paired, and how far they can be trusted."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adamix_lab.analysis.statistics import Estimate, Judged, holm, verdict_of
from adamix_lab.core.errors import LabError, unknown
from adamix_lab.experiments.contrasts import Contrast, Scores, Side, minus
from adamix_lab.experiments.results import CURVES, PREDICTIONS, RESULTS, read_results, variants_of
from adamix_lab.experiments.settings import BUDGETS, Budget
from adamix_lab.tasks.tasks import data_root

if TYPE_CHECKING:
    from pandas import DataFrame


ONE_SEED = "one seed"
ALL = "all"
DRAWS = 20_000
# Results that ship in data/results, with what makes them.
MAKERS = {
    "core": "adamix-lab ablate data/grids/core.yaml --folder DIR --out data/results/core",
    "budget": "adamix-lab ablate data/grids/budget.yaml --threads 1 --no-snapshots --out data/results/budget",
}


# -- opening ----------------------------------------------------------------------------------------------


def is_there(name: str) -> bool:
    """Whether shipped results of that name are there."""
    return (data_root() / "results" / name / RESULTS).is_file()


def shipped() -> str:
    """The first of the shipped results that is there; where none is, the last, which says so when it is opened."""
    return next(filter(is_there, MAKERS), list(MAKERS)[-1])


def results_folder(name: str) -> Path:
    """The folder of shipped results by their name, or any folder by its path (a file in it serves, too).

    Raises FileNotFoundError, with the command that makes them, where there are none.
    """
    if name in MAKERS:
        if not is_there(name):
            raise FileNotFoundError(
                f"The results “{name}” are not there: expected tables in data/results/{name}. They are made by "
                f"{MAKERS[name]} (data/grids/README.md says what DIR holds)."
            )
        return data_root() / "results" / name
    place = Path(os.path.expanduser(name.strip()))
    place = place.parent if place.is_file() else place
    if not place.is_dir():
        raise FileNotFoundError(
            f"“{name}” is no folder here: expected one that adamix-lab ablate wrote, with {RESULTS} in it, or one of "
            f"{', '.join(MAKERS)}."
        )
    return place


def open_results(name: str) -> Scores:
    """The results of a folder, or of shipped ones by name, looked up by what is compared.

    Raises FileNotFoundError as `results_folder` does; ValueError for files that are not whole or hold something else.
    """
    place = results_folder(name)
    files = [place / file for file in (RESULTS, PREDICTIONS, CURVES)]
    return _read(place, tuple(f.stat().st_mtime_ns if f.is_file() else 0 for f in files))


@lru_cache(maxsize=4)
def _read(place: Path, changed: tuple[int, ...]) -> Scores:
    try:
        return Scores(read_results(place))
    except ImportError as error:
        raise LabError(str(error)) from error
    except (TypeError, KeyError) as error:  # columns by these names, and something else in them
        raise LabError(
            f"{place / RESULTS} has the columns of results but not their contents ({error}): expected what "
            "adamix-lab ablate wrote."
        ) from error


# -- comparing --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A reference minus another side on one task, in points.

    Attributes:
        reference, other: names of what is compared.
        budget: "steps", or "compute": as many operations as AdaMix's steps take.
        by_seed: the difference for each seed that both have.
        estimate: its mean with a 95 % t-interval over seeds, and rows where predictions are stored.
        judged: the estimate among all that is compared at once.
        adjusted: p after Holm's correction over these.
    """

    task: str
    reference: str
    other: str
    budget: Budget
    by_seed: dict[int, float]
    estimate: Estimate
    judged: Judged
    adjusted: float = math.nan

    @property
    def label(self) -> str:
        """The other side, with its budget where that is operations."""
        return self.other if self.budget == "steps" else f"{self.other}, {BUDGETS[self.budget]}"

    @property
    def known(self) -> bool:
        """Whether the interval over all seeds leaves 0 out, so that there is a winner to be named."""
        return self.estimate.low > 0 or self.estimate.high < 0

    @property
    def verdict(self) -> str:
        """Of this comparison among all that were made at once: "shown", "alike", "not shown", or "one seed"."""
        return ONE_SEED if self.estimate.number == 1 else self.judged.verdict


def compare(scores: Scores, task: str = ALL, against: str = "AdaMix") -> list[Compared]:
    """Every difference to a reference, task by task, corrected for their number.

    Args:
        task: one of the results', or "all".
        against: a variant ("AdaMix"): all other variants, merged, are compared with it; or a variant and a strategy
            ("AdaMix, merged"): its other strategies are.

    Raises ValueError for a task, variant or strategy that was not run, and where nothing can be compared.
    """
    few = not scores.tasks()
    tasks = scores.tasks(few)
    task = {name.lower(): name for name in (ALL, *tasks)}.get(task.strip().lower(), task)
    if task != ALL and task not in tasks:
        raise unknown("Task", task, [ALL, *tasks])
    reference, others, names = _sides(scores, against)
    compute = scores.results.table.loc[scores.results.table["compute"] == "compute", ["task", "variant"]]
    own = set(compute.itertuples(index=False, name=None))
    found = []
    for here in tasks if task == ALL else [task]:
        for name, other in zip(names[1:], others, strict=True):
            for budget in BUDGETS:
                if budget == "compute" and not {(here, reference.variant), (here, other.variant)} & own:
                    continue
                on = scores.on_task(minus(reference, other, few_shot=few), here, budget)
                if on.by_seed:
                    found.append((here, names[0], name, budget, on))
    if not found:
        raise LabError(
            f"Nothing can be compared with {against!r} on {task!r}: expected two variants with runs of one seed. Let "
            "more runs finish, or choose another."
        )
    adjusted = holm([each[-1].estimate.p for each in found])
    return [
        Compared(at, to, name, budget, on.by_seed, on.estimate, verdict_of(on.estimate, "points", len(found)), p)
        for (at, to, name, budget, on), p in zip(found, adjusted, strict=True)
    ]


def _sides(scores: Scores, against: str) -> tuple[Side, list[Side], list[str]]:
    """The reference, the others, and the names of both."""
    name, _, strategy = (part.strip() for part in against.partition(","))
    table, variants = scores.results.table, variants_of(scores.results)
    variant = scores.variant(name)
    if variant is None:
        raise unknown("Variant", name, variants)
    if not strategy:
        others = [other for other in variants if other != variant]
        return Side(variant), [Side(other) for other in others], [variant, *others]
    strategies = list(dict.fromkeys(table.loc[table["variant"] == variant, "strategy"]))
    if strategy not in strategies:
        raise unknown(f"Strategy of {variant}", strategy, strategies)
    if len(strategies) == 1:
        raise LabError(f"{variant} answers in one way only ({strategy}): nothing to compare. Choose a mixture.")
    others = [other for other in strategies if other != strategy]
    return Side(variant, strategy), [Side(variant, other) for other in others], [f"{variant}, {strategy}", *others]


def own_scores(scores: Scores, task: str, variant: str, budget: Budget = "steps") -> dict[int, float]:
    """A variant's merged score by seed, times 100, in the order of seeds: lists of two variants are pairs."""
    found = scores.by_seed(task, Side(variant), Contrast((), few_shot=not scores.tasks()), budget)
    return dict(sorted(found.items()))


def league_table(scores: Scores, task: str, seed: int = 0) -> DataFrame:
    """One seed's scores at equal steps, the best first: what a report of one run a variant would print."""
    import pandas as pd

    found = {variant: own_scores(scores, task, variant).get(seed) for variant in variants_of(scores.results)}
    column = f"{scores.primary[task]} x 100, seed {seed}"
    table = pd.DataFrame({column: {variant: score for variant, score in found.items() if score is not None}})
    return table.sort_values(column, ascending=False).round(1)


# -- how far to trust -------------------------------------------------------------------------------------


def wrong_winner(differences: Sequence[float], seeds: int) -> float:
    """Chance that the mean of so many seeds names another winner than the mean of all (a tie counts half).

    The seeds are drawn with replacement from the differences, one a seed: without it, as many as there are would
    never be wrong. Estimated by draws; its standard error is below 0.4 points.
    """
    values = np.asarray(differences, dtype=float)
    chosen = np.random.default_rng(0).integers(0, len(values), (DRAWS, seeds))
    signs = np.sign(np.round(values[chosen].mean(1), 9)) * np.sign(np.round(values.mean(), 9))
    return float((signs < 0).mean() + (signs == 0).mean() / 2)


def fewest_seeds(compared: Compared) -> int | None:
    """The fewest seeds from which on their mean names the wrong winner in under 5 % of draws.

    None: not with these runs, because all seeds together name none, or because even as many as there are do not do.
    """
    if not compared.known:
        return None
    values = list(compared.by_seed.values())
    rare = [wrong_winner(values, n) < 0.05 for n in range(1, len(values) + 1)]
    return next((n for n in range(1, len(values) + 1) if all(rare[n - 1 :])), None)


def detectable(rows: int, disagree: float) -> float:
    """The smallest true difference of two accuracies on the same rows that four tests of five tell from 0, in points.

    A 95 % interval of paired rows, normal approximation: (1.96 + 0.84) sqrt(disagree / rows).

    Args:
        rows: of the evaluation set.
        disagree: share of rows that exactly one of the two answers rightly.
    """
    return 100 * (1.96 + 0.84) * math.sqrt(disagree / rows)


def is_run(name: str, task: str, variant: str, budget: Budget = "steps") -> bool:
    """Whether shipped results are there and hold a variant at a budget."""
    return is_there(name) and bool(own_scores(open_results(name), task, variant, budget))


def right_rows(scores: Scores, task: str, variant: str, seed: int, budget: Budget = "steps") -> Any:
    """Whether a run, merged, answers each row of a task rightly, `[rows]`, as 0.0 and 1.0.

    Raises FileNotFoundError where the run or its predictions are not there.
    """
    answers, table = scores.results.predictions, scores.results.table
    runs = table[(table["task"] == task) & (table["variant"] == variant) & (table["compute"] == budget)]
    chosen = runs.loc[(runs["seed"] == seed) & (runs["examples"] == 0), "run"].unique()
    if answers is None or not len(chosen):
        raise FileNotFoundError(
            f"Predictions of {variant} on {task}, seed {seed}, are not there: expected them in {PREDICTIONS}. Run the "
            "grid to its end."
        )
    own = answers[(answers["run"] == chosen[0]) & (answers["strategy"] == "merged")].sort_values("row")
    return (own["label"] == own["prediction"]).to_numpy(float)
