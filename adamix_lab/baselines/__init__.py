"""What AdaMix is compared with: each baseline by one word, through the same `train` and `evaluate`."""
