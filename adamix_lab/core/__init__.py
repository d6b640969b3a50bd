"""AdaMix itself: adaptations, routes, mixtures, the objective, merging."""

__version__ = "0.1.0"
