"""Gated cross-attention: a layer between the layers of a decoder that begins as the identity.

    x += tanh(a) attention(norm(x), vision)
    x += tanh(b) mlp(norm(x))                                  a = b = 0 at the start

Source: Alayrac et al. 2022, "Flamingo", section 2.2; numbers as those of the public
IdeficsGatedCrossAttentionLayer: root mean square norms, a gated feed-forward net, norms of queries
and keys.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Bool, Float
from common.injection.attention import GatedMLP, MultiHeadAttention, broadcast_gate
from common.injection.perceiver import PerceiverResampler

EPSILON = 1e-6


class GatedCrossAttention(nn.Module):
    """The layer of the equations above.

    A text token that may see no image token gets nothing from the attention, so that it does not
    depend on the image at all; the feed-forward net still maps it.

    Attributes:
        attention: of the text to the image tokens.
        mlp: feed-forward net.
        gate_shape: of both gates: () or (1,) for one gate, (1, 1, d) for one for each channel.
        epsilon: of the norms.
        dtype: compute dtype; parameters are float32.
    """

    attention: MultiHeadAttention
    mlp: nn.Module
    gate_shape: tuple[int, ...] = (1,)
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        vision: Float[Array, "b s e"],
        visible: Bool[Array, "b t s"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns the text with what it saw.

        Args:
            x: text.
            vision: image tokens of all images or tiles of an example, one after the other.
            visible: which image tokens a text token may see, see `tile_masks`; all by default.
        """
        zeros = nn.initializers.zeros
        gates = [
            self.param(name, zeros, self.gate_shape) for name in ("attention_gate", "mlp_gate")
        ]
        normed = nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name="attention_norm")(x)
        gathered = self.attention(normed, vision, visible)
        if visible is not None:
            gathered = jnp.where(visible.any(-1)[..., None], gathered, 0)
        x = x + broadcast_gate(gates[0], x) * gathered
        normed = nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name="mlp_norm")(x)
        return x + broadcast_gate(gates[1], x) * self.mlp(normed)


class GatedCrossAttentionStack(nn.Module):
    """Several gated cross-attention layers, to be put between the layers of a decoder.

    Attributes:
        layers: in order.
    """

    layers: tuple[GatedCrossAttention, ...]

    def __call__(
        self,
        x: Float[Array, "b t d"],
        vision: Float[Array, "b s e"],
        visible: Bool[Array, "b t s"] | None = None,
        layer: int | None = None,
    ) -> Float[Array, "b t d"]:
        """Applies one layer, or all one after the other where `layer` is None."""
        for chosen in self.layers if layer is None else (self.layers[layer],):
            x = chosen(x, vision, visible)
        return x


class ResampledCrossAttention(nn.Module):
    """A resampler and the gated cross-attention layers that see its tokens: Flamingo's connector.

    Attributes:
        resampler: makes the image tokens.
        stack: lets the text see them.
    """

    resampler: PerceiverResampler
    stack: GatedCrossAttentionStack

    def __call__(
        self, x: Float[Array, "b t d"], features: Float[Array, "b s e"], layer: int | None = None
    ) -> Float[Array, "b t d"]:
        """Applies one layer, or all, to the text and the resampled features of one image."""
        return self.stack(x, self.resample(features), layer=layer)

    def resample(self, features: Float[Array, "b s e"]) -> Float[Array, "b n e"]:
        """Returns the image tokens."""
        return self.resampler(features)


def gated_cross_attention(
    heads: int,
    head_width: int,
    hidden: int,
    qk_norms: bool = True,
    gate_shape: tuple[int, ...] = (1,),
    epsilon: float = EPSILON,
) -> GatedCrossAttention:
    """Builds a layer.

    Args:
        heads: of the attention.
        head_width: channels of a head.
        hidden: width of the feed-forward net.
        qk_norms: whether the channels of each head's queries and keys are normalised.
        gate_shape: see `GatedCrossAttention`.
        epsilon: of all norms.
    """
    norms = [nn.RMSNorm(epsilon=epsilon) if qk_norms else None for _ in range(2)]
    attention = MultiHeadAttention(heads, head_width, None, *norms)
    return GatedCrossAttention(attention, GatedMLP(hidden), gate_shape, epsilon)
