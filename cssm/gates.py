"""Gates: numbers per time and frequency, produced from the mean of a block's input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.nn import time_code


def decay(x: Array) -> Array:
    """Maps the real line to (0.1, 0.99)."""
    return 0.1 + 0.89 * jax.nn.sigmoid(x)


def gate_context(x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b T c"]:
    """Returns the spatial mean of each frame plus the sinusoidal code of its time."""
    return x.mean((-3, -2)) + time_code(steps, x.shape[-1])[None].astype(x.dtype)


class SpectralGate(nn.Module):
    """One gate g_t(f) = bound(W ctx_t + b), shared by all channels.

    Attributes:
        height: rows of the map.
        frequencies: columns of its spectrum.
        bound: maps the real line to the gate's range.
        dtype: compute dtype of the matrix product; the gate itself is float32.
    """

    height: int
    frequencies: int
    bound: Callable[[Array], Array]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, context: Float[Array, "b t c"]) -> Float[Array, "t b h f 1"]:
        """Returns the gate with time leading and room for the channels."""
        size = self.height * self.frequencies
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (context.shape[-1], size), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros, (size,), jnp.float32)
        raw = jnp.matmul(context.astype(self.dtype), kernel.astype(self.dtype))
        raw = raw.astype(jnp.float32) + bias[None, None]
        batch, steps, _ = raw.shape
        shaped = raw.reshape(batch, steps, self.height, self.frequencies, 1)
        return jnp.moveaxis(self.bound(shaped), 1, 0)
