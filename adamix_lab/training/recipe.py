"""How to train: one frozen dataclass of settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from adamix_lab.core.errors import SEEDS, Consistency, LabError, Scope, finite, fraction, one_of, positive, whole
from adamix_lab.core.files import require_file
from adamix_lab.tasks.tasks import data_root

if TYPE_CHECKING:
    from torch import nn

    from adamix_lab.core.adaptations import Adaptation
    from adamix_lab.models.model import MixtureModel

Precision = Literal["no", "bf16", "fp16"]
OffRoute = Literal["drift", "freeze"]
Decay = Literal["declared", "all"]
ChooseOn = Literal["slice", "evaluation"]
STEPS = 500  # where neither steps nor epochs are given
EITHER = {"steps": "epochs", "epochs": "steps", "warmup": "warmup_steps"}
CONSISTENCY = {"consistency": "weight", "consistency_kind": "kind", "consistency_views": "views"}

CHECKS: dict[Callable[[str, Any], None], str] = {
    positive: "steps evaluate_every patience batch_size accumulate max_length bucket log_every warmup_steps "
    "cached_passes",
    partial(finite, least=0): "lr head_lr weight_decay eps clip checkpoint_every",
    fraction: "warmup dev_fraction label_smoothing",
}
CHOICES = {"precision": Precision, "per": Scope, "off_route": OffRoute, "decay": Decay, "choose_on": ChooseOn}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. Give `steps` or `epochs` (neither: 500 steps).

    Attributes:
        steps: optimiser steps.
        epochs: passes over the training rows, instead of steps.
        batch_size: rows an optimiser step, over all processes and all pieces of an accumulated step.
        lr: learning rate of the experts, at the end of the warm-up.
        head_lr: learning rate of the head; None takes `lr`.
        weight_decay: decay of what the adaptation declares to decay, and of the head's weights.
        side_rates: factors of `lr` by side of the adaptation, as in {"down": 0.25}; a side that is not named has 1.
        decay: what decays: "declared" by the adaptation, or "all", biases, too, as the authors' GPT-2 code does.
        eps: AdamW's; the authors' GPT-2 code takes 1e-6.
        warmup: share of the steps in which the rate rises from 0; it then falls linearly to 0.
        warmup_steps: number of steps in which the rate rises, instead of a share.
        clip: largest norm of all gradients together; 0 clips nothing.
        seed: of routes, batches, the dev slice and dropout.
        precision: "no" (float32), "bf16" (CPU and GPU), "fp16" (GPU); experts stay float32.
        accumulate: pieces that a step's batch is computed in; the gradients equal those of the whole.
        max_length: tokens a row; longer ones are cut. None takes 128, or the model's positions if it has fewer.
        bucket: batches whose rows are sorted by length together. 1 mixes all lengths: more padding, but where length
            tells the kind of a row (templates), sorted batches are one-sided and training suffers.
        label_smoothing: share of each label that the task loss spreads evenly over the classes.
        consistency: the second view and how far it is held to the first.
        per: what shares a route: "batch" (the reference), "example" or "token".
        dev_fraction: share of the training rows set aside for choosing the best weights; 0 keeps the last.
        choose_on: "slice" of the training rows, or "evaluation": the very rows that are reported on, as the authors'
            scripts do (it flatters).
        evaluate_every: steps between looks at the dev slice; None looks once an epoch.
        patience: looks without improvement before stopping early; None never stops early.
        swa: share of the run, its last steps, over which the weights are averaged evenly (SWA, Izmailov et al., 2018);
            the average is what is looked at and kept. None averages nothing.
        ema: the same with weights that fall by this factor a step back, such as 0.99, over all steps (EMA).
        cache_prefix: compute what lies below the first adapted block once, without dropout, and train from there.
        cached_passes: compute it so many times instead, with dropout, 512 MB at most. A step takes one of these passes,
            the next one the next, all views of a step the same.
        off_route: "drift": experts off the route get zero gradients and still move by momentum and decay, as in the
            reference; "freeze": they and their moments rest.
        checkpoint_every: steps between checkpoints where there is a folder; 0 writes one at the end only.
        log_every: steps between log rows.

    >>> recipe = Recipe(steps=300, lr=1e-3, consistency=Consistency(weight=0.5))
    >>> recipe.rate(0, 300), recipe.rate(18, 300)  # warms up over 6 % of the steps
    (0.0, 1.0)
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    lr: float = 4e-4
    head_lr: float | None = None
    weight_decay: float = 0.01
    side_rates: Mapping[str, float] = field(default_factory=dict)
    decay: Decay = "declared"
    eps: float = 1e-8
    warmup: float = 0.06
    warmup_steps: int | None = None
    clip: float = 1.0
    seed: int = 0
    precision: Precision = "no"
    accumulate: int = 1
    max_length: int | None = None
    bucket: int = 32
    label_smoothing: float = 0.0
    consistency: Consistency = field(default_factory=Consistency)
    per: Scope = "batch"
    dev_fraction: float = 0.1
    choose_on: ChooseOn = "slice"
    evaluate_every: int | None = None
    patience: int | None = None
    swa: float | None = None
    ema: float | None = None
    cache_prefix: bool = False
    cached_passes: int | None = None
    off_route: OffRoute = "drift"
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        for one, other in (("steps", "epochs"), ("swa", "ema")):
            if (first := getattr(self, one)) is not None and (second := getattr(self, other)) is not None:
                raise LabError(f"{one} = {first} and {other} = {second}: expected one of them. Leave one out.")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise LabError(f"epochs = {self.epochs}: expected a number above 0.")
        whole("seed", self.seed, 0, SEEDS)
        for check, names in CHECKS.items():
            for name in names.split():
                if getattr(self, name) is not getattr(Recipe, name):  # a default, of some None
                    check(name, getattr(self, name))
        for side, rate in self.side_rates.items():
            if not (rate >= 0 and math.isfinite(rate)):
                raise LabError(f"side_rates[{side!r}] = {rate}: expected a factor of lr of at least 0.")
        self._check_average()
        for name, choices in CHOICES.items():
            one_of(name, getattr(self, name), get_args(choices))
        if self.patience is not None and self.dev_fraction == 0 and self.choose_on == "slice":
            raise LabError(
                f"patience = {self.patience} with dev_fraction = 0: expected a dev slice to stop on. "
                "Set dev_fraction, or leave patience out."
            )
        if self.cached_passes and not self.cache_prefix:
            raise LabError(
                f"cached_passes = {self.cached_passes} with cache_prefix = False: expected a prefix that is cached. "
                "Set cache_prefix, or leave cached_passes out: without a cache every step has dropout of its own."
            )
        if self.accumulate > self.batch_size:
            raise LabError(
                f"accumulate = {self.accumulate} pieces of a batch of {self.batch_size} rows: expected at most one "
                "piece a row. Raise batch_size (it counts all rows of a step) or lower accumulate."
            )

    def _check_average(self) -> None:
        if self.swa is not None and not 0 < self.swa <= 1:
            raise LabError(
                f"swa = {self.swa}: expected a share of the run above 0 (a window of no steps has no average) and at "
                "most 1, such as 0.75 for its last three quarters. Leave swa out to keep the weights themselves."
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise LabError(f"ema = {self.ema}: expected a factor a step above 0 and below 1, such as 0.99.")

    def total_steps(self, steps_an_epoch: int) -> int:
        """Optimiser steps of the whole run."""
        if self.epochs is not None:
            return max(1, math.ceil(self.epochs * steps_an_epoch))
        return self.steps or STEPS

    def rate(self, step: int, total: int) -> float:
        """The learning rate's factor at a step counted from 0: linear up, then linear down (as transformers has it)."""
        warm = math.ceil(self.warmup * total) if self.warmup_steps is None else self.warmup_steps
        if step < warm:
            return step / warm
        return max(0.0, (total - step) / max(1, total - warm))

    def share_in_average(self, step: int, total: int) -> float:
        """The share of the weights behind a step, counted from 1, in the average so far; 0 before there is one.

        With it `average.lerp_(weights, share)` gives, behind each step, the mean over the window (swa), or the mean
        with weights that fall by `ema` a step back and sum to 1. Raises ValueError for a window of no steps.
        """
        if self.ema is not None:
            return (1 - self.ema) / (1 - self.ema**step)
        if self.swa is None:
            return 0.0
        window = round(self.swa * total)
        if not window:
            raise LabError(
                f"swa = {self.swa} of {total} steps is a window of no steps: expected one at least. Raise swa or steps."
            )
        return 1 / max(1, step - (total - window)) if step > total - window else 0.0

    def with_options(self, **settings: Any) -> Recipe:
        """With other settings. `consistency` is its weight here, `consistency_kind` and `consistency_views` the rest.

        Of steps and epochs, and of a share and a number of warm-up steps, the one that is given takes the other's
        place. Raises ValueError as the recipe does.
        """
        agree = {CONSISTENCY[name]: settings.pop(name) for name in tuple(settings) if name in CONSISTENCY}
        instead = {EITHER[name]: None for name in settings if name in EITHER}
        return replace(self, consistency=replace(self.consistency, **agree), **{**instead, **settings})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Recipe:
        """The recipe of plain values, as `to_dict` gives them. Raises ValueError for a setting that there is not."""
        values = dict(settings)
        consistency = values.get("consistency")
        if isinstance(consistency, Mapping):
            _check_names("setting of consistency", consistency, Consistency)
            values["consistency"] = Consistency(**consistency)
        _check_names("setting of a recipe", values, cls)
        return cls(**values)


