"""What the lessons compute, measure and check: plain functions, usable without a notebook."""
