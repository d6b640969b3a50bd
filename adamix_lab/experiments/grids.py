"""Grids: small tables of runs, in YAML or as Python values, in the order of their importance. Read without torch.

    base: {task: rte, steps: 300}        # settings of every run
    axes:                                # the last one varies fastest: all variants of seed 0, then those of seed 1
      seed: [0, 1, 2]
      variant:                           # names with what they change
        AdaMix: {}
        no consistency: {consistency: 0}
        single: {method: single}

`rows:` (a list of settings) stands in the place of axes where no product is meant; `parts:` is a list of such tables,
one after another. `search:` says how learning rates are chosen beforehand (`Search`).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from adamix_lab.core.errors import LabError, one_of, unknown
from adamix_lab.experiments.settings import DEFAULTS, Run, checked
from adamix_lab.tasks.tasks import EMBEDDED, PAPER_TASKS, data_root

KEYS = ("base", "axes", "rows", "parts", "search")
MOST_VALUES = 100_000  # of a grid, aliases written out


@dataclass(frozen=True)
class Search:
    """How rates and stops are chosen: each variant of each task has the same trials on a slice of its training rows.

    A trial is a training of its own length: each length has its own schedule.

    Attributes:
        factors: of the method's own rate (`BASELINES`): as many trials for each.
        stops: shares of the run's steps, tried at each rate, for runs of "best" and "oracle"; other runs keep their
            length, and their trials have it, too.
    """

    factors: tuple[float, ...]
    stops: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        given = self.factors
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2:
            raise LabError(f"search: factors = {given!r}: expected a list of two factors or more, such as [0.3, 1, 3].")
        object.__setattr__(self, "factors", tuple(checked("search: factors", "float", factor) for factor in given))
        given = self.stops if isinstance(self.stops, Sequence) and not isinstance(self.stops, str) else ()
        shares = tuple(sorted(checked("search: stops", "float", share) for share in given))
        if not shares or not 0 < shares[0] <= shares[-1] <= 1:
            raise LabError(
                f"search: stops = {self.stops!r}: expected shares above 0, at most 1, such as [0.25, 0.5, 1]."
            )
        object.__setattr__(self, "stops", shares)

    def lengths(self, run: Run) -> list[int]:
        """The steps of a run's trials, the longest last; none for a run whose rate is given."""
        if run.method == "probe" or run.compute == "rate":
            return []
        shares = self.stops if run.compute in ("best", "oracle") else (1.0,)
        return sorted({max(1, round(share * run.steps)) for share in shares})


@dataclass(frozen=True)
class Grid:
    """Runs in the order in which they matter, and how their rates are chosen (None: as they are given).

    Warns where the search is shorter than a run, and raises ValueError for runs whose rate nothing chooses.
    """

    runs: tuple[Run, ...]
    search: Search | None = None

    def __post_init__(self) -> None:
        for run in self.runs:
            if self.search is None and run.compute in ("best", "oracle"):
                raise LabError(
                    f'compute = "{run.compute}" in a grid without search: expected one, e.g. {{factors: [1, 3]}}.'
                )
            tried = self.search.lengths(run) if self.search else []
            if tried and tried[-1] < run.steps:
                warnings.warn(
                    f"The search is shorter than its runs: it tries at most {tried[-1]} steps, {run} takes {run.steps}."
                    " Rates that are best for few steps are too high for many. Let the stops reach 1.",
                    stacklevel=3,
                )
                return


# -- reading -----------------------------------------------------------------------------------------------------


def read_grid(path: str | Path, **changes: Any) -> Grid:
    """The grid of a YAML file. `changes` are settings that count for every run, whatever the file says.

    Runs that differ in nothing else are one run then.

    path: the file; without a suffix it is the name of a shipped grid, such as `quick` (`data/grids`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: what is no table, an unknown key, setting or task (near misses are named), no runs, one run twice.
    """
    path = Path(path)
    path = path if path.suffix else data_root() / "grids" / f"{path}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: expected a grid's file, or a shipped grid's name, such as quick."
        )
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no date
        raise LabError(f"{path} is not YAML ({' '.join(str(error).split())}). Correct the file.") from error
    try:
        return grid_of(table, **changes)
    except ValueError as error:
        raise LabError(f"{path}: {error}") from error


