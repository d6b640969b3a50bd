"""AdaMix Lab: mixtures of adaptations to read, run, take apart and reuse (Wang et al., EMNLP 2022).

The public names are here; each is imported from its file when it is first used, so that `import adamix_lab`
stays light. The code begins in `adamix_lab.core`, whose text says in which order to read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adamix_lab.core import __version__, lazy_function, lazy_names
from adamix_lab.models import METHODS

# fmt: off
__all__ = [  # noqa: RUF022
    # models and tasks
    "load_backbone", "load_task", "few_shot", "Task",
    # mixtures
    "attach", "detach", "MixtureModel", "Adaptation", "Weight", "Bottleneck", "LoRA", "IA3", "Bias",
    # routes
    "Router", "RouteSpace", "routed_logits",
    # training
    "train", "Recipe", "preset", "baseline", "Objective", "Consistency",
    # merging
    "merge", "merge_products", "merge_gap", "fold",
    # looking
    "evaluate", "predict", "parameter_report", "structure", "load_twin",
    # in and out
    "save", "load", "export", "import_authors", "import_peft", "from_pretrained", "push_to_hub",
    # what is raised for a mistake in what was given
    "LabError",
]
# fmt: on

if TYPE_CHECKING:
    from adamix_lab.baselines.making import baseline
    from adamix_lab.core.adaptations import IA3, Adaptation, Bias, Bottleneck, LoRA, Weight
    from adamix_lab.core.errors import LabError
    from adamix_lab.core.merging import fold, merge, merge_gap, merge_products
    from adamix_lab.core.objective import Consistency, Objective
    from adamix_lab.core.routing import Router, RouteSpace
    from adamix_lab.fast.blocks import routed_logits
    from adamix_lab.interop.authors import import_authors
    from adamix_lab.interop.export import export
    from adamix_lab.interop.hub import from_pretrained, push_to_hub
    from adamix_lab.interop.peft import import_peft
    from adamix_lab.models.model import MixtureModel, attach, detach
    from adamix_lab.models.saving import load
    from adamix_lab.tasks.backbones import load_backbone
    from adamix_lab.tasks.loading import load_task
    from adamix_lab.tasks.tasks import Task, few_shot
    from adamix_lab.training.evaluation import evaluate, predict
    from adamix_lab.training.recipe import Recipe, preset
    from adamix_lab.training.report import parameter_report, save, structure
    from adamix_lab.training.shipped import load_twin
    from adamix_lab.training.train import train

_FILES = {
    "baselines.making": "baseline",
    "core.adaptations": "IA3 Adaptation Bias Bottleneck LoRA Weight",
    "core.errors": "LabError",
    "core.merging": "fold merge merge_gap merge_products",
    "models.model": "MixtureModel attach detach",
    "core.objective": "Consistency Objective",
    "core.routing": "Router RouteSpace",
    "models.saving": "load",
    "fast.blocks": "routed_logits",
    "interop.authors": "import_authors",
    "interop.export": "export",
    "interop.hub": "from_pretrained push_to_hub",
    "interop.peft": "import_peft",
    "tasks.backbones": "load_backbone",
    "tasks.tasks": "Task few_shot",
    "tasks.loading": "load_task",
    "training.evaluation": "evaluate predict",
    "training.recipe": "Recipe preset",
    "training.report": "parameter_report save structure",
    "training.train": "train",
    "training.shipped": "load_twin",
}
_, __getattr__ = lazy_names(__name__, _FILES)

# A mixture's methods in the ecosystem's words. They lie above the core, and are imported when they are called.
METHODS |= {
    "save_pretrained": lazy_function("adamix_lab.training.report", "save"),
    "from_pretrained": staticmethod(lazy_function("adamix_lab.interop.hub", "from_pretrained")),
    "push_to_hub": lazy_function("adamix_lab.interop.hub", "push_to_hub"),
    "merge_and_unload": lazy_function("adamix_lab.core.merging", "fold"),
    "__repr__": lazy_function("adamix_lab.training.report", "structure"),
    "_repr_html_": lazy_function("adamix_lab.training.report", "structure_html"),
}


def __dir__() -> list[str]:
    return [*globals(), *__all__]
