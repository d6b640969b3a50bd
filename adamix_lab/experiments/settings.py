"""One run of an ablation: everything that decides its numbers, and the name that follows from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from adamix_lab.baselines.making import BASELINES
from adamix_lab.core.errors import one_of, positive, unknown

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
