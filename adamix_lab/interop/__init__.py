"""Leaving the toolkit and coming in: files of peft, adapters, transformers, ONNX, and the authors."""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "hub": "from_pretrained push_to_hub",
    "peft": "import_peft",
    "authors": "import_authors",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
