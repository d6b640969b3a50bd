"""Exact short-cuts: the same answers from fewer operations. Read last, or never."""
