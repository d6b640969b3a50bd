"""Checks for the exercises: each says what was expected, what came, and the likely cause. No solutions in here."""
