"""Exercises: their sources, student releases, grading of submissions, feedback; a bundle for rooms without network."""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "course": "release",
    "grading": "grade",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
