"""AdaMix Lab: mixtures of adaptations to read, run, take apart and reuse (Wang et al., EMNLP 2022).

The public names are here; each is imported from its file when it is first used, so that `import adamix_lab`
stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adamix_lab.core import __version__

# name: the file that holds it, in the order of the data's way
_WHERE = {
    "load_backbone": "tasks.backbones",
    "load_task": "tasks.tasks",
    "Task": "tasks.tasks",
    "Adaptation": "core.adaptations",
    "Weight": "core.adaptations",
    "Bottleneck": "core.adaptations",
    "LoRA": "core.adaptations",
    "IA3": "core.adaptations",
    "Bias": "core.adaptations",
    "attach": "core.model",
    "detach": "core.model",
    "MixtureModel": "core.model",
    "Router": "core.routing",
    "RouteSpace": "core.routing",
    "Consistency": "core.objective",
    "Objective": "core.objective",
    "routed_logits": "fast.views",
    "Recipe": "training.recipe",
    "train": "training.train",
    "evaluate": "training.evaluation",
    "predict": "training.evaluation",
    "few_shot": "tasks.tasks",
    "merge": "core.merging",
    "fold": "core.merging",
    "merge_gap": "core.merging",
    "merge_products": "core.merging",
    "save": "training.card",
    "load": "core.saving",
    "parameter_report": "training.report",
    "structure": "training.report",
    "load_twin": "training.shipped",
    "baseline": "baselines.making",
    "preset": "training.presets",
    "export": "interop.export",
    "import_authors": "interop.authors",
    "import_peft": "interop.peft",
    "from_pretrained": "interop.hub",
    "push_to_hub": "interop.hub",
}

__all__ = sorted(_WHERE)

if TYPE_CHECKING:
    from adamix_lab.baselines.making import baseline
    from adamix_lab.core.adaptations import IA3, Adaptation, Bias, Bottleneck, LoRA, Weight
    from adamix_lab.core.merging import fold, merge, merge_gap, merge_products
    from adamix_lab.core.model import MixtureModel, attach, detach
    from adamix_lab.core.objective import Consistency, Objective
    from adamix_lab.core.routing import Router, RouteSpace
    from adamix_lab.core.saving import load
    from adamix_lab.fast.views import routed_logits
    from adamix_lab.interop.authors import import_authors
    from adamix_lab.interop.export import export
    from adamix_lab.interop.hub import from_pretrained, push_to_hub
    from adamix_lab.interop.peft import import_peft
    from adamix_lab.tasks.backbones import load_backbone
    from adamix_lab.tasks.tasks import Task, few_shot, load_task
    from adamix_lab.training.card import save
    from adamix_lab.training.evaluation import evaluate, predict
    from adamix_lab.training.presets import preset
    from adamix_lab.training.recipe import Recipe
    from adamix_lab.training.report import parameter_report, structure
    from adamix_lab.training.shipped import load_twin
    from adamix_lab.training.train import train


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'adamix_lab' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"adamix_lab.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
