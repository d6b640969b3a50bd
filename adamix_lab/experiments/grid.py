"""Grids: small tables of runs, in YAML or as Python values, in the order of their importance.

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

import hashlib
import inspect
import itertools
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from adamix_lab.baselines.making import BASELINES
from adamix_lab.core.errors import LabError, one_of, positive, unknown
from adamix_lab.tasks.table import EMBEDDED, PAPER_TASKS
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.recipe import Recipe

Budget = Literal["steps", "rate", "best", "oracle", "compute"]
BUDGETS: dict[Budget, str] = {  # what is equal in a comparison, in words
    "steps": "equal steps",
    "rate": "equal rate and steps",
    "best": "each at its own best",
    "oracle": "each at its own best by true labels (an oracle)",
    "compute": "equal compute",
}
METHODS = (*BASELINES, "probe")
CHOICES = {
    "share": ("up", "down", "none"),
    "routing": ("batch", "example", "token"),
    "compute": get_args(Budget),
    "judged_on": ("evaluation", "slice"),
}
NAMES = {  # where a label differs from the word
    "adamix": "AdaMix",
    "probe": "linear probe",
    "slow": "single, lr/M",
    "swa": "single + SWA",
    "ema": "single + EMA",
    "slow-swa": "single, lr/M + SWA",
}
LATER = ("label_noise", "sample", "part", "temperature", "label_smoothing", "swa", "ema")  # no part of older keys
KEYS = ("base", "axes", "rows", "parts", "search")


@dataclass(frozen=True)
class Run:
    """The settings of a run: all that decides its numbers. Equal settings are one run: `key` names it and its folder.

    What a method has not (the number of experts of LoRA, say) is set to its empty value, so that settings that cannot
    matter make no second run.

    Attributes:
        task: "aspects", a name of the paper's tasks, a folder or file, or an id on the Hub.
        folder: holds a folder a task; None takes the paper's tasks from the Hub. Where rows lie decides no number.
        variant: the run's name in tables; no part of its key. Left out, it follows from the settings.
        method: a word of `METHODS`: a baseline, adamix, or probe (a linear probe, which takes no steps).
        experts: M; of slow and slow-swa, of the AdaMix that they stand beside.
        size: of each bottleneck; LoRA's rank.
        share: "up", "down", or "none".
        consistency: weight of the second view; 0 takes one view.
        routing: what shares a route in training: "batch", "example" or "token".
        examples: few-shot: so many training rows, drawn by the seed; 0 takes all.
        prompt: label words answer in the place of a new head (a masked-LM backbone; `adamix_lab.tasks.prompts`).
        seed: of head, experts, routes, batches, dropout, and few examples.
        steps: optimiser steps.
        compute: what is equal. "steps": the steps, and the rate where the grid has no search; "rate": the rate and the
            steps, whatever the search finds; "best": each method has the rate and the stop that the search chose;
            "oracle": the same, chosen by true labels where labels are noisy; "compute": as many steps as take
            AdaMix's operations, at the rate that the search chose.
        batch_size: rows a step.
        lr: of what is adapted; None takes the method's own (`BASELINES`).
        head_lr: of the head; None takes `lr`.
        weight_decay: of experts and head.
        label_smoothing, swa, ema: as in `Recipe`; left out, swa and ema are the method's own.
        dropout: in the backbone; None leaves it as the backbone has it.
        rows: a sample of the training rows; None takes all.
        label_noise: share of the training labels that are wrong.
        sample: seed of that sample and of the wrong labels; None takes the run's own seed.
        part: the rows to be judged on, as in `load_task`; None takes the task's.
        evaluation_rows: a sample of the rows to be judged on; None takes all.
        judged_on: "evaluation", or "slice": a fifth of the training rows, held out (how rates are chosen).
        max_length: tokens a row.
        bucket: batches sorted by length together.
        top_blocks: adapted blocks, from the top; what lies below is computed once. None adapts all.
        backbone: as `load_backbone` takes it.
        temperature: what the log-probabilities of the merge are divided by for a further strategy, "scaled"; the search
            fits it. None leaves it out.
        exact: the most routes that are averaged over exactly; 0 leaves the exact average out.
        draws: how often random routing is judged, each time with other routes (ten or more tell its best from its
            mean).
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
    prompt: bool = False
    seed: int = 0
    steps: int = 300
    compute: Budget = "steps"
    batch_size: int = 32
    lr: float | None = 3e-3
    head_lr: float | None = None
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    swa: float | None = None
    ema: float | None = None
    dropout: float | None = None
    rows: int | None = None
    label_noise: float = 0.0
    sample: int | None = 0
    part: str | None = None
    evaluation_rows: int | None = None
    judged_on: str = "evaluation"
    max_length: int = 128
    bucket: int = 32
    top_blocks: int | None = None
    backbone: str = "minilm"
    temperature: float | None = None
    exact: int = 256
    draws: int = 1

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        empty = without_effect(self.method)
        for field in fields(self):
            value = empty[field.name] if field.name in empty else checked(field.name, str(field.type), self)
            object.__setattr__(self, field.name, value)
        if self.dropout is not None and self.dropout >= 1:
            raise LabError(f"dropout = {self.dropout}: expected a number of at least 0 and below 1.")
        if self.top_blocks is not None and "blocks" not in settings_of(self.method):
            placed = ", ".join(method for method in METHODS if "blocks" in settings_of(method))
            raise LabError(
                f"top_blocks = {self.top_blocks} with method {self.method!r}: expected a method that places modules in "
                f"blocks ({placed}). Leave top_blocks out (null): then every method takes all blocks."
            )
        if self.label_noise > 0.5:
            raise LabError(f"label_noise = {self.label_noise}: expected a share of labels from 0 to 0.5.")
        if self.compute == "oracle" and not self.label_noise:
            raise LabError('compute = "oracle" without label_noise: expected wrong labels to look behind. Take "best".')
        if self.lr is None:
            object.__setattr__(self, "lr", BASELINES[self.method].lr)
        if self.method != "probe":
            self._average()
        if not self.variant:
            object.__setattr__(self, "variant", label(self))

    def _average(self) -> None:
        if self.swa is None and self.ema is None:
            for name, value in BASELINES[self.method].recipe.items():
                object.__setattr__(self, name, value)
        averages = {"swa": self.swa, "ema": self.ema, "label_smoothing": self.label_smoothing}
        Recipe(steps=self.steps, **averages).share_in_average(self.steps, self.steps)  # refuses what is none

    @property
    def key(self) -> str:
        """The first 12 hexadecimal digits of the sha256 of what decides the numbers, as canonical JSON."""
        values = {name: value for name, value in asdict(self).items() if name not in ("folder", "variant")}
        for name in LATER:
            if values[name] == DEFAULTS[name]:
                del values[name]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str = "a run") -> Run:
        """A run of plain values. Raises ValueError for a setting that there is not (near misses are named)."""
        for name in settings:
            one_of(f"Setting of {where}", name, DEFAULTS)
        return cls(**settings)

    def __str__(self) -> str:
        few = f", {self.examples} examples" if self.examples else ""
        budget = "" if self.compute == "steps" else f", {BUDGETS[self.compute]}"
        return f"{self.task}, {self.variant}{few}, seed {self.seed}{budget}"


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Run)}


