"""The text decoder of Llama 3.2 Vision, some of whose layers are gated cross-attention.

    self layer:   x += W_o causal(rope(q), rope(k), v), then x += mlp(norm(x)); q, k, v of norm(x)
    cross layer:  x += tanh(a) attention(norm(x), vision), then x += tanh(b) mlp(norm(x))

Cross layers stand in the place of self layers, and are skipped where there is no image. Source: the
public MllamaForCausalLM; Dubey et al. 2024, "The Llama 3 herd of models", section 7.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from common.array_types import Array, Bool, Float, Int
from common.injection.attention import (
    GatedMLP,
    MultiHeadAttention,
    broadcast_gate,
    from_heads,
    to_heads,
)
from common.injection.rope import HalfRotation
from common.nn import DotProductAttention

EXTRA_TOKENS = 8
"""Rows of the embedding beyond the vocabulary, for tokens such as the image's."""


def mllama_schedule(depth: int, period: int = 5) -> tuple[int, ...]:
    """Returns the layers that are cross-attention: 3, 3 + period, ... (3, 8, ..., 38 of 40 and 5).

    Raises:
        ValueError: a negative depth, or a period below 1.
    """
    if depth < 0 or period < 1:
        raise ValueError(f"{depth} layers with a period of {period}")
    return tuple(range(3, depth, period))


class MllamaSelfLayer(nn.Module):
    """Causal self-attention with rotary positions, and a gated feed-forward net.

    Attributes:
        heads: number of heads, which divides the width.
        groups: heads of keys and values, a divisor of `heads`.
        mlp: feed-forward net.
        rotation: turns queries and keys by their place.
        epsilon: of the norms.
        dtype: compute dtype; parameters are float32.
    """

    heads: int
    groups: int
    mlp: nn.Module
    rotation: HalfRotation
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        places: Int[Array, "b t"],
        mask: Bool[Array, "b 1 t t"],
    ) -> Float[Array, "b t d"]:
        """Returns the next state of the text; the mask is causal."""
        head_width = x.shape[-1] // self.heads
        normed = nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name="attention_norm")(x)
        counts = {"query": self.heads, "key": self.groups, "value": self.groups}
        query, key, value = (
            to_heads(name, normed, count, head_width, self.dtype) for name, count in counts.items()
        )
        query, key = self.rotation(query, places), self.rotation(key, places)
        out = DotProductAttention(name="attention")(query, key, value, mask)
        x = x + from_heads(out, x.shape[-1], self.dtype)
        normed = nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name="mlp_norm")(x)
        return x + self.mlp(normed)


