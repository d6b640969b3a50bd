"""Exercises: their sources, student releases, grading of submissions, feedback; a bundle for rooms without network."""
