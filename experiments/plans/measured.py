"""Steps on the machine at hand, beside what the cost model and the machine's own rates say."""

import math
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.plans.costs import costs, total
from experiments.plans.counted import as_on_an_accelerator, training_step
from experiments.plans.workloads import Workload

SMALL = Workload("2 videos of 4 frames, 32 pixels, width 16", 2, 32, 16, 4, video=True, kernel=7)
TIMED = (
    Workload("4 images, 64 pixels, width 32", 4, 64, 32, 8, video=False),
    Workload("2 videos of 8 frames, 64 pixels, width 32", 2, 64, 32, 8, video=True),
)
REPEATS = 9
CALLS_S = 0.05
"""Processor time that the calls of one sample take together, at least, seconds."""


class Rates(NamedTuple):
    """What the machine reaches, by processor time.

    Attributes:
        matrix: operations a second in a product of two 1,024 x 1,024 matrices, float32.
        vector: in a polynomial of degree 64 of 16,384 numbers, which stay in the cache.
        bandwidth: bytes a second, read and written, in x + 1 over 1 MiB, as large as the arrays of
            the small steps: from and to caches.
    """

    matrix: float
    vector: float
    bandwidth: float


def measure_rates() -> Rates:
    """Measures the machine."""
    square = jnp.ones((1024, 1024))
    few, many = jnp.ones(2**14), jnp.ones(2**18)

    def polynomial(x: jax.Array) -> jax.Array:
        y = x
        for _ in range(64):
            y = y * x + x
        return y

    return Rates(
        2 * 1024**3 / _seconds(jnp.matmul, square, square),
        2 * 64 * few.size / _seconds(polynomial, few),
        2 * many.nbytes / _seconds(lambda x: x + 1, many),
    )


def measure_step(work: Workload) -> float:
    """Returns the processor time of a training step, seconds, traced as for an accelerator."""
    step, shapes = training_step(work)
    rng = np.random.default_rng(0)

    def draw(shape: Any) -> np.ndarray:
        if jnp.issubdtype(shape.dtype, jnp.integer):
            return np.zeros(shape.shape, shape.dtype)
        return 0.1 * np.abs(rng.standard_normal(shape.shape)).astype(shape.dtype)

    with as_on_an_accelerator(unrolled=False):
        return _seconds(step, *jax.tree.map(draw, shapes))


def least_seconds(work: Workload, rates: Rates) -> float:
    """Returns the time of a step at the machine's rates: arithmetic and memory side by side."""
    cost = total(costs(work).values())
    return max(
        cost.matrix / rates.matrix + cost.vector / rates.vector, cost.moved / rates.bandwidth
    )


def _seconds(function: Any, *arguments: Any) -> float:
    compiled = jax.jit(function).lower(*arguments).compile()

    def sample(calls: int) -> float:
        begin = time.process_time()
        for _ in range(calls):
            jax.block_until_ready(compiled(*arguments))
        return (time.process_time() - begin) / calls

    sample(1)
    calls = math.ceil(CALLS_S / sample(1))
    return statistics.median(sample(calls) for _ in range(REPEATS))
