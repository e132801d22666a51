"""Freed memory is used again without asking the system for it."""

import json
import platform
import subprocess
import sys

import pytest

ALONE = """
import json, resource
import numpy as np
from common.train.freed_memory import keep_freed_memory

kept, faults = keep_freed_memory(), []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(2**17) for _ in range(40)]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    del arrays
print(json.dumps([kept, faults[-1] / (40 * 2**20 / resource.getpagesize())]))
"""
"""Asks three times for 40 arrays of 1 MB, as many together as a step needs and each too small for
huge pages. In a process of its own: the heap of one with many libraries may be unable to grow."""


LARGE = """
import json, resource
import jax, jax.numpy as jnp
from common.train.freed_memory import keep_freed_memory

kept, faults = keep_freed_memory(), []
call, x = jax.jit(lambda x: jnp.exp(x @ x.T) @ x), jnp.full((5000, 8), 1e-3)
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(call(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
pages = call.lower(x).compile().memory_analysis().temp_size_in_bytes / resource.getpagesize()
print(json.dumps([kept, sorted(faults)[len(faults) // 2] / pages]))
"""
"""Needs 100 MB for intermediates, more than the heap of any thread but the first may hold."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
@pytest.mark.parametrize("program", [ALONE, LARGE], ids=["many_arrays", "large_intermediates"])
def test_freed_memory_is_not_asked_for_again(program):
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, share_of_pages = json.loads(out.stdout.splitlines()[-1])
    assert kept
    assert share_of_pages < 0.1
