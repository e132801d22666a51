"""Readout: maps become logits."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from cssm.norms import Norm, layer_norm


class PooledReadout(nn.Module):
    """Norm, activation, pooling over time and space, norm, linear.

    Attributes:
        num_classes: number of logits.
        activation: nonlinearity before the pooling.
        pool: reduces an array over the axes that it is given.
        dtype: compute dtype up to the pooling; the logits are float32.
        norm: makes the norms.
        param_dtype: dtype of the parameters.
    """

    num_classes: int
    activation: Callable[[Array], Array]
    pool: Callable[[Array, tuple[int, ...]], Array]
    dtype: Any = jnp.float32
    norm: Norm = layer_norm
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], training: bool = False
    ) -> Float[Array, "b classes"]:
        """Returns the logits.

        Args:
            x: the frames to read.
            training: whether the norms learn from this batch.
        """
        before: Any = self.norm("norm_pre", self.dtype, self.param_dtype, training)
        after: Any = self.norm("norm_post", jnp.float32, self.param_dtype, training)
        x = self.pool(self.activation(before(x)), (-4, -3, -2)).astype(jnp.float32)
        head = nn.Dense(
            self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head"
        )
        return head(after(x))
