"""The largest of many numbers, with a gradient that does not hang on how XLA compiles it."""

import math

import jax.numpy as jnp

from common.array_types import Array, Float


def largest(x: Float[Array, "*b"], axes: tuple[int, ...]) -> Float[Array, "*c"]:
    """Returns the maximum over some axes; its gradient goes to the first place that has it.

    `jnp.max` looks for the place in its gradient by comparing x with the maximum. XLA may compute x
    again there, in another loop, and round it otherwise: then no place is the largest, and the
    gradient is lost. Here the place is looked for, and what is there is compared with nothing.

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
