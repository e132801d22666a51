"""Gates: numbers per time and cell of a grid, produced from the mean of a block's input."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float

Bound = Callable[[Array], Array]


def decay(x: Array) -> Array:
    """Maps the real line to (0.1, 0.99)."""
    return 0.1 + 0.89 * jax.nn.sigmoid(x)


class GridGate(nn.Module):
    """One gate g_t(i, j) = bound(W ctx_t + b), shared by all channels.

    Attributes:
        height: rows of the grid.
        width: its columns: frequencies f of a spectrum, or columns of a map.
        bound: maps the real line to the gate's range.
        dtype: compute dtype of the matrix product; the gate itself is float32.
        param_dtype: dtype of the parameters.
    """

    height: int
    width: int
    bound: Bound
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, context: Float[Array, "t b c"]) -> Float[Array, "t b h w 1"]:
        """Returns the gate, with room for the channels."""
        size = self.height * self.width
        shape = (context.shape[-1], size)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (size,), self.param_dtype)
        raw = jnp.matmul(context.astype(self.dtype), kernel.astype(self.dtype))
        raw = raw.astype(jnp.float32) + bias[None, None]
        return self.bound(raw.reshape(*raw.shape[:2], self.height, self.width, 1))
