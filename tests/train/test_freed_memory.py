"""Freed memory is used again without asking the system for it."""

import platform
import resource

import numpy as np
import pytest

from common.train.freed_memory import keep_freed_memory

ARRAYS, NUMBERS = 40, 2**17
"""Arrays of 1 MB: as many together as a step needs, and each too small for huge pages."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_freed_memory_is_not_asked_for_again():
    assert keep_freed_memory()
    faults = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(NUMBERS) for _ in range(ARRAYS)]
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        del arrays
    pages = ARRAYS * NUMBERS * 8 // resource.getpagesize()
    assert faults[-1] < pages / 10, faults
