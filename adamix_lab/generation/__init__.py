"""Writing text: tasks, masked prefixes, beam search, scores."""
