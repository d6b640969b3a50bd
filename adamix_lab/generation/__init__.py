"""Generation: text for pre-training, the shipped decoder, perplexity."""
