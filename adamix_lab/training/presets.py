"""Presets: everything that a run of the paper, of the authors' code, or on a laptop is made of, each value sourced.

`reference-*` do what the authors' code does; `paper-*` what the paper's text says, its misprints included, with a
warning; `laptop-minilm-*` are our own. `adamix-lab presets` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from adamix_lab.core.adaptations import Adaptation, Bottleneck, LoRA, adaptation_from
from adamix_lab.core.errors import unknown
from adamix_lab.core.model import MixtureModel, attach
from adamix_lab.core.objective import IGNORED, Consistency, TaskLoss
from adamix_lab.training import preset_tables as t
from adamix_lab.training.recipe import Recipe


@dataclass(frozen=True)
class Preset:
    """What `load_backbone`, `attach` and `train` are given, and `generate` for text generation.

    Attributes:
        task, backbone: names that `load_task` and `load_backbone` take.
        share: the shared side.
        blocks: layers to adapt; None takes all.
        base_dropout: False switches the frozen model's own dropout off (the authors' GPT-2 has none).
        label_smoothing: of the task loss; the authors' GPT-2 code has 0.1 for two tasks.
        decoding: settings of `generate`; empty for encoders.
        sources: where a value is from, by its name in `values`.
        warnings: what to know before believing a number.
    """

    name: str
    task: str
    backbone: str
    adaptation: Adaptation
    experts: int
    share: str
    recipe: Recipe
    blocks: tuple[int, ...] | None = None
    base_dropout: bool = True
    label_smoothing: float = 0.0
    decoding: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def generates(self) -> bool:
        """Whether it is for text generation."""
        return bool(self.decoding)

    def attach(self, model: nn.Module, seed: int | None = None) -> MixtureModel:
        """The preset's mixture on a model, in place; `seed` None takes the recipe's."""
        if not self.base_dropout:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        seed = self.recipe.seed if seed is None else seed
        share = None if self.share == "none" else self.share
        return attach(model, self.adaptation, self.experts, share, blocks=self.blocks, seed=seed)

    def attached(self) -> dict[str, Any]:
        """The arguments of `attach`, and of `train_seeds`, beside the adaptation."""
        return {"experts": self.experts, "share": self.share, "blocks": self.blocks}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: each value with its source, and the warnings."""
        values = {name: {"value": value, "source": source} for name, value, source in self.values()}
        return {"name": self.name, "values": values, "warnings": list(self.warnings)}

    def task_loss(self) -> TaskLoss | None:
        """What `train` takes as `task_loss`: None where the head's own serves."""
        return smoothed_next_token_loss(self.label_smoothing) if self.label_smoothing else None

    def values(self) -> list[tuple[str, Any, str]]:
        """(name, value, source) of every value that is set, the recipe's and the adaptation's one by one."""
        flat = {"task": self.task, "backbone": self.backbone, "experts": self.experts, "share": self.share}
        flat |= {f"adaptation.{name}": value for name, value in self.adaptation.config().items()}
        flat |= {"blocks": self.blocks, "base_dropout": self.base_dropout, "label_smoothing": self.label_smoothing}
        recipe = self.recipe.to_dict()
        consistency = recipe.pop("consistency")
        if self.recipe.warmup_steps is not None:
            del recipe["warmup"]
        flat |= {f"recipe.{name}": value for name, value in recipe.items()}
        flat |= {f"recipe.consistency.{name}": value for name, value in consistency.items()}
        flat |= {f"decoding.{name}": value for name, value in self.decoding.items()}
        return [(name, value, self._source(name)) for name, value in flat.items() if value is not None]

    def _source(self, name: str) -> str:
        while name:
            if name in self.sources:
                return self.sources[name]
            name = name.rpartition(".")[0]
        return "this library's default"

    def changed(self, **options: Any) -> Preset:
        """With some values replaced, under the names of `adamix-lab train`'s options.

        Options that a preset does not hold (out, seeds, ...) are passed over. Setting `steps` leaves epochs out.
        """
        ours = {"experts": "experts", "share": "share", "task": "task", "model": "backbone"}
        settings: dict[str, Any] = {own: options[name] for name, own in ours.items() if name in options}
        if "adaptation" in options or "size" in options:
            settings["adaptation"] = _resized(self.adaptation, options)
        recipe: dict[str, Any] = {name: options[name] for name in t.OPTIONS if name in options}
        if "steps" in options:
            recipe["epochs"] = None
        if "consistency" in options:
            recipe["consistency"] = replace(self.recipe.consistency, weight=options["consistency"])
        if "top_blocks" in options:
            settings["blocks"] = tuple(range(-options["top_blocks"], 0))
            recipe["cache_prefix"] = True
        return replace(self, recipe=replace(self.recipe, **recipe), **settings)


