"""Dropout whose random numbers are bytes: a quarter of the cost of 32-bit ones on a CPU."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float

LEVELS = 256


class Dropout(nn.Module):
    """Sets numbers to zero at random and scales the others up, so that the mean stays.

    The rate is rounded to a multiple of 1/256; the scale is that of the rounded rate. Random
    numbers come from the collection 'dropout'. Source: Srivastava et al. 2014.

    Attributes:
        rate: share of the numbers that become zero, from 0 to below 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b"], deterministic: bool) -> Float[Array, "*b"]:
        """Returns x as it is if `deterministic`, else with numbers left out."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate of dropout is {self.rate}; expected 0 or more, below 1")
        dropped = round(self.rate * LEVELS)
        if deterministic or not dropped:
            return x
        levels = jax.random.bits(self.make_rng("dropout"), x.shape, jnp.uint8)
        kept = levels >= jnp.uint8(dropped)
        return jnp.where(kept, x * (LEVELS / (LEVELS - dropped)), jnp.zeros((), x.dtype))
