"""A control: self-attention over the places of each frame, without any recurrence."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, PyTree, Time
from common.nn import LayerNorm
from cssm.blocks.base import StateSpaceBlock

INITIAL_SCALE = 1e-6
EXPANSION = 4


class SpatialAttentionBlock(StateSpaceBlock):
    """One pre-norm transformer layer over the pixels of each frame by itself.

    y = x + table + s_1 attention(norm(x + table)), then y + s_2 mlp(norm(y)), with a learned table
    of positions, and s_1 and s_2 learned scales that begin at 1e-6. Returned is what attention and
    mlp add. Source: the spatial attention control of drewlinsley/CSSM, May 2026.

    There is no kernel: `kernel_size`, `origin` and `boundary` mean nothing here. Nor is there a
    state: every frame stands alone.

    Attributes:
        heads: attention heads; they divide the channels.
    """

    heads: int = 4

    @nn.compact
    def advance(
        self,
        x: Float[Array, "b t h w c"],
        steps: int,
        state: PyTree = None,
        start: Time = 0,
        last_only: bool = False,
    ) -> tuple[Float[Array, "b T h w c"], PyTree]:
        """Returns the output, a single frame if all are the same, and an empty state.

        Raises:
            ValueError: the channels do not split into the heads.
        """
        del state
        if self.channels % self.heads:
            raise ValueError(f"{self.channels} channels do not split into {self.heads} heads")
        x = self.rotary(x, steps, start)
        x = x[:, -1:] if last_only else x
        places = self._add_positions(x).reshape(*x.shape[:2], -1, x.shape[-1])
        attend = nn.MultiHeadDotProductAttention(
            self.heads, dtype=self.dtype, param_dtype=self.param_dtype, name="attention"
        )
        attended = self._scaled("attention_scale", attend(self._norm("norm1", places)))
        hidden = self._norm("norm2", places + attended)
        hidden = self.dense(EXPANSION * self.channels, "mlp_up")(hidden)
        hidden = self.dense(self.channels, "mlp_down")(jax.nn.gelu(hidden))
        return (attended + self._scaled("mlp_scale", hidden)).reshape(x.shape), ()

    def _add_positions(self, x: Array) -> Array:
        shape = (1, 1, *x.shape[2:])
        table = self.param("pos_embed", nn.initializers.normal(0.02), shape, self.param_dtype)
        return x + jnp.broadcast_to(table, x.shape).astype(x.dtype)

    def _norm(self, name: str, x: Array) -> Array:
        return LayerNorm(dtype=self.dtype, param_dtype=self.param_dtype, name=name)(x)

    def _scaled(self, name: str, x: Array) -> Array:
        initial = nn.initializers.constant(INITIAL_SCALE)
        scale = self.param(name, initial, (self.channels,), self.param_dtype)
        return x * jnp.broadcast_to(scale, x.shape).astype(x.dtype)
