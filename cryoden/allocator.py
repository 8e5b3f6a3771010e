"""Memory that layers free, kept for the next ones: what it costs a CPU to get every tensor from the system anew."""

import ctypes
import os
import sys

# mallopt's names for them, from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process and its children keep memory that is freed, for what is allocated next.

    By default glibc gives every large tensor back to the system when it is freed. The next one comes as new pages,
    which the system fills with zeros one by one as they are touched: a tenth to a third of a training step on a CPU.
    Kept, the heap stays as large as it ever was, and has gaps; docs/speed.md tells what both amount to.

    Returns:
        Whether it does: only with glibc, and unless the environment already sets up its allocator (MALLOC_...,
        GLIBC_TUNABLES, LD_PRELOAD).
    """
    if not sys.platform.startswith("linux"):
        return False
    if any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl's mallopt does nothing
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))  # -1: never
