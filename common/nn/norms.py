"""Normalisation layers."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels import layer_norm


class LayerNorm(nn.Module):
    """Normalises the channels of every place; the parameters of Flax's layer of that name.

    Attributes:
        dtype: of the result; statistics are in float32 at least.
        param_dtype: dtype of the parameters.
        scale_init: makes the factors of the channels.
        bias_init: makes their summands.
        epsilon: keeps the root above zero.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    scale_init: Any = nn.initializers.ones
    bias_init: Any = nn.initializers.zeros
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Returns the normalised x."""
        shape = x.shape[-1:]
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        return layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)
