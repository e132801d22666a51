"""Convolutional stem: an image becomes a map of a quarter of its height and width."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from cssm.norms import Norm, layer_norm


def max_pool_2x2(x: Float[Array, "*b h w c"]) -> Float[Array, "*b ceil(h/2) ceil(w/2) c"]:
    """Takes the maximum over 2 x 2 windows; an odd last row or column stands alone."""
    *batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        padding = [(0, 0)] * len(batch) + [(0, height % 2), (0, width % 2), (0, 0)]
        x = jnp.pad(x, padding, constant_values=-jnp.inf)
        *batch, height, width, channels = x.shape
    rows = jnp.maximum(x[..., 0::2, :, :], x[..., 1::2, :, :])
    return jnp.maximum(rows[..., 0::2, :], rows[..., 1::2, :])


class ConvStem(nn.Module):
    """Twice: 3 x 3 convolution, activation, norm over channels, 2 x 2 max pooling.

    Attributes:
        channels: width of both stages.
        activation: nonlinearity.
        dtype: compute dtype.
        norm: makes the norms.
        param_dtype: dtype of the parameters.
    """

    channels: int
    activation: Callable[[Array], Array]
    dtype: Any = jnp.float32
    norm: Norm = layer_norm
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t H W 3"], training: bool = False
    ) -> Float[Array, "b t h w c"]:
        """Returns the map, h = ceil(ceil(H / 2) / 2) and likewise w.

        Args:
            x: images.
            training: whether the norms learn from this batch.
        """
        for stage in (1, 2):
            x = nn.Conv(
                self.channels,
                (3, 3),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"conv{stage}",
            )(x)
            norm: Any = self.norm(f"norm{stage}", self.dtype, self.param_dtype, training)
            x = max_pool_2x2(norm(self.activation(x)))
        return x