def settings_of(method: str) -> Iterable[str]:
    """The settings that a method's maker takes."""
    return () if method == "probe" else inspect.signature(BASELINES[method].make).parameters


def without_effect(method: str) -> dict[str, Any]:
    """The settings that a method has not, with their empty values."""
    if method == "probe":
        nothing: dict[str, Any] = {"steps": 0, "lr": 0.0, "head_lr": None, "top_blocks": None, "prompt": False}
        nothing |= {"label_smoothing": 0.0, "swa": None, "ema": None, "temperature": None}
    else:
        nothing = {"top_blocks": None} if method == "head" else {}
    taken = settings_of(method)
    if "experts" not in taken:
        nothing["experts"] = 1
    if "size" not in taken and "rank" not in taken:
        nothing["size"] = 0
    if "share" not in taken:
        nothing["share"] = "none"
    if method != "adamix":
        nothing["routing"] = "batch"
    if method == "probe" or not BASELINES[method].consistency.weight:
        nothing["consistency"] = 0.0
    return nothing


def checked(name: str, kind: str, run: Run) -> Any:
    """A setting's value. Raises ValueError where it is none of its kind."""
    value = getattr(run, name)
    if value is None and kind.endswith("None"):
        return None
    if kind.startswith("float"):
        return nonnegative(name, value)
    if kind.startswith("int") and name not in ("examples", "seed", "sample", "exact"):
        positive(name, value)
    elif kind.startswith("int") and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise LabError(f"{name} = {value!r}: expected a whole number of at least 0.")
    if name in CHOICES:
        one_of(name, value, CHOICES[name])
    return value


