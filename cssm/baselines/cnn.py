"""A plain convolutional classifier."""

from flax import linen as nn
from jax import numpy as jnp

from common.array_types import Array, Float
from common.nn import LayerNorm
from cssm.stem import max_pool_2x2


class ConvNet(nn.Module):
    """Stages of 3 x 3 convolution, layer norm, ReLU and 2 x 2 max pooling; mean; linear.

    Attributes:
        widths: channels of each stage.
        num_classes: number of logits.
        dtype: compute dtype; parameters are float32.
    """

    widths: tuple[int, ...]
    num_classes: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b H W 3"], training: bool = False
    ) -> Float[Array, "b classes"]:
        """Returns the logits of still images."""
        del training
        for width in self.widths:
            x = nn.Conv(width, (3, 3), dtype=self.dtype)(x)
            x = max_pool_2x2(nn.relu(LayerNorm(dtype=self.dtype)(x)))
        x = x.mean((-3, -2)).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(x)