def _check_names(what: str, values: Mapping[str, Any], kind: Any) -> None:
    for name in values:
        one_of(what, name, [field.name for field in fields(kind)])


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


# -- presets: everything that a run of the paper, of the authors' code, or on a laptop is made of, each value sourced --
# `data/presets.yaml` holds them: `reference-*` do what the authors' code does; `paper-*` what the paper's text says,
# its misprints included, with a warning; `laptop-minilm-*` are our own. `adamix-lab presets` lists them.

SIZES = {"bottleneck": "size", "lora": "rank"}  # what `--size` is called in an adaptation


@dataclass(frozen=True)
class Preset:
    """What `load_backbone`, `attach` and `train` are given, and `generate` for text generation.

    Attributes:
        task, backbone: names that `load_task` and `load_backbone` take.
        share: the shared side; "none" shares nothing, and None leaves it to `train_seeds`: the paper's side.
        blocks: layers to adapt; None takes all.
        base_dropout: False switches the frozen model's own dropout off (the authors' GPT-2 has none).
        decoding: settings of `generate`; empty for encoders.
        lines: (value, source) by the value's name, of all that the file says.
        warnings: what to know before believing a number.
    """

    name: str
    task: str
    backbone: str
    adaptation: Adaptation
    experts: int
    share: str | None
    recipe: Recipe
    blocks: tuple[int, ...] | None = None
    base_dropout: bool = True
    decoding: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def generates(self) -> bool:
        """Whether it is for text generation."""
        return bool(self.decoding)

    def attach(self, model: nn.Module, seed: int | None = None) -> MixtureModel:
        """The preset's mixture on a model, in place; `seed` None takes the recipe's."""
        from torch.nn import Dropout

        from adamix_lab.models.model import attach

        for module in model.modules() if not self.base_dropout else ():
            if isinstance(module, Dropout):
                module.p = 0.0
        seed = self.recipe.seed if seed is None else seed
        share = None if self.share == "none" else self.share
        return attach(model, self.adaptation, self.experts, share, blocks=self.blocks, seed=seed)

    def with_options(self, recipe: Mapping[str, Any] | None = None, **options: Any) -> Preset:
        """With some values replaced, under the names of `adamix-lab train`'s options; `recipe`: of `Recipe`.

        Options that a preset does not hold (out, seeds, ...) are passed over, and those that are None.
        """
        from adamix_lab.core.adaptations import adaptation_from

        options = {name: value for name, value in options.items() if value is not None}
        recipe = dict(recipe or {})
        ours = {"experts": "experts", "share": "share", "task": "task", "model": "backbone"}
        settings: dict[str, Any] = {own: options[name] for name, own in ours.items() if name in options}
        kind = options.get("adaptation", self.adaptation.kind)
        sized = {SIZES[kind]: options["size"]} if "size" in options and kind in SIZES else {}
        same = self.adaptation.config() if kind == self.adaptation.kind else {"kind": kind}
        if "top_blocks" in options:
            settings["blocks"] = tuple(range(-options["top_blocks"], 0)) or None
            recipe = {"cache_prefix": options["top_blocks"] > 0, **recipe}
        settings |= {"adaptation": adaptation_from(same | sized), "recipe": self.recipe.with_options(**recipe)}
        return replace(self, **settings)