def nonnegative(name: str, value: Any) -> float:
    """A number of at least 0. YAML reads 1e-3 as a string: that is taken as the number it means."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (number >= 0 and math.isfinite(number)):
        raise LabError(f"{name} = {value!r}: expected a number of at least 0.")
    return number


def label(run: Run) -> str:
    """What a run is called where nobody named it: "AdaMix", "no consistency", "AdaMix M=8", "lora", ..."""
    parts: list[str] = []
    if "share" in settings_of(run.method):
        if run.experts != DEFAULTS["experts"]:
            parts.append(f"M={run.experts}")
        if run.method == "adamix" and run.consistency != DEFAULTS["consistency"]:
            parts.append("no consistency" if run.consistency == 0 else f"consistency {run.consistency:g}")
        if run.share != DEFAULTS["share"]:
            parts.append("no sharing" if run.share == "none" else f"share {run.share}")
        if run.routing != DEFAULTS["routing"]:
            parts.append(f"a route a {'token' if run.routing == 'token' else 'row'}")
    if run.size and run.size != DEFAULTS["size"]:
        parts.append(f"r={run.size}")
    own = {"label_smoothing": 0.0, **(BASELINES[run.method].recipe if run.method in BASELINES else {})}
    for name in ("label_smoothing", "swa", "ema"):
        if getattr(run, name) != own.get(name):
            parts.append(f"{name.replace('_', ' ')}={getattr(run, name)}")
    if run.method == "adamix" and len(parts) == 1 and "=" not in parts[0]:
        return parts[0]
    return " ".join([NAMES.get(run.method, run.method), *parts])


def with_side(variant: str, method: str, share: str) -> str:
    """A variant's name in a table: AdaMix's names the side that it shares, where the name does not say it already."""
    named = method != "adamix" or share == "none" or share in variant.split()
    return variant if named else f"{variant} ({share} shared)"


@dataclass(frozen=True)
class Search:
    """How rates and stops are chosen: each variant of each task has the same trials on a slice of its training rows.

    A trial is a training of its own length: each length has its own schedule.

    Attributes:
        factors: of the method's own rate (`BASELINES`): as many trials for each.
        stops: shares of the run's steps, tried at each rate, for runs of "best" and "oracle"; other runs keep their
            length, and their trials have it, too.
        steps: of the trials instead of the run's own; where that is less, the grid warns.
        seed: of each trial.
    """

    factors: tuple[float, ...]
    stops: tuple[float, ...] = (1.0,)
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = self.factors
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2:
            raise LabError(f"search: factors = {given!r}: expected a list of two factors or more, such as [0.3, 1, 3].")
        object.__setattr__(self, "factors", tuple(nonnegative("search: factors", factor) for factor in given))
        if not isinstance(self.stops, Sequence) or not self.stops or not all(0 < share <= 1 for share in self.stops):
            raise LabError(
                f"search: stops = {self.stops!r}: expected shares above 0, at most 1, such as [0.25, 0.5, 1]."
            )
        object.__setattr__(self, "stops", tuple(sorted(map(float, self.stops))))
        if self.steps is not None:
            positive("search: steps", self.steps)

    def lengths(self, run: Run) -> list[int]:
        """The steps of a run's trials, the longest last; none for a run whose rate is given."""
        if run.method == "probe" or run.compute == "rate":
            return []
        shares = self.stops if run.compute in ("best", "oracle") else (1.0,)
        return sorted({max(1, round(share * (self.steps or run.steps))) for share in shares})


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
                    " Rates that are best for few steps are too high for many. Leave `steps` out of the search.",
                    stacklevel=3,
                )
                return


# -- reading -----------------------------------------------------------------------------------------------------


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
        raise LabError(f"{path} is not YAML ({' '.join(str(error).split())}). Correct the file.") from error
    try:
        return grid_of(table, **changes)
    except ValueError as error:
        raise LabError(f"{path}: {error}") from error


def shipped_grid(name: str, tasks: Sequence[str] = (), methods: Sequence[str] = (), **changes: Any) -> Grid:
    """A grid of data/grids with other settings: its runs of some tasks and methods (none given: all).

    Raises as `read_grid` does, and ValueError for a task or method that the grid has not.
    """
    grid = read_grid(data_root() / "grids" / f"{name}.yaml", **changes)
    for kind, wanted in (("task", tasks), ("method", methods)):
        for word in wanted:
            one_of(kind.capitalize(), word, [getattr(run, kind) for run in grid.runs])
        grid = replace(grid, runs=tuple(run for run in grid.runs if not wanted or getattr(run, kind) in wanted))
    return grid


def tasks_in(folder: Path) -> list[str]:
    """The paper's tasks whose folders lie there. Raises FileNotFoundError where there is none."""
    if there := [name for name in PAPER_TASKS if (folder / name).is_dir()]:
        return there
    raise FileNotFoundError(
        f"{folder} holds no task's folder: expected one or more of {', '.join(PAPER_TASKS)}, each with train.* and "
        "validation.* (subj, mpqa: test.*)."
    )


def grid_of(table: Any, **changes: Any) -> Grid:
    """The grid of a table of plain values, as the module's text has it. Raises ValueError as `read_grid` does."""
    if not isinstance(table, Mapping):
        raise LabError(f"a grid of {table!r}: expected a table with some of {', '.join(KEYS)}.")
    runs = tuple(_runs(table, {}, changes, KEYS))
    if not runs:
        raise LabError("the grid is empty: expected axes or rows that give one run at least.")
    seen: dict[str, Run] = {}
    for number, run in enumerate(runs, start=1):
        if run.task not in (*EMBEDDED, *PAPER_TASKS) and "/" not in run.task and not Path(run.task).exists():
            raise unknown("Task", run.task, (*EMBEDDED, *PAPER_TASKS))
        if (first := seen.setdefault(run.key, run)) is not run:
            raise LabError(
                f"run {number} ({run}) is the same run as an earlier one ({first}): expected each run once. Settings "
                "that a method has not (experts of a single adapter, say) tell no runs apart."
            )
    search = _mapping("search", table.get("search"))
    for key in search:
        one_of("Key of search", key, [field.name for field in fields(Search)])
    return Grid(runs, Search(**{"factors": (), **search}) if table.get("search") is not None else None)


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
