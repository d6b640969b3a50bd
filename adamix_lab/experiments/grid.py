"""Grids: small tables of runs, in YAML or as Python values, in the order of their importance.

    base: {task: rte, steps: 300}        # settings of every run
    axes:                                # the last one varies fastest: all variants of seed 0, then those of seed 1
      seed: [0, 1, 2]
      variant:                           # names with what they change
        AdaMix: {}
        no consistency: {consistency: 0}
        single: {method: single}

`rows:` (a list of settings) stands in the place of axes where no product is meant; `parts:` is a list of such tables,
one after another. `search:` says how learning rates are chosen beforehand (`adamix_lab.experiments.ablation`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from adamix_lab.baselines.making import BASELINES
from adamix_lab.core.errors import one_of, positive, unknown
from adamix_lab.tasks.tasks import EMBEDDED, PAPER_TASKS

# -- settings ----------------------------------------------------------------------------------------------------
#
# One run of an ablation: everything that decides its numbers, and the name that follows from it.


FORMAT = 1  # of settings and results; another one is refused by name
SHARES = ("up", "down", "none")
SIZED = ("adamix", "single", "r-drop", "wide", "apart-soup", "houlsby", "pfeiffer", "unipelt", "lora")
MULTIPLIED = ("adamix", "wide", "apart-soup")
ONE_MODULE = ("adamix", "single", "r-drop", "wide", "apart-soup", "pfeiffer")  # at the end of a block
PLACED = (*ONE_MODULE, "houlsby", "unipelt")  # in blocks that can be chosen
NAMES = {"adamix": "AdaMix"}  # where a label differs from the word


@dataclass(frozen=True)
class Run:
    """The settings of a run. Equal settings are one run: `key` names it and its folder.

    What a method has not (the number of experts of LoRA, say) is set to its empty value, so that settings that cannot
    matter make no second run.

    Attributes:
        task: "aspects", a name of the paper's tasks, a folder or file, or an id on the Hub.
        folder: holds a folder a task; None takes the paper's tasks from the Hub. Where rows lie decides no number.
        variant: the run's name in tables; no part of its key. Left out, it follows from the settings.
        method: a word of `BASELINES`.
        experts: M.
        size: of each bottleneck; LoRA's rank.
        share: "up", "down", or "none".
        consistency: weight of the second view; 0 takes one view.
        routing: what shares a route in training: "batch", "example" or "token".
        examples: few-shot: so many training rows, drawn by the seed; 0 takes all.
        seed: of head, experts, routes, batches, dropout, and few examples.
        steps: optimiser steps.
        compute: "steps", or "compute": as many steps as take AdaMix's operations.
        batch_size: rows a step.
        lr: of what is adapted.
        head_lr: of the head; None takes `lr`.
        weight_decay: of experts and head.
        dropout: in the backbone; None leaves it as the backbone has it. Left out of the key where it is None.
        rows: a sample of the training rows (of seed 0, the same for all); None takes all.
        evaluation_rows: a sample of the rows to be judged on; None takes all.
        judged_on: "evaluation", or "slice": a fifth of the training rows, held out (how rates are chosen).
        max_length: tokens a row.
        bucket: batches sorted by length together.
        top_blocks: adapted blocks, from the top; what lies below is computed once. None adapts all.
        backbone: as `load_backbone` takes it.
        exact: the most routes that are averaged over exactly; 0 leaves the exact average out.
        draws: how often random routing is judged, each time with other routes (ten or more tell its best from its
            mean). Left out of the key where it is 1.
    """

    task: str = "aspects"
    folder: str | None = None
    variant: str = ""
    method: str = "adamix"
    experts: int = 4
    size: int = 16
    share: str = "up"
    consistency: float = 1.0
    routing: str = "batch"
    examples: int = 0
    seed: int = 0
    steps: int = 300
    compute: str = "steps"
    batch_size: int = 32
    lr: float = 3e-3
    head_lr: float | None = None
    weight_decay: float = 0.01
    dropout: float | None = None
    rows: int | None = None
    evaluation_rows: int | None = None
    judged_on: str = "evaluation"
    max_length: int = 128
    bucket: int = 32
    top_blocks: int | None = None
    backbone: str = "minilm"
    exact: int = 256
    draws: int = 1

    def __post_init__(self) -> None:
        one_of("method", self.method, BASELINES)
        for name in FLOATS:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, nonnegative(name, value))
        for name in ("steps", "batch_size", "max_length", "bucket", "draws"):
            positive(name, getattr(self, name))
        for name in ("rows", "evaluation_rows", "top_blocks"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        for name in ("examples", "seed", "exact"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} = {value!r}: expected a whole number of at least 0.")
        if self.dropout is not None and self.dropout >= 1:
            raise ValueError(f"dropout = {self.dropout}: expected a number of at least 0 and below 1.")
        self._only_what_counts()
        one_of("share", self.share, SHARES)
        one_of("routing", self.routing, ("batch", "example", "token"))
        one_of("compute", self.compute, ("steps", "compute"))
        one_of("judged_on", self.judged_on, ("evaluation", "slice"))
        if self.top_blocks is not None and self.method not in PLACED:
            raise ValueError(
                f"top_blocks = {self.top_blocks} with method {self.method!r}: expected a method that places modules in "
                f"blocks ({', '.join(PLACED)}). Leave top_blocks out (null): then every method takes all blocks."
            )
        if not self.variant:
            object.__setattr__(self, "variant", label(self))

    def _only_what_counts(self) -> None:
        empty: dict[str, Any] = {}
        if self.method not in MULTIPLIED:
            empty["experts"] = 1
        if self.method not in SIZED:
            empty["size"] = 0
        if self.method != "adamix":
            empty |= {"share": "none", "routing": "batch"}
        if self.method not in ("adamix", "r-drop"):
            empty["consistency"] = 0.0
        if self.method == "head":
            empty["top_blocks"] = None
        for name, value in empty.items():
            object.__setattr__(self, name, value)
        for name in {"experts", "size"} - empty.keys():
            positive(name, getattr(self, name))

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, as plain values."""
        values = {name: value for name, value in asdict(self).items() if name not in ("folder", "variant")}
        for name in YOUNGER:
            if values[name] == DEFAULTS[name]:
                del values[name]
        return {"format": FORMAT, **values}

    @property
    def key(self) -> str:
        """The first 12 hexadecimal digits of the sha256 of the identity as canonical JSON."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str = "a run") -> Run:
        """A run of plain values. Raises ValueError for a setting that there is not (near misses are named)."""
        known = [f.name for f in fields(cls)]
        for name in settings:
            if name not in known:
                raise unknown(f"Setting of {where}", name, known)
        return cls(**settings)


DEFAULTS = {f.name: f.default for f in fields(Run) if f.default is not MISSING}
YOUNGER = ("dropout", "draws")  # than the keys of shipped results, which a default leaves as they were
FLOATS = [f.name for f in fields(Run) if str(f.type).startswith("float")]


def nonnegative(name: str, value: Any) -> float:
    """A number of at least 0. YAML reads 1e-3 as a string: that is taken as the number it means."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"{name} = {value!r}: expected a number of at least 0.")
    return number


def label(run: Run) -> str:
    """What a run is called where nobody named it: "AdaMix", "no consistency", "AdaMix M=8", "lora", ..."""
    name = NAMES.get(run.method, run.method)
    parts: list[str] = []
    if run.method == "adamix":
        if run.experts != DEFAULTS["experts"]:
            parts.append(f"M={run.experts}")
        if run.consistency != DEFAULTS["consistency"]:
            parts.append("no consistency" if run.consistency == 0 else f"consistency {run.consistency:g}")
        if run.share != DEFAULTS["share"]:
            parts.append("no sharing" if run.share == "none" else f"share {run.share}")
        if run.routing != DEFAULTS["routing"]:
            parts.append(f"a route a {'token' if run.routing == 'token' else 'row'}")
    if run.size and run.size != DEFAULTS["size"]:
        parts.append(f"r={run.size}")
    if len(parts) == 1 and not any("=" in part for part in parts):
        return parts[0]
    return " ".join([name, *parts])


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
        if run.task not in (*EMBEDDED, *PAPER_TASKS) and "/" not in run.task and not Path(run.task).exists():
            raise unknown("Task", run.task, (*EMBEDDED, *PAPER_TASKS))
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
