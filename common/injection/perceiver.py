"""The Perceiver resampler: learned latents attend to features and to themselves.

    l = latents
    l += W_o softmax(n(W_q LN(l)) n(W_k [LN(z), LN(l)])^T / sqrt(d)) W_v [LN(z), LN(l)]
    l += W_2 relu(W_1 LN(l))                                           and LN(l) at the end

Source: Alayrac et al. 2022, "Flamingo: a visual language model for few-shot learning", section 2.1
and appendix A.1.1; numbers as those of the public IdeficsPerceiverResampler, whose norms of queries
and keys are layer norms.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.injection.attention import MultiHeadAttention
from common.nn import LayerNorm

EPSILON = 1e-5


class PerceiverBlock(nn.Module):
    """One round: the latents attend to [features, latents], then pass a feed-forward net.

    Attributes:
        attention: of the latents to both.
        hidden: width of the feed-forward net.
        dtype: compute dtype; parameters are float32.
    """

    attention: MultiHeadAttention
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b n d"], features: Float[Array, "b s d"]
    ) -> Float[Array, "b n d"]:
        """Returns the next latents."""
        normed = LayerNorm(self.dtype, epsilon=EPSILON, name="latents_norm")(latents)
        context = LayerNorm(self.dtype, epsilon=EPSILON, name="features_norm")(features)
        both = jnp.concatenate([context, normed], axis=1)
        latents = latents + self.attention(normed, both)
        y = LayerNorm(self.dtype, epsilon=EPSILON, name="mlp_norm")(latents)
        y = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name="up")(y)
        down = nn.Dense(latents.shape[-1], use_bias=False, dtype=self.dtype, name="down")
        return latents + down(jax.nn.relu(y))


class PerceiverResampler(nn.Module):
    """Features of any number to a fixed number of tokens, whatever the order of the features.

    Attributes:
        latents: number of tokens.
        blocks: in order.
        dtype: compute dtype; parameters are float32.
    """

    latents: int
    blocks: tuple[PerceiverBlock, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b s d"]) -> Float[Array, "b n d"]:
        """Returns the latents after all blocks."""
        shape = (self.latents, features.shape[-1])
        first = self.param("latents", nn.initializers.normal(1.0), shape)
        x = jnp.broadcast_to(first[None], (features.shape[0], *shape)).astype(self.dtype)
        for block in self.blocks:
            x = block(x, features)
        return LayerNorm(self.dtype, epsilon=EPSILON, name="norm")(x)


def perceiver_resampler(
    latents: int, depth: int, heads: int, head_width: int, hidden: int, qk_norms: bool = True
) -> PerceiverResampler:
    """Builds a resampler.

    Args:
        latents: number of tokens that come out; 64 in Flamingo.
        depth: number of blocks; 6 in Flamingo.
        heads: of the attention.
        head_width: channels of a head.
        hidden: width of the feed-forward nets; four times that of the features in Flamingo.
        qk_norms: whether the channels of each head's queries and keys are normalised.
    """

    def norm() -> LayerNorm | None:
        return LayerNorm(epsilon=EPSILON) if qk_norms else None

    blocks = [
        PerceiverBlock(
            MultiHeadAttention(heads, head_width, query_norm=norm(), key_norm=norm()), hidden
        )
        for _ in range(depth)
    ]
    return PerceiverResampler(latents, tuple(blocks))
