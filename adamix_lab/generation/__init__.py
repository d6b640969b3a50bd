"""Writing text: tasks, masked prefixes, beam search, scores."""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "tasks": "GenerationTask load_generation_task",
    "training": "train_generator",
    "decoding": "Decoding generate_texts",
    "scores": "cider nist rouge_l",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
