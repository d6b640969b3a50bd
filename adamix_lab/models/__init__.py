"""A Hugging Face model that holds mixtures: attached, asked, trained by whatever trains models, saved.

1. `model`: attach, switch tasks, detach.
2. `wrapping`: what a call does, a selection or AdaMix's training step; what stock libraries ask of the model; all that
   trains is float32.
3. `check`: is every site called, and does a short-cut give what plain calls give?
4. `saving`: weights and configuration in a folder.
"""

from typing import Any

from adamix_lab.core import lazy_names

METHODS: dict[str, Any] = {}  # of `MixtureModel`, which packages above bring along (`adamix_lab` fills it)

__all__, __getattr__ = lazy_names(__name__, {"model": "MixtureModel attach detach", "saving": "save load"})
