"""The loop and what surrounds it."""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "recipe": "Recipe",
    "run": "History Run",
    "evaluation": "Evaluation evaluate judge predict",
    "hf_trainer": "AdaMixTrainer",
    "presets": "load_presets preset",
    "shipped": "load_saved load_twin",
    "report": "parameter_report save structure",
    "doctor": "versions",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
