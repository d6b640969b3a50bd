"""Writing text from data: tasks, training with masked prefixes, beam search, scores."""
