"""What the generation tables compare: the frozen decoder, LoRA, AdaMix with LoRA or a bottleneck, full fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from adamix_lab.baselines.making import baseline
from adamix_lab.core.adaptation import Adaptation
from adamix_lab.core.adaptations import Bottleneck, LoRA
from adamix_lab.core.errors import fraction, positive
from adamix_lab.core.model import MixtureModel, attach
from adamix_lab.core.objective import Consistency
from adamix_lab.generation.decoding import Decoding
from adamix_lab.generation.training import one_view
from adamix_lab.training.recipe import Recipe


def _recipe() -> Recipe:
    return Recipe(steps=2000, batch_size=8, lr=2e-4, warmup=0.04, consistency=Consistency(100.0), dev_fraction=0.0)


@dataclass(frozen=True)
class Settings:
    """How the variants are trained and decoded; the defaults are the authors' for GPT-2, but for the steps.

    Attributes:
        recipe: of every variant; those with one module take one view. `head_lr` is full fine-tuning's rate.
        decoding: beam search.
        experts: M of AdaMix.
        rank: of LoRA; its scale is alpha / rank.
        alpha: of LoRA.
        dropout: of LoRA's input.
        size: of the bottleneck.
        smoothing: label smoothing of the task loss.
    """

    recipe: Recipe = field(default_factory=_recipe)
    decoding: Decoding = field(default_factory=Decoding)
    experts: int = 8
    rank: int = 4
    alpha: float = 32.0
    dropout: float = 0.1
    size: int = 8
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        positive("experts", self.experts)
        fraction("smoothing", self.smoothing)

    def lora(self, init: str = "identity") -> Adaptation:
        """LoRA on q and v."""
        return LoRA(self.rank, self.alpha, self.dropout, init=init)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "recipe": self.recipe.to_dict()}


Make = Callable[[nn.Module, Settings], MixtureModel]


@dataclass(frozen=True)
class Variant:
    """A row, or several, of the table.

    Attributes:
        title: in the table.
        make: what trains, on the loaded decoder; None trains nothing.
        strategies: how it is decoded, a row each.
        views: with a second view and consistency.
    """

    title: str
    make: Make | None
    strategies: tuple[str, ...] = ("merged",)
    views: bool = False

    def recipe(self, settings: Settings) -> Recipe:
        """The settings' recipe as this variant takes it."""
        recipe = settings.recipe if self.views else one_view(settings.recipe)
        lr = recipe.head_lr if self.make is _full else None
        return replace(recipe, lr=lr or recipe.lr, head_lr=None)


def _lora(model: nn.Module, settings: Settings) -> MixtureModel:
    return attach(model, settings.lora(), experts=1, seed=settings.recipe.seed)


def _adamix_lora(model: nn.Module, settings: Settings) -> MixtureModel:
    return attach(model, settings.lora("reference"), settings.experts, "B", seed=settings.recipe.seed)


def _adamix_bottleneck(model: nn.Module, settings: Settings) -> MixtureModel:
    adaptation = Bottleneck(settings.size)
    return attach(model, adaptation, settings.experts, "up", seed=settings.recipe.seed)


def _full(model: nn.Module, settings: Settings) -> MixtureModel:
    return baseline("full", model)


VARIANTS: Mapping[str, Variant] = {
    "frozen": Variant("frozen decoder, not tuned", None),
    "lora": Variant("LoRA", _lora),
    "adamix-lora": Variant("AdaMix-LoRA", _adamix_lora, ("merged", "fixed"), views=True),
    "adamix-bottleneck": Variant("AdaMix bottleneck", _adamix_bottleneck, ("merged", "fixed"), views=True),
    "full": Variant("full fine-tuning", _full),
}
SHOWN = ("frozen", "lora", "adamix-lora", "full")