def _resized(adaptation: Adaptation, options: Mapping[str, Any]) -> Adaptation:
    kind = options.get("adaptation", adaptation.kind)
    size = {"bottleneck": "size", "lora": "rank"}.get(kind)
    if kind == adaptation.kind:
        return replace(adaptation, **({size: options["size"]} if size and "size" in options else {}))
    return adaptation_from({"kind": kind, **({size: options["size"]} if size and "size" in options else {})})


def preset(name: str) -> Preset:
    """The preset of a name. Raises ValueError for an unknown one, with near misses."""
    if name not in PRESETS:
        raise unknown("Preset", name, PRESETS)
    return PRESETS[name]


def smoothed_next_token_loss(smoothing: float) -> TaskLoss:
    """Cross-entropy of the next tokens, a share of each target spread evenly over the vocabulary."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logits, labels = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        return F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=smoothing)

    return loss


def describe_preset(chosen: Preset) -> str:
    """Every value with its source, and the warnings, as text."""
    rows = [(name, str(value), source) for name, value, source in chosen.values()]
    wide, broad = (max(len(row[n]) for row in rows) for n in (0, 1))
    lines = [f"{name:{wide}}  {value:{broad}}  {source}" for name, value, source in rows]
    return "\n".join([chosen.name, *lines, *(f"Note: {warning}" for warning in chosen.warnings)])


# -- understanding: Appendix D and the authors' MNLI scripts ------------------------------------------------


def _understanding(encoder: str, task: str, reference: bool) -> Preset:
    table, size, warmup = t.ENCODERS[encoder]
    lr, epochs, batch = table[task]
    one_view = task == "stsb" or (reference and encoder == "bert-base")
    recipe = Recipe(
        epochs=epochs,
        lr=lr,
        batch_size=batch,
        weight_decay=0.1,
        warmup=0.06 if reference else warmup,
        bucket=1,
        consistency=Consistency(0.0 if one_view else 1.0, "reference" if reference else "symmetric"),
        choose_on="evaluation" if reference else "slice",
        dev_fraction=0.0 if reference else 0.1,
    )
    name = f"{'reference' if reference else 'paper'}-{encoder}-{task}"
    sources, warnings = _understanding_notes(encoder, task, reference)
    return Preset(name, task, encoder, Bottleneck(size), 4, "up", recipe, sources=sources, warnings=warnings)


def _understanding_notes(encoder: str, task: str, reference: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    printed = t.SCRIPT if reference and task == "mnli" else t.APPENDIX_D
    sources = {
        **dict.fromkeys(("task", "backbone", "recipe.lr", "recipe.epochs", "recipe.batch_size"), printed),
        **dict.fromkeys(("recipe.weight_decay", "experts", "adaptation.size"), printed),
        "share": t.SCRIPT if reference else t.FIGURE,
        "adaptation": t.CODE if reference else t.UNSTATED,
        "recipe.warmup": t.SCRIPT if reference else t.APPENDIX_D,
        "recipe.max_length": t.SCRIPT if reference else t.UNSTATED,
        "recipe.bucket": t.CODE if reference else t.UNSTATED,
        "recipe.choose_on": t.SCRIPT if reference else t.OURS,
        "recipe.dev_fraction": t.SCRIPT if reference else t.OURS,
        "recipe.consistency": t.CODE if reference else t.EQUATION_5,
        **dict.fromkeys(("recipe.eps", "recipe.clip", "recipe.decay"), t.CODE if reference else t.UNSTATED),
        "recipe.seed": t.SCRIPT if reference else t.UNSTATED,
        "recipe.off_route": t.CODE if reference else t.UNSTATED,
    }
    warnings = {
        t.WARM_UP: encoder == "roberta-large" and not reference,
        t.SIZES: not reference,
        t.ONE_OUTPUT: task == "stsb",
        t.NO_SECOND_VIEW: reference and encoder == "bert-base",
        t.ONLY_MNLI: reference and task != "mnli",
        t.ON_EVALUATION: reference,
        t.BY_ACCURACY: reference and task in ("cola", "stsb"),
    }
    return sources, tuple(text for text, told in warnings.items() if told)


# -- generation: Appendix D and the authors' scripts -------------------------------------------------------


def _generation(task: str, kind: str, reference: bool) -> Preset:
    epochs, warmup_steps, decay, smoothing, dropout = t.GENERATION[task]
    lora = LoRA(4, 32.0, dropout, init="reference")
    recipe = Recipe(
        epochs=epochs,
        lr=2e-4,
        batch_size=8,
        weight_decay=decay,
        decay="all",
        eps=1e-6,
        warmup_steps=warmup_steps,
        clip=0.0,
        seed=110,
        max_length=512,
        bucket=1,
        consistency=Consistency(100.0, "reference") if reference else Consistency(1.0, "symmetric"),
        dev_fraction=0.0,
    )
    middle = {"lora": "", "adapter": "adapter-"} if reference else {"lora": "lora-", "adapter": "adapter-"}
    name = f"{'reference-gpt2' if reference else 'paper-gpt2-medium'}-{middle[kind]}{task}"
    script = t.NLG_SCRIPT if reference else t.UNSTATED
    appendix = t.NLG_SCRIPT if reference else t.APPENDIX_D
    sources = {
        **dict.fromkeys(("task", "recipe.epochs", "recipe.warmup_steps", "experts"), appendix),
        **dict.fromkeys(("backbone", "recipe.lr", "recipe.batch_size", "adaptation"), script if reference else t.HU),
        **dict.fromkeys(("decoding", "label_smoothing", "share", "base_dropout"), script),
        **{f"recipe.{name}": script for name in t.SCRIPTED},
        "recipe.consistency": t.CODE if reference else t.EQUATION_5,
    }
    if kind == "adapter":
        sources["adaptation"] = t.CODE if reference else t.UNSTATED
        sources["adaptation.size"] = t.CODE if reference else t.APPENDIX_D
    warnings = {
        t.PRINTED_8: kind == "lora" and not reference,
        t.NO_WEIGHT: not reference,
        t.NO_SCRIPT: kind == "adapter" and reference,
        t.LAST_WEIGHTS: True,
    }
    return Preset(
        name,
        task,
        "gpt2-medium",
        lora if kind == "lora" else Bottleneck(8, "gelu_new"),
        8,
        "B" if kind == "lora" else "up",
        recipe,
        base_dropout=False,
        label_smoothing=smoothing,
        decoding=t.DECODING,
        sources=sources,
        warnings=tuple(text for text, told in warnings.items() if told),
    )


# -- our own -----------------------------------------------------------------------------------------------


def _laptop(task: str) -> Preset:
    steps, tokens, reason = t.LAPTOP[task]
    settings: dict[str, Any] = {"lr": 3e-3, "head_lr": 1e-2} | (t.ASPECTS if task == "aspects" else {})
    consistency = Consistency(1.0, "mse" if task == "stsb" else "reference", "shared_prefix")
    sources = t.LAPTOP_REASONS | (t.ASPECTS_REASONS if task == "aspects" else {})
    sources = sources | {"task": "named", "recipe.steps": reason, "recipe.max_length": "rows of this task are shorter"}
    if task == "stsb":
        sources["recipe.consistency.kind"] = "squared: KL over one output is always 0"
    recipe = Recipe(steps=steps, max_length=tokens, cache_prefix=True, consistency=consistency, **settings)
    name = f"laptop-minilm-{task}"
    return Preset(name, task, "minilm", Bottleneck(16), 4, "up", recipe, blocks=(-2, -1), sources=sources)


PRESETS: dict[str, Preset] = {
    made.name: made
    for made in (
        *(_understanding(e, task, ref) for ref in (False, True) for e in t.ENCODERS for task in t.ENCODERS[e][0]),
        *(_generation(task, k, ref) for ref in (False, True) for k in ("lora", "adapter") for task in t.GENERATION),
        *map(_laptop, t.LAPTOP),
    )
}