def preset(name: str) -> Preset:
    """The preset of a name. Raises ValueError for an unknown one, with near misses.

    >>> preset("laptop-minilm-aspects").adaptation.size
    16
    """
    one_of("Preset", name, preset_names())
    return load_presets()[name]


def describe_preset(chosen: Preset) -> str:
    """Every value that the file names, with its source, and the warnings, as text."""
    rows = [(name, str(value), source) for name, (value, source) in chosen.lines.items()]
    wide, broad = (max(len(row[n]) for row in rows) for n in (0, 1))
    lines = [f"{name:{wide}}  {value:{broad}}  {source}" for name, value, source in rows]
    rest = "All else is this library's default."
    return "\n".join([chosen.name, *lines, rest, *(f"Note: {warning}" for warning in chosen.warnings)])


# -- data/presets.yaml -------------------------------------------------------------------------------------


@cache
def _book() -> Any:
    import yaml

    remedy = "Install adamix-lab again, or let ADAMIX_LAB_DATA name its data folder."
    path = require_file(data_root() / "presets.yaml", f"the shipped presets. {remedy}")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _layers() -> dict[tuple[str, str], list[Any]]:
    """By family and task: the tables of values that make up a preset."""
    book, found = _book(), dict[tuple[str, str], list[Any]]()
    for name, family in book["families"].items():
        layers = [*(book["blocks"][block] for block in family.get("use", ())), family]
        found |= {(name, task): layers for task in layers[0]["tasks"]}
    return found


