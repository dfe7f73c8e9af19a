"""Keeps freed memory in the process, so that timings on a CPU are of the model alone.

glibc hands large buffers back to the system when they are freed and has them mapped and zeroed
again, page by page, at the next layer. Whether it does depends on what was allocated before: the
same forward was seen with no page faults and with 115 000. Contenders that take turns then measure
each other's heap.
"""

from __future__ import annotations

import ctypes
import ctypes.util

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> str:
    """Tell glibc to keep what is freed, from now on; a name of the policy for the record."""
    name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(name), "mallopt", None) if name else None
    if mallopt is None:
        return "as the system has it"
    if mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1):
        return "glibc, freed memory kept"
    return "as the system has it"
