"""The settings of a run, which decide its numbers: what a grid has many of; and of an engine, which no key has."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from adamix_lab.baselines import BASELINES, METHODS
from adamix_lab.core.errors import POOLINGS, LabError, finite, one_of, positive, whole
from adamix_lab.tasks.tasks import PAPER_TASKS
from adamix_lab.training.recipe import Recipe

Budget = Literal["steps", "rate", "best", "oracle", "compute"]
BUDGETS: dict[Budget, str] = {  # what is equal in a comparison, in words
    "steps": "equal steps",
    "rate": "equal rate and steps",
    "best": "each at its own best",
    "oracle": "each at its own best by true labels (an oracle)",
    "compute": "equal compute",
}
CHOICES = {
    "share": ("up", "down", "none"),
    "routing": ("batch", "example", "token"),
    "compute": get_args(Budget),
    "judged_on": ("evaluation", "slice"),
    "pooling": POOLINGS,
}
NAMES = {  # where a label differs from the word
    "adamix": "AdaMix",
    "probe": "linear probe",
    "slow": "single, lr/M",
    "swa": "single + SWA",
    "ema": "single + EMA",
    "slow-swa": "single, lr/M + SWA",
}
TOLD = {  # by a label, where it is not the method's own
    "experts": "M={}", "consistency": "consistency {:g}", "share": "share {}", "routing": "a route a {}",
    "pooling": "{} pooling", "size": "r={}", "label_smoothing": "label smoothing={}", "swa": "swa={}", "ema": "ema={}",
}  # fmt: skip
NONE = {"consistency 0": "no consistency", "share none": "no sharing", "a route a example": "a route a row"}


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
        pooling: "cls" or "mean", as there; "cls" where a grid does not say it, whatever the backbone's own default is:
            what is stored was measured so, and a step takes down to a fifth of the mean's time.
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
    pooling: str = "cls"
    temperature: float | None = None
    exact: int = 256
    draws: int = 1

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        empty = without_effect(self.method)
        for field in fields(self):
            value = (
                empty[field.name]
                if field.name in empty
                else checked(field.name, str(field.type), getattr(self, field.name))
            )
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
        recipe = Recipe(steps=self.steps, label_smoothing=self.label_smoothing, swa=self.swa, ema=self.ema)
        recipe.share_in_average(self.steps, self.steps)  # refuses a window of no steps

    @property
    def key(self) -> str:
        """The first 12 hexadecimal digits of the sha256 of what decides the numbers, as canonical JSON."""
        values = {name: value for name, value in asdict(self).items() if name not in ("folder", "variant")}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def source(self) -> str | Path:
        """Where the rows lie, as `load_task` takes it."""
        return Path(self.folder) / self.task if self.folder is not None and self.task in PAPER_TASKS else self.task

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
    return () if method == "probe" else BASELINES[method].settings


def without_effect(method: str) -> dict[str, Any]:
    """The settings that a method has not, with their empty values."""
    if method == "probe":
        nothing: dict[str, Any] = {"steps": 0, "lr": 0.0, "head_lr": None, "top_blocks": None}
        nothing |= {"label_smoothing": 0.0, "swa": None, "ema": None, "temperature": None, "pooling": "cls"}
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


def checked(name: str, kind: str, value: Any) -> Any:
    """A setting's value, numbers as numbers. Raises ValueError where it is none of its kind."""
    if value is None and kind.endswith("None"):
        return None
    if kind.startswith("float"):
        value = number(value)
        finite(name, value, 0)
    elif kind.startswith("int"):
        whole(name, value, 0 if name in ("examples", "seed", "sample", "exact") else 1)
    elif not isinstance(value, str):
        raise LabError(f"{name} = {value!r}: expected a text.")
    if name in CHOICES:
        one_of(name, value, CHOICES[name])
    return value


def number(value: Any) -> Any:
    """A number as a float, and what YAML reads as a word and means as a number, such as 1e-3; others as they are."""
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def label(run: Run) -> str:
    """What a run is called where nobody named it: "AdaMix", "no consistency", "AdaMix M=8", "lora r=8", ..."""
    own = {**DEFAULTS, **without_effect(run.method)}
    if run.method in BASELINES:
        own |= BASELINES[run.method].recipe
    told = {name: text.format(getattr(run, name)) for name, text in TOLD.items() if getattr(run, name) != own[name]}
    parts = [NONE.get(part, part) for part in told.values()]
    if run.method == "adamix" and len(parts) == 1 and "=" not in parts[0]:
        return parts[0]
    return " ".join([NAMES.get(run.method, run.method), *parts])


def with_side(variant: str, method: str, share: str) -> str:
    """A variant's name in a table: AdaMix's names the side that it shares, where the name does not say it already."""
    named = method != "adamix" or share == "none" or share in variant.split()
    return variant if named else f"{variant} ({share} shared)"


# -- where and how runs are performed -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Engine:
    """Where and how long runs are performed: no part of their keys. `threads` and `together` may decide digits.

    Attributes:
        workers: processes on this machine; 1 performs runs one by one in this one.
        threads: of the CPU for each; None shares this machine's cores. Sums in another order differ in the last
            digits, so equal numbers to the last bit need equal threads.
        cluster: "tcp://HOST:PORT" or a scheduler file, of dask; None is this machine.
        minutes: of this slice: nothing is begun behind it, and what is under way stops at its next checkpoint.
        together: at most so many runs of equal shape train as one program, a stack. Under dropout this does decide
            digits: masks are then drawn for all of them together.
    """

    workers: int = 1
    threads: int | None = None
    cluster: str | None = None
    minutes: float | None = None
    together: int = 1

    def __post_init__(self) -> None:
        for name in ("workers", "together", *(("threads",) if self.threads is not None else ())):
            positive(name, getattr(self, name))
        if self.minutes is not None and not self.minutes > 0:
            raise LabError(f"minutes = {self.minutes}: expected a number above 0.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise LabError(
                "A grid was started by accelerate launch or torchrun: expected one process. Use --workers for several "
                "runs at once; `accelerate launch -m adamix_lab train` puts one run on several GPUs."
            )
