"""What the lessons compute and draw."""
