"""Memory that the C library keeps for arrays, on a CPU."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENAS = -1, -3, -8
"""Parameters of mallopt(3), as malloc.h of glibc numbers them."""
KEPT = 2**31 - 1
"""Free bytes at the top of the heap that are kept; the most that there can be."""
ALONE = 2**29
"""Bytes from which on an array is mapped by itself, and goes back to the system when freed."""


def keep_freed_memory() -> bool:
    """Lets this process keep memory that it frees, for what it needs next.

    A step on a CPU frees the arrays that the next one needs again. By default glibc gives those of
    more than 32 MB, and what is free at the top of the heap, back to the system, which has to
    clear every page anew: a third of the processor time of a small convolutional net's step, and
    of a small encoder's in bfloat16 (`experiments.benchmarks.encoder`). A thread's own heap has no
    room for more than 64 MB, such as all intermediates of a step, and glibc maps them by
    themselves; so there is one heap for all threads. Those that run already keep theirs: call this
    before JAX makes its devices. Pieces that do not fit are kept too: several times as much as
    the largest array may be held.

    Returns:
        Whether the C library does so; others than glibc are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False
    options = ((ARENAS, 1), (TRIM_THRESHOLD, KEPT), (MMAP_THRESHOLD, ALONE))
    return all([mallopt(*option) for option in options])
