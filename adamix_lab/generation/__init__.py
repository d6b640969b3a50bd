"""Writing text: decoders pre-trained on plain text, tasks, masked prefixes, beam search, scores."""
