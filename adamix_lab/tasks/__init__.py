"""Data in, models to start from."""
