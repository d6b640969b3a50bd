"""Grids: small tables of runs, in YAML or as Python values, in the order of their importance.

    base: {task: rte, steps: 300}        # settings of every run
    axes:                                # the last one varies fastest: all variants of seed 0, then those of seed 1
      seed: [0, 1, 2]
      variant:                           # names with what they change
        AdaMix: {}
        no consistency: {consistency: 0}
        single: {method: single}

`rows:` (a list of settings) stands in the place of axes where no product is meant; `parts:` is a list of such tables,
one after another. `search:` says how learning rates are chosen beforehand (`adamix_lab.experiments.search`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from adamix_lab.core.errors import positive, unknown
from adamix_lab.experiments.settings import Run, nonnegative
from adamix_lab.tasks.known_tasks import KNOWN
from adamix_lab.tasks.tasks import EMBEDDED

KEYS = ("base", "axes", "rows", "parts", "search")


@dataclass(frozen=True)
class Search:
    """How learning rates are chosen: each variant of each task has the same trials on a slice of its training rows.

    Attributes:
        factors: of the method's own rate (`BASELINES`): as many trials for each.
        steps: of each trial.
        seed: of each trial.
    """

    factors: tuple[float, ...]
    steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        given = self.factors
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2:
            raise ValueError(
                f"search: factors = {given!r}: expected a list of two factors or more, such as [0.3, 1, 3]."
            )
        object.__setattr__(self, "factors", tuple(nonnegative("search: factors", factor) for factor in given))
        positive("search: steps", self.steps)


@dataclass(frozen=True)
class Grid:
    """Runs in the order in which they matter, and how their rates are chosen (None: as they are given)."""

    runs: tuple[Run, ...]
    search: Search | None = None


def read_grid(path: Path, **changes: Any) -> Grid:
    """The grid of a YAML file. `changes` are settings that count for every run, whatever the file says.

    Raises:
        FileNotFoundError: no such file.
        ImportError: PyYAML is missing.
        ValueError: what is no table, an unknown key, setting or task (near misses are named), no runs, one run twice.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError("Grids are YAML: expected PyYAML. Run pip install 'adamix-lab[experiments]'.") from error

    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: expected a grid, such as data/grids/quick.yaml.")
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=_strict_loader())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}). Correct the file.") from error
    try:
        return grid_of(table, **changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def grid_of(table: Any, **changes: Any) -> Grid:
    """The grid of a table of plain values, as the module's text has it. Raises ValueError as `read_grid` does."""
    if not isinstance(table, Mapping):
        raise ValueError(f"a grid of {table!r}: expected a table with some of {', '.join(KEYS)}.")
    runs = list(_runs(table, {}, changes, KEYS))
    if not runs:
        raise ValueError("the grid is empty: expected axes or rows that give one run at least.")
    for run in runs:
        if run.task not in (*EMBEDDED, *KNOWN) and "/" not in run.task and not Path(run.task).exists():
            raise unknown("Task", run.task, (*EMBEDDED, *KNOWN))
    seen: dict[str, Run] = {}
    for number, run in enumerate(runs, start=1):
        if run.key in seen:
            first = seen[run.key]
            raise ValueError(
                f"run {number} ({name(run)}) is the same run as an earlier one ({name(first)}): expected each run "
                "once. Settings that a method has not (experts of a single adapter, say) tell no runs apart."
            )
        seen[run.key] = run
    return Grid(tuple(runs), _search(table.get("search")))


def name(run: Run) -> str:
    """A run in a few words."""
    few = f", {run.examples} examples" if run.examples else ""
    return f"{run.task}, {run.variant}{few}, seed {run.seed}" + (", equal compute" if run.compute == "compute" else "")


def _runs(table: Any, base: Mapping[str, Any], changes: Mapping[str, Any], keys: Sequence[str]) -> Any:
    if not isinstance(table, Mapping):
        raise ValueError(f"a part of the grid is {table!r}: expected a table with some of {', '.join(keys)}.")
    for key in table:
        if key not in keys:
            raise unknown("Key of a grid", key, keys)
    base = {**base, **_mapping("base", table.get("base"))}
    given = [key for key in ("axes", "rows", "parts") if key in table]
    if len(given) > 1:
        raise ValueError(f"the grid has {' and '.join(given)}: expected one of them. Put each into a part of its own.")
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
    if axis not in (known := [f.name for f in fields(Run)]):
        raise unknown("Axis of a grid", axis, known)
    return [{axis: value} for value in _list(f"axis {axis}", values)]


def _search(given: Any) -> Search | None:
    if given is None:
        return None
    settings = _mapping("search", given)
    known = [f.name for f in fields(Search)]
    for key in settings:
        if key not in known:
            raise unknown("Key of search", key, known)
    return Search(**{"factors": (), **settings})


def _mapping(what: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{what} is {value!r}: expected settings by name ({{steps: 300}}).")
    return value or {}


def _list(what: str, value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list | tuple):
        raise ValueError(f"{what} is {value!r}: expected a list.")
    return list(value or ())


def _strict_loader() -> Any:
    """YAML's safe loader, which refuses a key that stands twice (the plain one keeps the last)."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return Loader
