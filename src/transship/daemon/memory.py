"""What a service that stays does about memory that the C library keeps for later: mallopt(3), malloc_trim(3).

By itself glibc gives each thread a heap of its own, and hands nothing back from the free end of any but the first. After a run
that is some 10 MB for every thread that has compressed a layer.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # malloc.h
_libc = ctypes.CDLL(None)


def share_heap() -> None:
    """Let all threads have one heap; to be called before there are others. Large blocks are rare: nobody waits for it."""
    if hasattr(_libc, "mallopt"):  # other C libraries have neither the habit nor the cure
        _libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Hand what is free back to the system. Blocks for some milliseconds."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
