"""Memory that the C library keeps for arrays, on a CPU."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), as malloc.h of glibc numbers them."""
KEPT = 2**31 - 1
"""Free bytes at the top of the heap that are kept; the most that there can be."""
ALONE = 2**28
"""Bytes from which on an array is mapped by itself, and goes back to the system when freed."""


def keep_freed_memory() -> bool:
    """Lets this process keep memory that it frees, for what it needs next.

    A step on a CPU frees the arrays that the next one needs again. By default glibc gives those of
    more than 32 MB, and what is free at the top of the heap, back to the system, which has to
    clear every page anew: a third of the processor time of a small convolutional net's step.

    Returns:
        Whether the C library does so; others than glibc are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT) and mallopt(MMAP_THRESHOLD, ALONE))
