"""The layers of a language model: maps of (b, t, d) that never look ahead, but for one.

Each takes whole sequences through `__call__`, and pieces of them through `extend`, which also takes
and gives the layer's state (`init_state`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, PyTree, Time
from common.nn import Dense, DotProductAttention, LayerNorm, rotate_time

EXPANSION = 4


class ConvLayer(nn.Module):
    """y = conv(x): the convolution stands in the way of everything above it.

    Attributes:
        conv: from `convattn.convolutions`.
    """

    conv: nn.Module

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Takes whole sequences."""
        return self.conv(x)

    def init_state(self, batch: int, length: int) -> PyTree:
        """Returns the state before the first token."""
        del length
        return self.conv.init_state(batch)

    def extend(
        self, x: Float[Array, "b t d"], state: PyTree, start: Time
    ) -> tuple[Float[Array, "b t d"], PyTree]:
        """Takes the next tokens."""
        del start
        return self.conv.extend(x, state)


class ResidualConvLayer(ConvLayer):
    """y = x + conv(x), a canon layer (Allen-Zhu 2025, "Physics of language models", part 4.1)."""

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Takes whole sequences."""
        return x + self.conv(x)

    def extend(
        self, x: Float[Array, "b t d"], state: PyTree, start: Time
    ) -> tuple[Float[Array, "b t d"], PyTree]:
        """Takes the next tokens."""
        y, state = super().extend(x, state, start)
        return x + y, state


class AttentionState(NamedTuple):
    """What attention keeps of the tokens so far.

    Attributes:
        key: keys as they were projected, mixed and turned; zeros beyond the tokens so far.
        value: values.
        mixers: states of the query, key and value mixers, None where there is none.
    """

    key: Float[Array, "b s heads d"]
    value: Float[Array, "b s heads d"]
    mixers: tuple[PyTree, PyTree, PyTree]


class NoRotation(nn.Module):
    """Leaves queries and keys as they are."""

    def __call__(
        self, x: Float[Array, "b t heads d"], start: Time = 0
    ) -> Float[Array, "b t heads d"]:
        """Returns x."""
        del start
        return x


class RotaryPositions(nn.Module):
    """Turns channel pair j of token t by t 10000^(-2j / d).

    Source: Su et al. 2021, "RoFormer", equation 15.
    """

    def __call__(
        self, x: Float[Array, "b t heads d"], start: Time = 0
    ) -> Float[Array, "b t heads d"]:
        """Turns queries or keys, the first of which stands at place `start`."""
        return rotate_time(x[:, :, :, None], x.shape[1], start)[:, :, :, 0]


class AttentionLayer(nn.Module):
    """y = x + W_o attention(Q, K, V), each of them mixed over time after its projection of norm(x).

    Attributes:
        width: d.
        heads: number of heads, which divides d.
        rotation: turns queries and keys by their place.
        mixers: of queries, keys and values, from `convattn.convolutions`; None leaves them.
        dtype: compute dtype; parameters are float32.
    """

    width: int
    heads: int
    rotation: nn.Module
    mixers: tuple[nn.Module | None, nn.Module | None, nn.Module | None] = (None, None, None)
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: the width does not split into the heads.
        """
        super().__post_init__()
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width is {self.width}; expected a multiple of {self.heads} heads")

    def setup(self) -> None:
        """Makes the projections."""
        self.norm = LayerNorm(dtype=self.dtype)
        self.projections = [
            Dense(self.width, use_bias=False, dtype=self.dtype, name=name)
            for name in ("query", "key", "value")
        ]
        self.attention = DotProductAttention()
        self.out = Dense(self.width, use_bias=False, dtype=self.dtype)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Takes whole sequences."""
        mixed = [
            projected if mixer is None else mixer(projected)
            for mixer, projected in zip(self.mixers, self._projected(x), strict=True)
        ]
        query, key, value = map(self._split, mixed)
        query, key = self.rotation(query), self.rotation(key)
        return x + self._merged(self.attention(query, key, value, causal=True))

    def init_state(self, batch: int, length: int) -> AttentionState:
        """Returns the state before the first token, with room for `length` of them."""
        empty = jnp.zeros((batch, length, self.heads, self.width // self.heads), self.dtype)
        query, key, value = (None if m is None else m.init_state(batch) for m in self.mixers)
        return AttentionState(empty, empty, (query, key, value))

    def extend(
        self, x: Float[Array, "b t d"], state: AttentionState, start: Time
    ) -> tuple[Float[Array, "b t d"], AttentionState]:
        """Takes the next tokens, the first of which stands at place `start`."""
        pairs = [
            (projected, None) if mixer is None else mixer.extend(projected, old)
            for mixer, projected, old in zip(
                self.mixers, self._projected(x), state.mixers, strict=True
            )
        ]
        query, key, value = (self._split(projected) for projected, _ in pairs)
        query, key = self.rotation(query, start), self.rotation(key, start)
        place = (0, start, 0, 0)
        keys = jax.lax.dynamic_update_slice(state.key, key.astype(state.key.dtype), place)
        values = jax.lax.dynamic_update_slice(state.value, value.astype(state.value.dtype), place)
        now = start + jnp.arange(x.shape[1])
        seen = jnp.arange(keys.shape[1])[None] <= now[:, None]
        mask = jnp.broadcast_to(seen, (x.shape[0], 1, *seen.shape))
        out = x + self._merged(self.attention(query, keys, values, mask))
        first, second, third = (mixer_state for _, mixer_state in pairs)
        return out, AttentionState(keys, values, (first, second, third))

    def _projected(self, x: Array) -> list[Array]:
        """Projects norm(x) to queries, keys and values."""
        normed = self.norm(x)
        return [projection(normed) for projection in self.projections]

    def _split(self, x: Float[Array, "b t d"]) -> Float[Array, "b t heads d"]:
        """Splits the channels into heads."""
        return x.reshape(*x.shape[:-1], self.heads, self.width // self.heads)

    def _merged(self, x: Float[Array, "b t heads d"]) -> Float[Array, "b t d"]:
        """Joins the heads and mixes them."""
        return self.out(x.reshape(*x.shape[:-2], self.width))


class MLPLayer(nn.Module):
    """y = x + W_2 gelu(W_1 norm(x)), token by token.

    Attributes:
        width: d.
        dtype: compute dtype; parameters are float32.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Takes whole sequences."""
        hidden = LayerNorm(dtype=self.dtype, name="norm")(x)
        hidden = Dense(EXPANSION * self.width, dtype=self.dtype, name="up")(hidden)
        return x + Dense(self.width, dtype=self.dtype, name="down")(jax.nn.gelu(hidden))

    def init_state(self, batch: int, length: int) -> None:
        """Returns None: there is no state."""
        del batch, length

    def extend(
        self, x: Float[Array, "b t d"], state: None, start: Time
    ) -> tuple[Float[Array, "b t d"], None]:
        """Takes the next tokens."""
        del state, start
        return self(x), None