def narrowed(grid: Grid, tasks: Sequence[str] = (), methods: Sequence[str] = ()) -> Grid:
    """A grid's runs of some of its methods, on tasks in the place of its own (none given: all, and its own).

    Raises ValueError for a method that the grid has not, an unknown task, and one that the runs' folder does not hold.
    """
    for word in methods:
        one_of("Method", word, [run.method for run in grid.runs])
    for word in tasks:
        _check_task(word)
    kept = [run for run in grid.runs if not methods or run.method in methods]
    moved = [replace(run, task=task) for run in kept for task in tasks or (run.task,)]
    if absent := {run.task: run.folder for run in moved if isinstance(run.source, Path) and not run.source.exists()}:
        raise LabError(
            f"folder = '{next(iter(absent.values()))}' does not hold {', '.join(absent)}: expected a folder a task. "
            "Name those that it holds, each with --task."
        )
    return replace(grid, runs=tuple({run.key: run for run in moved}.values()))


def _check_task(name: str) -> None:
    if name not in (*EMBEDDED, *PAPER_TASKS) and "/" not in name and not Path(name).exists():
        raise unknown("Task", name, (*EMBEDDED, *PAPER_TASKS))


def grid_of(table: Any, **changes: Any) -> Grid:
    """The grid of a table of plain values, as the module's text has it. Raises ValueError as `read_grid` does."""
    if not isinstance(table, Mapping):
        raise LabError(f"a grid of {table!r}: expected a table with some of {', '.join(KEYS)}.")
    runs = tuple(_runs(table, {}, changes, KEYS))
    if not runs:
        raise LabError("the grid is empty: expected axes or rows that give one run at least.")
    seen: dict[str, Run] = {}
    for number, run in enumerate(runs, start=1):
        _check_task(run.task)
        if (first := seen.setdefault(run.key, run)) is not run and not changes:
            raise LabError(
                f"run {number} ({run}) is the same run as an earlier one ({first}): expected each run once. Settings "
                "that a method has not (experts of a single adapter, say) tell no runs apart."
            )
    search = _mapping("search", table.get("search"))
    for key in search:
        one_of("Key of search", key, [field.name for field in fields(Search)])
    return Grid(tuple(seen.values()), Search(**{"factors": (), **search}) if table.get("search") is not None else None)


def _runs(table: Any, base: Mapping[str, Any], changes: Mapping[str, Any], keys: Sequence[str]) -> Iterator[Run]:
    if not isinstance(table, Mapping):
        raise LabError(f"a part of the grid is {table!r}: expected a table with some of {', '.join(keys)}.")
    for key in table:
        one_of("Key of a grid", key, keys)
    base = {**base, **_mapping("base", table.get("base"))}
    given = [key for key in ("axes", "rows", "parts") if key in table]
    if len(given) > 1:
        raise LabError(f"the grid has {' and '.join(given)}: expected one of them. Put each into a part of its own.")
    for part in _list("parts", table.get("parts")):
        yield from _runs(part, base, changes, KEYS[:3])
    for row in _list("rows", table.get("rows")):
        yield Run.of({**base, **_mapping("a row", row), **changes}, "a row of the grid")
    if "axes" in table:
        axes = _mapping("axes", table["axes"])
        for point in itertools.product(*(_choices(axis, values) for axis, values in axes.items())):
            merged = dict(base)
            for settings in point:
                merged |= settings
            yield Run.of({**merged, **changes}, "the grid")


def _choices(axis: str, values: Any) -> list[dict[str, Any]]:
    """The settings at each place of an axis."""
    if axis == "variant" and isinstance(values, Mapping):
        return [{**_mapping(f"variant {key!r}", value), "variant": str(key)} for key, value in values.items()]
    one_of("Axis of a grid", axis, DEFAULTS)
    return [{axis: value} for value in _list(f"axis {axis}", values)]


def _mapping(what: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise LabError(f"{what} is {value!r}: expected settings by name ({{steps: 300}}).")
    return value or {}


def _list(what: str, value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list | tuple):
        raise LabError(f"{what} is {value!r}: expected a list.")
    return list(value or ())


def _written_out(node: Any, known: dict[int, float]) -> float:
    """How many values a node is when its aliases are written out."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted: for an alias of what it stands in
        inner = node.value if isinstance(node.value, list) else []
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice (plainly the last one counts), and endless aliases."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases make it more than {MOST_VALUES:,} values")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
