"""A control: self-attention over the places of each frame, without any recurrence."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels.spectral import Origin
from common.nn import Rotary

INITIAL_SCALE = 1e-6
EXPANSION = 4


class SpatialAttentionBlock(nn.Module):
    """One pre-norm transformer layer over the pixels of each frame by itself.

    y = x + table + s_1 attention(norm(x + table)), then y + s_2 mlp(norm(y)), with a learned table
    of positions, and s_1 and s_2 learned scales that begin at 1e-6. Returned is what attention and
    mlp add. Source: the spatial attention control of drewlinsley/CSSM, May 2026.

    Attributes:
        channels: width c of the block, a multiple of the heads.
        kernel_size: not used, there is no kernel.
        rotary: position code applied to the block's input.
        origin: not used.
        dtype: compute dtype.
        heads: attention heads.
    """

    channels: int
    kernel_size: int
    rotary: Rotary
    origin: Origin = "centre"
    dtype: jnp.dtype = jnp.float32
    heads: int = 4

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, last_only: bool = False
    ) -> Float[Array, "b T h w c"]:
        """Returns the block's output without the residual.

        Args:
            x: input frames; t = 1 is a still image.
            steps: number of time steps.
            last_only: return the last frame alone (T = 1).

        Returns:
            The frames; a single one if all are the same.

        Raises:
            ValueError: the channels do not split into the heads.
        """
        if self.channels % self.heads:
            raise ValueError(f"{self.channels} channels do not split into {self.heads} heads")
        x = self.rotary(x, steps)
        x = x[:, -1:] if last_only else x
        places = self._add_positions(x).reshape(*x.shape[:2], -1, x.shape[-1])
        attend = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name="attention")
        attended = self._scaled("attention_scale", attend(self._norm("norm1", places)))
        hidden = self._norm("norm2", places + attended)
        hidden = nn.Dense(EXPANSION * self.channels, dtype=self.dtype, name="mlp_up")(hidden)
        hidden = nn.Dense(self.channels, dtype=self.dtype, name="mlp_down")(jax.nn.gelu(hidden))
        return (attended + self._scaled("mlp_scale", hidden)).reshape(x.shape)

    def _add_positions(self, x: Array) -> Array:
        shape = (1, 1, *x.shape[2:])
        table = self.param("pos_embed", nn.initializers.normal(0.02), shape, jnp.float32)
        return x + jnp.broadcast_to(table, x.shape).astype(x.dtype)

    def _norm(self, name: str, x: Array) -> Array:
        return nn.LayerNorm(dtype=self.dtype, name=name)(x)

    def _scaled(self, name: str, x: Array) -> Array:
        initial = nn.initializers.constant(INITIAL_SCALE)
        scale = self.param(name, initial, (self.channels,), jnp.float32)
        return x * jnp.broadcast_to(scale, x.shape).astype(x.dtype)
