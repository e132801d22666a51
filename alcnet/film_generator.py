"""The statistics branch: features for the head, and gamma and beta for the blocks of the CNN."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from alcnet.attention_cnn import Modulation
from common.array_types import Array, Float
from common.kernels import film_parameters


class StatisticsBranch(nn.Module):
    """An MLP from the statistics of the attention maps to features.

    Attributes:
        features: width of the result.
        dtype: of the result.
    """

    features: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, statistics: Float[Array, "b k"]) -> Float[Array, "b d"]:
        """Returns the features; the first layer's output is normalised, whatever the units."""
        x = nn.Dense(self.features, dtype=self.dtype, name="expand")(statistics)
        x = jax.nn.gelu(nn.LayerNorm(dtype=self.dtype, name="norm")(x))
        return jax.nn.gelu(nn.Dense(self.features, dtype=self.dtype, name="mix")(x))


class FilmGenerator(nn.Module):
    """gamma and beta of every block from the features of the statistics.

    Its last layer begins at zero: FiLM is the identity at initialisation.

    Attributes:
        channels: of each block.
        dtype: of the layers; gamma and beta are in float32.
    """

    channels: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b d"]) -> tuple[Modulation, ...]:
        """Returns a pair (gamma, beta) of shape (b, c) each for every block."""
        zeros = nn.initializers.zeros
        return tuple(
            film_parameters(
                nn.Dense(2 * c, dtype=self.dtype, kernel_init=zeros, name=f"block_{number}")(
                    features
                )
            )
            for number, c in enumerate(self.channels)
        )