class MllamaCrossLayer(nn.Module):
    """Gated attention to the image, and a gated feed-forward net.

    A token that may see no image token attends to all of them, and passes no feed-forward net: so
    does the public model.

    Attributes:
        attention: of the text to the image tokens.
        mlp: feed-forward net.
        epsilon: of the norms.
        dtype: compute dtype; parameters are float32.
    """

    attention: MultiHeadAttention
    mlp: nn.Module
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        vision: Float[Array, "b s d"],
        visible: Bool[Array, "b t s"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns the next state of the text; `visible` says which image tokens a token may see."""
        zeros = nn.initializers.zeros
        gates = [self.param(name, zeros, (1,)) for name in ("attention_gate", "mlp_gate")]
        normed = nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name="attention_norm")(x)
        if visible is None:
            visible = jnp.ones((*x.shape[:2], vision.shape[1]), bool)
        sees = visible.any(-1)[..., None]
        x = x + broadcast_gate(gates[0], x) * self.attention(normed, vision, visible | ~sees)
        normed = nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name="mlp_norm")(x)
        mapped = jnp.where(sees, self.mlp(normed), 0)
        return x + broadcast_gate(gates[1], x) * mapped


class MllamaOutput(struct.PyTreeNode):
    """What the decoder gives.

    Attributes:
        logits: of the token after each, float32.
        hidden_states: embeddings, then the state after every layer that ran; the last is normed.
    """

    logits: Float[Array, "b t v"]
    hidden_states: tuple[Float[Array, "b t d"], ...]


class MllamaDecoder(nn.Module):
    """Embedding, self and cross layers, norm, logits.

    Attributes:
        vocabulary: tokens v that have logits; the embedding has 8 more.
        width: d.
        layers: `MllamaSelfLayer` and `MllamaCrossLayer`, in order.
        epsilon: of the last norm.
        dtype: compute dtype; parameters are float32.
    """

    vocabulary: int
    width: int
    layers: tuple[MllamaSelfLayer | MllamaCrossLayer, ...]
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b t"],
        vision: Float[Array, "b s d"] | None = None,
        visible: Bool[Array, "b t s"] | None = None,
        attention_mask: Bool[Array, "b #t t"]
        | Bool[Array, "b t"]
        | Int[Array, "b t"]
        | None = None,
        places: Int[Array, "b t"] | None = None,
    ) -> MllamaOutput:
        """Reads a text with its image.

        Args:
            tokens: ids; one beyond the embedding gives NaN.
            vision: image tokens, projected to d; without them the cross layers are skipped.
            visible: which image tokens a text token may see (`tile_masks`); all by default.
            attention_mask: 1 where a token is real, 0 where it is padding; 1 by default. Or, where
                a row holds several texts, (b, t, t): which tokens up to itself a token may see.
            places: of the tokens; 0, 1, ... by default, padding or not.
        """
        shape = (self.vocabulary + EXTRA_TOKENS, self.width)
        table = self.param("embedding", nn.initializers.normal(0.02), shape)
        x = jnp.take(table, tokens, axis=0).astype(self.dtype)
        if places is None:
            places = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        mask = jnp.tri(tokens.shape[1], dtype=bool)[None, None]
        if attention_mask is not None:
            seen = jnp.asarray(attention_mask) != 0
            mask = mask & (seen[:, None] if seen.ndim == 3 else seen[:, None, None, :])
        mask = jnp.broadcast_to(mask, (tokens.shape[0], *mask.shape[1:]))
        states = [x]
        for layer in self.layers:
            if isinstance(layer, MllamaSelfLayer):
                states.append(layer(states[-1], places, mask))
            elif vision is not None:
                states.append(layer(states[-1], vision, visible))
        norm = nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")
        states[-1] = norm(states[-1])
        head = nn.Dense(self.vocabulary, use_bias=False, dtype=self.dtype, name="head")
        return MllamaOutput(head(states[-1]).astype(jnp.float32), tuple(states))


@dataclasses.dataclass(frozen=True)
class MllamaSizes:
    """Sizes of a decoder.

    Attributes:
        vocabulary: number of tokens.
        width: d.
        depth: number of layers, cross layers included.
        heads: of every attention.
        groups: heads of keys and values.
        hidden: width of the feed-forward nets.
        cross_layers: numbers of the layers that are cross-attention, see `mllama_schedule`.
        rotation: rotary positions.
        epsilon: of all norms.
        activation: of the feed-forward nets.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    groups: int
    hidden: int
    cross_layers: tuple[int, ...]
    rotation: HalfRotation = HalfRotation()
    epsilon: float = 1e-5
    activation: Callable[[Array], Array] = jax.nn.silu

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: a width that does not split into heads, or heads into groups; or a cross
                layer that is none of the layers.
        """
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width is {self.width}; expected a multiple of {self.heads} heads")
        if self.groups < 1 or self.heads % self.groups:
            raise ValueError(f"{self.heads} heads; expected a multiple of {self.groups} groups")
        if beyond := [n for n in self.cross_layers if not 0 <= n < self.depth]:
            raise ValueError(f"cross layers {beyond} of {self.depth} layers")


def mllama_decoder(sizes: MllamaSizes) -> MllamaDecoder:
    """Builds a decoder whose layers `sizes.cross_layers` are cross-attention."""

    def layer(number: int) -> MllamaSelfLayer | MllamaCrossLayer:
        mlp = GatedMLP(sizes.hidden, sizes.activation)
        if number not in sizes.cross_layers:
            return MllamaSelfLayer(sizes.heads, sizes.groups, mlp, sizes.rotation, sizes.epsilon)
        norms = [nn.RMSNorm(epsilon=sizes.epsilon) for _ in range(2)]
        head_width = sizes.width // sizes.heads
        attention = MultiHeadAttention(sizes.heads, head_width, sizes.groups, *norms)
        return MllamaCrossLayer(attention, mlp, sizes.epsilon)

    layers = tuple(layer(number) for number in range(sizes.depth))
    return MllamaDecoder(sizes.vocabulary, sizes.width, layers, sizes.epsilon)