def preset_names() -> list[str]:
    """The names of all presets. Raises as `load_presets` does, and asks nothing of torch."""
    return ["-".join(place) for place in _layers()]


@cache
def load_presets() -> dict[str, Preset]:
    """All presets by name. Raises FileNotFoundError where the checkout's data folder is not there."""
    presets: dict[str, Preset] = {}
    for (name, task), layers in _layers().items():
        parts = [*layers, *(layer["tasks"][task] for layer in layers if task in layer.get("tasks", ()))]
        presets[f"{name}-{task}"] = _layered(f"{name}-{task}", task, parts, _book())
    return presets


def _layered(name: str, task: str, parts: list[dict[str, Any]], book: dict[str, Any]) -> Preset:
    from adamix_lab.core.adaptations import adaptation_from

    lines: dict[str, list[Any]] = {}
    names, warnings = dict(book["sources"]), set()
    for part in parts:
        lines |= {key: line for key, line in part.items() if key not in ("use", "tasks", "sources", "warnings")}
        names |= part.get("sources", {})
        warnings |= set(part.get("warnings", ()))
    lines["task"] = [task, lines["task"][1]]
    told: dict[str, tuple[Any, str]] = {}
    settings: dict[str, Any] = {}
    for key in sorted(lines, key=lambda key: key.count(".")):  # `adaptation` before `adaptation.size`
        for full, value in flatten({key: lines[key][0]}).items():
            told[full] = value, _resolved(lines[key][1], names)
            *path, last = full.split(".")
            place = settings
            for step in path:
                place = place.setdefault(step, {})
            place[last] = tuple(value) if isinstance(value, list) else value
    settings |= {"adaptation": adaptation_from(settings["adaptation"]), "recipe": Recipe.from_dict(settings["recipe"])}
    noted = tuple(text for short, text in book["warnings"].items() if short in warnings)
    return Preset(name, **settings, lines=told, warnings=noted)


def _resolved(source: str, names: Mapping[str, str]) -> str:
    while source in names:
        source = names[source]
    return source
