"""AdaMix itself: adaptations, routes, mixtures, the objective, merging."""
