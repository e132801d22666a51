"""Readout: the last frame's map becomes logits."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float


class PooledReadout(nn.Module):
    """Layer norm, activation, pooling over space, layer norm, linear.

    Attributes:
        num_classes: number of logits.
        activation: nonlinearity before the pooling.
        pool: reduces an array over the axes that it is given.
        dtype: compute dtype up to the pooling; the logits are float32.
    """

    num_classes: int
    activation: Callable[[Array], Array]
    pool: Callable[[Array, tuple[int, ...]], Array]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        """Returns the logits."""
        x = nn.LayerNorm(dtype=self.dtype, name="norm_pre")(x)
        x = self.pool(self.activation(x), (-3, -2)).astype(jnp.float32)
        x = nn.LayerNorm(name="norm_post")(x)
        return nn.Dense(self.num_classes, name="head")(x)
