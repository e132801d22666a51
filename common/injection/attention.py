"""Attention of text to vision and a gated feed-forward net, which several mechanisms share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Bool, Float
from common.nn import DotProductAttention


class MultiHeadAttention(nn.Module):
    """y = W_o softmax(n_q(W_q x) n_k(W_k z)^T / sqrt(d)) W_v z, without biases.

    The weights are sown as 'attention/weights' where a caller captures intermediates. Source:
    Vaswani et al. 2017, "Attention is all you need", section 3.2; norms of queries and keys: Henry
    et al. 2020, "Query-key normalization for transformers".

    Attributes:
        heads: number of heads.
        head_width: d, channels of a head.
        groups: heads of keys and values, a divisor of `heads`; as many as heads where None.
        query_norm: normalises the channels of each head's queries; None leaves them.
        key_norm: the same of keys.
        dtype: compute dtype; parameters are float32.
    """

    heads: int
    head_width: int
    groups: int | None = None
    query_norm: nn.Module | None = None
    key_norm: nn.Module | None = None
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: the groups do not divide the heads.
        """
        super().__post_init__()
        groups = self.heads if self.groups is None else self.groups
        if groups < 1 or self.heads % groups:
            raise ValueError(f"{self.heads} heads; expected a multiple of {groups} groups")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q c"],
        context: Float[Array, "b s e"],
        mask: Bool[Array, "b #q s"] | None = None,
    ) -> Float[Array, "b q c"]:
        """Returns what each place of x gathers from the context.

        Args:
            x: asks.
            context: is asked; of any width.
            mask: True where a place of x may see a place of the context. A place that may see none
                gets an average of all.
        """
        groups = self.heads if self.groups is None else self.groups
        query = to_heads("query", x, self.heads, self.head_width, self.dtype)
        key, value = (
            to_heads(name, context, groups, self.head_width, self.dtype)
            for name in ("key", "value")
        )
        query = query if self.query_norm is None else self.query_norm(query)
        key = key if self.key_norm is None else self.key_norm(key)
        mask = None if mask is None else mask[:, None]
        out = DotProductAttention(name="attention")(query, key, value, mask)
        return from_heads(out, x.shape[-1], self.dtype)


def to_heads(
    name: str, x: Float[Array, "*b s c"], heads: int, head_width: int, dtype: Any
) -> Float[Array, "*b s heads d"]:
    """Projects x by a layer of the calling module, without bias, and splits it into heads."""
    projected = nn.Dense(heads * head_width, use_bias=False, dtype=dtype, name=name)(x)
    return projected.reshape(*x.shape[:-1], heads, head_width)


def from_heads(x: Float[Array, "*b s heads d"], width: int, dtype: Any) -> Float[Array, "*b s c"]:
    """Joins the heads and projects them by the layer 'out' of the calling module, without bias."""
    joined = x.reshape(*x.shape[:-2], -1)
    return nn.Dense(width, use_bias=False, dtype=dtype, name="out")(joined)


class GatedMLP(nn.Module):
    """y = W_down (g(W_gate x) * W_up x), without biases.

    Source: Shazeer 2020, "GLU variants improve transformer", equation 6.

    Attributes:
        hidden: width between the two maps.
        activation: g.
        dtype: compute dtype; parameters are float32.
    """

    hidden: int
    activation: Callable[[Array], Array] = jax.nn.silu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Maps every place by itself."""
        gate, up = (
            nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name=name)(x)
            for name in ("gate", "up")
        )
        down = nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="down")
        return down(self.activation(gate) * up)


def broadcast_gate(gate: Float[Array, "*g"], x: Float[Array, "*b c"]) -> Float[Array, "*#b #c"]:
    """Returns tanh of a gate, one for all channels or one for each, with the axes of x."""
    return jnp.tanh(gate).reshape(*(1,) * (x.ndim - 1), -1).astype(x.dtype)
