"""Lesson 07: stored results as lines of an effect table, AdaMix minus an opponent, and how far they can be trusted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from adamix_lab.analysis.statistics import t_interval, verdict_of
from adamix_lab.core.errors import LabError
from adamix_lab.experiments.contrasts import REFERENCE, Measure, Scores, Side, minus
from adamix_lab.experiments.results import CURVES, PREDICTIONS, RESULTS, read_results, variants_of
from adamix_lab.experiments.settings import BUDGETS, Budget
from adamix_lab.tasks.tasks import data_root

Line = Mapping[str, str]  # of an effect table, by column
MEASURES: dict[str, tuple[Measure, str]] = {"points": ("score", "accuracy"), "nats": ("nll", "loss")}
DEPTHS = (RESULTS, f"*/{RESULTS}", f"*/*/{RESULTS}")  # where a learner's own results are looked for
SHIPPED = ("cells", "budget", "core")  # in data/results


# -- opening ----------------------------------------------------------------------------------------------


def own_folders(root: Path = Path()) -> dict[str, Path]:
    """Folders below `root` with results of `adamix-lab ablate`, by their path; a grid's, not those of its runs."""
    found = sorted({path.parent for depth in DEPTHS for path in root.glob(depth)})
    return {
        str(place.relative_to(root)): place
        for place in found
        if not (place / "settings.json").is_file()  # a single run's
    }


def open_results(place: str | Path) -> Scores:
    """The results of a folder, or of shipped ones ("cells", "budget", "core"), looked up by what is compared.

    Raises FileNotFoundError where there are none; ValueError for files that are not whole or hold something else.
    """
    folder = data_root() / "results" / place if place in SHIPPED else Path(place)
    files = [folder / file for file in (RESULTS, PREDICTIONS, CURVES)]
    return _read(folder, tuple(f.stat().st_mtime_ns if f.is_file() else 0 for f in files))


@lru_cache(maxsize=4)
def _read(folder: Path, changed: tuple[int, ...]) -> Scores:
    try:
        return Scores(read_results(folder))
    except (TypeError, KeyError) as error:  # columns by these names, and something else in them
        raise LabError(
            f"{folder / RESULTS} has the columns of results but not their contents ({error}): expected what "
            "adamix-lab ablate wrote."
        ) from error


# -- comparing --------------------------------------------------------------------------------------------


def compare(scores: Scores, unit: str = "points") -> list[Line]:
    """AdaMix, merged, minus every other variant on each task and at each budget that was run, judged together.

    unit: "points" of the task's metric, or "nats", where a loss counts as it is (less is better). Raises ValueError
    where nothing can be compared.
    """
    (measure, word), sign = MEASURES[unit], 1 if unit == "points" else -1
    few, own, table = not scores.tasks(), scores.variant(REFERENCE), scores.results.table
    there = set(zip(table["task"], table["variant"], table["compute"], strict=True))
    found: list[tuple[str, list[float], float]] = []
    for task, other, budget in itertools.product(scores.tasks(few), variants_of(scores.results), BUDGETS):
        # AdaMix's equal steps serve as its equal compute, too: one side at least has runs of this budget
        run = any((task, name, budget) in there for name in (own, other))
        if other != own and run:
            on = scores.on_task(minus(REFERENCE, other, measure=measure, few_shot=few), task, budget)
            if on.by_seed:
                effect = f"{task}, {word} at {BUDGETS[budget]}: AdaMix minus {other}"
                found.append((effect, [sign * value for value in on.by_seed.values()], on.rows_variance or 0.0))
    if not found:
        raise LabError(
            "Nothing can be compared with AdaMix here: expected it and another variant with runs of one seed. Let more "
            "runs finish, or choose other results."
        )
    return [line_of(effect, unit, values, rows, len(found)) for effect, values, rows in found]


def line_of(effect: str, unit: str, values: Sequence[float], rows: float, comparisons: int) -> Line:
    """A line of an effect table, judged as one of so many comparisons; rows: see `t_interval`."""
    estimate = t_interval(values, rows)
    judged = verdict_of(estimate, unit, comparisons)
    numbers = {"mean": estimate.mean, "low": judged.low, "high": judged.high, "rows_error": math.sqrt(rows)}
    told = {name: "" if math.isnan(value) else f"{value:.5g}" for name, value in numbers.items()}
    told |= {"by_seed": " ".join(f"{value:.5g}" for value in values), "seeds": str(len(values))}
    told |= {"verdict": judged.verdict, "possible": judged.possible, "comparisons": str(comparisons)}
    return {"effect": effect, "unit": unit, **told}


def judged_alone(line: Line) -> Line:
    """A line as if nothing else had been compared."""
    values = [float(value) for value in line["by_seed"].split()]
    return line_of(line["effect"], line["unit"], values, float(line["rows_error"]) ** 2, 1)


# -- how far to trust -------------------------------------------------------------------------------------


def detectable(rows: int, disagree: float) -> float:
    """The smallest true difference of two accuracies on the same rows that four tests of five tell from 0, in points.

    A 95 % interval of paired rows, normal approximation: (1.96 + 0.84) sqrt(disagree / rows).

    Args:
        rows: of the evaluation set.
        disagree: share of rows that exactly one of the two answers rightly.
    """
    return 100 * (1.96 + 0.84) * math.sqrt(disagree / rows)


def own_rows(scores: Scores, task: str, variant: str, seed: int, budget: Budget = "steps", unit: str = "points") -> Any:
    """Of each row of a task, whether a run, merged, answers it rightly ("points", 0.0 and 1.0), or its loss: `[rows]`.

    Raises FileNotFoundError where the run or its predictions are not there.
    """
    answers, cell = scores.results.predictions, scores.cell(task, Side(variant), budget)
    runs = cell.loc[cell["seed"] == seed, "run"]
    if answers is None or runs.empty:
        raise FileNotFoundError(
            f"Predictions of {variant} on {task}, seed {seed}, are not there: expected them in {PREDICTIONS}. Run the "
            "grid to its end."
        )
    own = answers[(answers["run"] == runs.iloc[0]) & (answers["strategy"] == "merged")].sort_values("row")
    if unit == "nats":
        return -np.log(np.maximum(own["probability_of_label"].to_numpy(float), 1e-38))
    return (own["label"] == own["prediction"]).to_numpy(float)


def seeds_needed(differences: Sequence[float], smallest: float) -> int:
    """About how many seeds make the 95 % interval of a mean difference as narrow as ± the smallest that matters."""
    from scipy.stats import t

    spread = float(np.std(differences, ddof=1))
    return next(n for n in itertools.count(2) if t.ppf(0.975, n - 1) * spread / math.sqrt(n) <= smallest)
