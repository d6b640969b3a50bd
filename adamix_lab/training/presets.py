"""Presets: everything that a run of the paper, of the authors' code, or on a laptop is made of, each value sourced.

`data/presets.yaml` holds them: `reference-*` do what the authors' code does; `paper-*` what the paper's text says, its
misprints included, with a warning; `laptop-minilm-*` are our own. `adamix-lab presets` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from adamix_lab.core.errors import one_of
from adamix_lab.core.files import require_file
from adamix_lab.tasks.tasks import data_root
from adamix_lab.training.recipe import Recipe, flatten

if TYPE_CHECKING:
    from torch import nn

    from adamix_lab.core.adaptations import Adaptation
    from adamix_lab.models.model import MixtureModel

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
