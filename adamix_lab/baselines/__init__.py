"""What AdaMix is compared with: each baseline by one word, through the same `train` and `evaluate`.

The table is read without torch; what makes and trains a baseline is imported when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from adamix_lab.core import lazy_names
from adamix_lab.core.errors import Consistency, one_of

ONE_VIEW = Consistency(0.0, views="shared_prefix")
TWO_ROUTES = Consistency(1.0, views="shared_prefix")
TWO_MASKS = Consistency(1.0, "symmetric", "independent")


@dataclass(frozen=True)
class Baseline:
    """How a baseline is made and trained.

    Attributes:
        maker: the function that makes it, and its file here.
        settings: that the maker takes, beside the model and a seed.
        lr: learning rate to begin a search with (found on MiniLM; larger encoders want less).
        consistency: one view a step; two routed views (AdaMix); or, of one expert, two views that differ by their
            dropout masks (R-Drop, Wu et al., 2021, whose cross-entropy reads both views; ours, as AdaMix's, the first).
        folds: nothing is left at inference but the model's own shape and the head.
        recipe: further settings of the recipe that set it apart.
        slowed: the side that AdaMix routes learns at 1/M of the rate. A routed projection is moved at about 1/M of the
            steps, so this is what is left of AdaMix without routes, experts and merging.
    """

    maker: str
    settings: tuple[str, ...] = ()
    lr: float = 3e-3
    consistency: Consistency = ONE_VIEW
    folds: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    slowed: bool = False

    @property
    def make(self) -> Callable[..., Any]:
        """(model, seed, its own settings) to what `train` takes."""
        file, _, name = self.maker.partition(".")
        return getattr(import_module(f"{__name__}.{file}"), name)


SWA = {"swa": 0.75}
SIZED = ("size", "blocks")
SHARED = ("size", "experts", "share", "blocks")

BASELINES: dict[str, Baseline] = {
    "full": Baseline("methods.full", lr=2e-4, folds=True),
    "head": Baseline("methods.head", lr=1e-2, folds=True),
    "bitfit": Baseline("methods.bitfit", folds=True),
    "houlsby": Baseline("methods.houlsby", SIZED),
    "pfeiffer": Baseline("methods.pfeiffer", SIZED),
    "lora": Baseline("methods.lora", ("rank", "alpha", "dropout", "blocks"), folds=True),
    "prefix": Baseline("methods.prefix", ("tokens",), lr=1e-2),
    "prompt": Baseline("methods.prompt", ("tokens",), lr=3e-2),
    "ia3": Baseline("methods.ia3", lr=1e-2, folds=True),
    "unipelt": Baseline("methods.unipelt", ("size", "rank", "alpha", "blocks")),
    "single": Baseline("making.single", SIZED),
    "r-drop": Baseline("making.single", SIZED, consistency=TWO_MASKS),
    "slow": Baseline("making.slow", SHARED, slowed=True),
    "swa": Baseline("making.single", SIZED, recipe=SWA),
    "ema": Baseline("making.single", SIZED, recipe={"ema": 0.99}),
    "slow-swa": Baseline("making.slow", SHARED, recipe=SWA, slowed=True),
    "wide": Baseline("making.wide", ("size", "experts", "blocks")),
    "apart-soup": Baseline("making.apart_soup", ("size", "experts", "blocks")),
    "adamix": Baseline("making.adamix", SHARED, consistency=TWO_ROUTES),
    "adamix-lora": Baseline("making.adamix_lora", ("rank", *SHARED[1:]), consistency=TWO_ROUTES, folds=True),
}
METHODS = (*BASELINES, "probe")  # of a grid: these, and a linear probe, which takes no steps
ONE_ADAPTER = tuple(name for name, each in BASELINES.items() if each.maker in ("making.single", "making.slow"))


def get_baseline(name: str) -> Baseline:
    """The baseline of a name. Raises ValueError for an unknown one, with near misses."""
    one_of("Baseline", name, BASELINES)
    return BASELINES[name]


_names, __getattr__ = lazy_names(__name__, {"making": "baseline load_baseline linear_probe"})
__all__ = ["BASELINES", "get_baseline", *_names]
