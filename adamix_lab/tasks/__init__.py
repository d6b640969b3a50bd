"""Data in, models to start from."""

from adamix_lab.core import lazy_names

__all__, __getattr__ = lazy_names(
    __name__, {"tasks": "Task few_shot hold_out subsample", "loading": "load_task", "backbones": "load_backbone"}
)
