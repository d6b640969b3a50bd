"""Exact short-cuts: the same answers from fewer operations. Read last, or never.

`blocks` finds blocks, runs once what views share and cuts the last block, `prefix` caches what lies below the first
site, `tree` goes through every route at once.
"""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "blocks": "WAYS cut_last_block plan_blocks routed_logits shared_prefix",
    "prefix": "cached_prefix",
    "tree": "tree_logits",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
