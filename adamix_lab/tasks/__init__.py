"""Data in, models to start from."""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "tasks": "Task data_root few_shot hold_out subsample",
    "loading": "load_task",
    "backbones": "load_backbone",
    "batches": "Batches TextsCut collate encode sequential",
    "metrics": "Undefined score",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
