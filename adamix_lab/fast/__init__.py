"""Exact short-cuts: the same answers from fewer operations. Read last, or never.

`blocks` finds blocks, runs once what views share and cuts the last block, `prefix` caches what lies below the first
site, `tree` goes through every route at once.
"""
