"""The C library's allocator, told to keep what a training step frees: the next step asks for it again."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them (malloc.h)
_LARGEST_BLOCK, _LARGEST_REST = 1 << 30, (1 << 31) - 1  # bytes


def keep_freed_memory() -> bool:
    """Lets glibc reuse freed blocks of up to 1 GiB instead of handing them back; True where it does.

    A step's activations above 32 MiB otherwise come from the system each time, zeroed page by page: at 64 rows of 128
    tokens that costs up to a third of a step. The process keeps its peak memory until it ends. Elsewhere than on Linux
    with glibc, and where the environment sets the allocator (`MALLOC_...`, `GLIBC_TUNABLES`, `LD_PRELOAD`), nothing
    is changed.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, _LARGEST_REST))
