"""AdaMix Lab: mixtures of adaptations to read, run, take apart and reuse (Wang et al., EMNLP 2022).

The public names are here; each is imported from its file when it is first used, so that `import adamix_lab`
stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name: the file that holds it, in the order of the data's way
_WHERE = {
    "load_backbone": "backbones",
    "load_task": "tasks",
    "Task": "tasks",
    "Adaptation": "adaptation",
    "Weight": "adaptation",
    "Bottleneck": "adaptations",
    "LoRA": "adaptations",
    "IA3": "adaptations",
    "Bias": "adaptations",
    "attach": "model",
    "detach": "model",
    "MixtureModel": "model",
    "Router": "routing",
    "RouteSpace": "routing",
    "Consistency": "objective",
    "Objective": "objective",
    "routed_logits": "views",
    "Recipe": "recipe",
    "train": "training",
    "evaluate": "evaluation",
    "predict": "evaluation",
    "few_shot": "fewshot",
    "merge": "merging",
    "fold": "merging",
    "merge_gap": "merging",
    "merge_products": "products",
    "save": "saving",
    "load": "saving",
    "parameter_report": "report",
    "structure": "report",
    "load_twin": "twins",
    "baseline": "baselines.making",
    "preset": "presets",
    "export": "interop.export",
    "import_authors": "interop.authors",
    "import_peft": "interop.peft_in",
    "from_pretrained": "interop.sharing",
    "push_to_hub": "interop.sharing",
}

__all__ = sorted(_WHERE)

if TYPE_CHECKING:
    from adamix_lab.adaptation import Adaptation, Weight
    from adamix_lab.adaptations import IA3, Bias, Bottleneck, LoRA
    from adamix_lab.backbones import load_backbone
    from adamix_lab.baselines.making import baseline
    from adamix_lab.evaluation import evaluate, predict
    from adamix_lab.fewshot import few_shot
    from adamix_lab.interop.authors import import_authors
    from adamix_lab.interop.export import export
    from adamix_lab.interop.peft_in import import_peft
    from adamix_lab.interop.sharing import from_pretrained, push_to_hub
    from adamix_lab.merging import fold, merge, merge_gap
    from adamix_lab.model import MixtureModel, attach, detach
    from adamix_lab.objective import Consistency, Objective
    from adamix_lab.presets import preset
    from adamix_lab.products import merge_products
    from adamix_lab.recipe import Recipe
    from adamix_lab.report import parameter_report, structure
    from adamix_lab.routing import Router, RouteSpace
    from adamix_lab.saving import load, save
    from adamix_lab.tasks import Task, load_task
    from adamix_lab.training import train
    from adamix_lab.twins import load_twin
    from adamix_lab.views import routed_logits


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'adamix_lab' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"adamix_lab.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
