"""Pictures of the analyses: tidy data in, a figure and its alt text out."""
