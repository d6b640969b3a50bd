"""Exercises: their sources, student releases, grading of submissions, feedback; a bundle for rooms without network."""

from adamix_lab.core import lazy_names

__all__, __getattr__ = lazy_names(__name__, {"course": "release", "grading": "grade"})
