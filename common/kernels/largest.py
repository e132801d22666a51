"""The largest of numbers, with a gradient that does not hang on how XLA compiles it.

The gradients of `jnp.max` and `jnp.maximum` look for the place that has the maximum by comparing x
with it. XLA may compute x again there, in another loop, and round it otherwise: then no place is
the largest, and the gradient is lost. Here the maximum is compared with nothing.
"""

import math

import jax.numpy as jnp

from common.array_types import Array, Float


def largest(x: Float[Array, "*b"], axes: tuple[int, ...]) -> Float[Array, "*c"]:
    """Returns the maximum over some axes; its gradient goes to the first place that has it.

    Args:
        x: numbers.
        axes: to take the maximum over; one place at least.
    """
    axes = tuple(sorted(axis % x.ndim for axis in axes))
    last = tuple(range(x.ndim - len(axes), x.ndim))
    rows = jnp.moveaxis(x, axes, last)
    rows = rows.reshape(*rows.shape[: last[0]], math.prod(rows.shape[i] for i in last))
    place = jnp.argmax(rows, -1, keepdims=True)
    numbers = jnp.arange(rows.shape[-1]).reshape((1,) * (rows.ndim - 1) + (-1,))
    return jnp.where(numbers == place, rows, 0).sum(-1)


def larger(x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the larger of two numbers, place by place; the gradient of equals goes to x."""
    return jnp.where((x >= y) | jnp.isnan(x), x, y)
