"""Exact short-cuts: the same answers from fewer operations. Read last, or never.

`blocks` finds blocks, runs once what views share and cuts the last block, `prefix` caches what lies below the first
site, `tree` goes through every route at once.
"""

from adamix_lab.core import lazy_names

__all__, __getattr__ = lazy_names(
    __name__, {"blocks": "routed_logits shared_prefix", "prefix": "cached_prefix", "tree": "tree_logits"}
)
