"""Memory that a training step frees is kept for the next one."""

import ctypes
import ctypes.util
import functools

# Numbers of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> bool:
    """Make this process reuse the memory it frees, in place of giving it back; True if the C library can.

    Every step of a training on a CPU takes and frees the same large tensors. glibc's allocator returns such blocks
    to the system at once, which then clears each page anew at its first use: up to a third of a step. The largest
    memory the process ever needs stays the same. Other systems' allocators are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # No blocks of their own for large requests, and never shrink the heap: see mallopt(3).
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
