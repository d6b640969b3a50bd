"""Pictures of the analyses: tidy data in, a Figure and its alt text out."""
