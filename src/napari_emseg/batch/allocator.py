"""Memory that threads have freed goes to other threads, not only back to themselves.

The C library of Linux (glibc) keeps up to eight arenas for each core, so that threads
needn't wait for each other, and what was freed in one is used again by its own threads
only. In a batch each part of the work is done by another thread, and the process grew
with the number of parts.
"""

from __future__ import annotations

import ctypes
import sys

ARENAS = 2
"""Enough for threads not to wait: they ask for a few large arrays."""

VARIABLE = "MALLOC_ARENA_MAX"
"""That glibc reads when a process begins."""

_M_ARENA_MAX = -8
"""Number of the option in glibc's malloc.h."""


def share_arenas() -> bool:
    """Let all threads of this process share a few arenas; tell if that was possible.

    Only what threads that begin later take is shared, so it is for the beginning of a
    program. Elsewhere than on Linux with glibc nothing is done.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS))
