"""The querying transformer of BLIP-2: learned queries that ask image features through BERT.

    x = LN([queries, text])
    x = LN(W_o attend(x) + x)                         queries and text see each other as masked
    q = LN(W_c attend(q, features) + q)               queries alone, in every G-th layer
    x = LN(W_2 g(W_1 x) + x)                          with weights of their own for queries and text

Source: Li et al. 2023, "BLIP-2: Bootstrapping language-image pre-training", section 3.1; numbers
as those of the public Blip2QFormerModel. Dropout is left out.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from common.array_types import Array, Bool, Float, Int
from common.kernels import exact_gelu
from common.nn import LayerNorm, attention_weights, average_values

QUERIES = 32
EPSILON = 1e-12
INITIAL = nn.initializers.normal(0.02)


class QFormerOutput(struct.PyTreeNode):
    """What a Q-Former gives; n is queries and text tokens together, queries first.

    Attributes:
        last_hidden_state: output of the last layer.
        hidden_states: the normed input, then the output of every layer.
        self_attentions: maps of every layer, each row adding up to 1.
        cross_attentions: maps of every layer that asks the features, in order.
        pooler_output: the first query's last state.
    """

    last_hidden_state: Float[Array, "b n d"]
    hidden_states: tuple[Float[Array, "b n d"], ...]
    self_attentions: tuple[Float[Array, "b heads n n"], ...]
    cross_attentions: tuple[Float[Array, "b heads q s"], ...]
    pooler_output: Float[Array, "b d"]


class PostNormAttention(nn.Module):
    """y = LN(W_o attention(x, context) + x), with biases, and its maps: BERT's attention.

    Attributes:
        heads: number of heads, which divides the width of x.
        epsilon: of the layer norm.
        dtype: compute dtype; maps are in float32 at least.
    """

    heads: int
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        context: Float[Array, "b s e"],
        mask: Bool[Array, "b #heads #q s"] | None = None,
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b heads q s"]]:
        """Returns the output and the maps.

        Raises:
            ValueError: the width does not divide into the heads.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"{width} channels do not divide into {self.heads} heads")

        def heads(name: str, of: Array) -> Float[Array, "b s heads d"]:
            projected = nn.Dense(width, dtype=self.dtype, kernel_init=INITIAL, name=name)(of)
            return projected.reshape(*of.shape[:-1], self.heads, width // self.heads)

        maps = attention_weights(heads("query", x), heads("key", context), mask)
        out = average_values(maps, heads("value", context)).reshape(x.shape)
        out = nn.Dense(width, dtype=self.dtype, kernel_init=INITIAL, name="out")(out)
        return LayerNorm(self.dtype, epsilon=self.epsilon, name="norm")(out + x), maps


class PostNormMLP(nn.Module):
    """y = LN(W_2 g(W_1 x) + x), with biases: BERT's feed-forward net.

    Attributes:
        hidden: width between the two maps.
        activation: g.
        epsilon: of the layer norm.
        dtype: compute dtype.
    """

    hidden: int
    activation: Callable[[Array], Array] = exact_gelu
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Maps every place by itself."""
        y = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=INITIAL, name="up")(x)
        y = self.activation(y)
        y = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=INITIAL, name="down")(y)
        return LayerNorm(self.dtype, epsilon=self.epsilon, name="norm")(y + x)


class QFormerLayer(nn.Module):
    """Self-attention of queries and text, cross-attention of the queries, feed-forward nets.

    Attributes:
        attention: of queries and text to each other.
        query_mlp: feed-forward net of the queries.
        text_mlp: feed-forward net of the text; None where the Q-Former takes no text.
        cross: attention of the queries to the features; None in layers that do not ask them.
    """

    attention: PostNormAttention
    query_mlp: PostNormMLP
    text_mlp: PostNormMLP | None = None
    cross: PostNormAttention | None = None

    def __call__(
        self,
        x: Float[Array, "b n d"],
        queries: int,
        features: Float[Array, "b s e"],
        features_mask: Bool[Array, "b 1 1 s"] | None,
        mask: Bool[Array, "b #heads n n"] | None,
    ) -> tuple[Float[Array, "b n d"], Array, Array | None]:
        """Returns the next state and the maps of both attentions, the first `queries` being such.

        Raises:
            ValueError: there is text and no feed-forward net for it.
        """
        x, self_maps = self.attention(x, x, mask)
        asking, text, cross_maps = x[:, :queries], x[:, queries:], None
        if self.cross is not None:
            asking, cross_maps = self.cross(asking, features, features_mask)
        parts = [self.query_mlp(asking)]
        if text.shape[1]:
            if self.text_mlp is None:
                raise ValueError("this Q-Former has no feed-forward net for text")
            parts.append(self.text_mlp(text))
        return jnp.concatenate(parts, axis=1), self_maps, cross_maps


class QFormer(nn.Module):
    """The transformer alone; queries and embedded text are its input.

    Attributes:
        layers: in order.
        epsilon: of the first layer norm.
        dtype: of that norm's result.
    """

    layers: tuple[QFormerLayer, ...]
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "#b q d"],
        features: Float[Array, "b s e"],
        features_mask: Bool[Array, "b s"] | Int[Array, "b s"] | None = None,
        text: Float[Array, "b t d"] | None = None,
        mask: Bool[Array, "b #heads n n"] | None = None,
    ) -> QFormerOutput:
        """Lets the queries ask the features.

        Args:
            queries: learned queries; one row serves all examples.
            features: of the images.
            features_mask: 1 where a feature is real; everywhere by default.
            text: embedded tokens (`TextEmbedding`), which follow the queries.
            mask: True where a place of [queries, text] may see another, see `qformer_masks`; by
                default each sees all.
        """
        queries = jnp.broadcast_to(queries, (features.shape[0], *queries.shape[1:]))
        x = queries if text is None else jnp.concatenate([queries, text], axis=1)
        x = LayerNorm(self.dtype, epsilon=self.epsilon, name="norm")(x)
        if features_mask is not None:
            features_mask = (jnp.asarray(features_mask) != 0)[:, None, None, :]
        states, self_maps, cross_maps = [x], [], []
        for layer in self.layers:
            x, own, cross = layer(x, queries.shape[1], features, features_mask, mask)
            states.append(x)
            self_maps.append(own)
            cross_maps += [] if cross is None else [cross]
        return QFormerOutput(x, tuple(states), tuple(self_maps), tuple(cross_maps), x[:, 0])


class TextEmbedding(nn.Module):
    """Word plus position, without a norm, which the Q-Former applies.

    Attributes:
        vocabulary: number of words v.
        positions: number of positions.
        width: d.
    """

    vocabulary: int
    positions: int
    width: int

    def setup(self) -> None:
        """Makes the tables."""
        self.word = self.param("word", INITIAL, (self.vocabulary, self.width))
        self.position = self.param("position", INITIAL, (self.positions, self.width))

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Embeds tokens; an id beyond the table gives NaN.

        Raises:
            ValueError: more tokens than positions.
        """
        if tokens.shape[1] > self.positions:
            raise ValueError(f"{tokens.shape[1]} tokens; there are {self.positions} positions")
        return jnp.take(self.word, tokens, axis=0) + self.position[None, : tokens.shape[1]]

    def logits(self, x: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """Returns products of x with the words, for a head that is tied to them."""
        return jnp.einsum("btd,vd->btv", x, self.word.astype(x.dtype))


class QueryResampler(nn.Module):
    """A Q-Former with its learned queries: features of any number to a fixed number of tokens.

    Attributes:
        qformer: takes the queries.
        width: d.
        queries: their number; 32 in BLIP-2.
    """

    qformer: QFormer
    width: int
    queries: int = QUERIES

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b s e"],
        features_mask: Bool[Array, "b s"] | Int[Array, "b s"] | None = None,
    ) -> Float[Array, "b q d"]:
        """Returns one token for each query; arguments as for `QFormer`."""
        queries = self.param("query_tokens", INITIAL, (1, self.queries, self.width))
        return self.qformer(queries, features, features_mask).last_hidden_state


def qformer(
    depth: int,
    heads: int,
    hidden: int,
    every: int = 2,
    text: bool = False,
    activation: Callable[[Array], Array] = exact_gelu,
    epsilon: float = EPSILON,
) -> QFormer:
    """Builds a Q-Former whose layers 0, G, 2G, ... ask the features.

    Args:
        depth: number of layers; 12 in BLIP-2.
        heads: of every attention; 12 in BLIP-2.
        hidden: width of the feed-forward nets; 3072 in BLIP-2.
        every: G; 2 in BLIP-2.
        text: whether it takes text as well.
        activation: of the feed-forward nets.
        epsilon: of all layer norms.

    Raises:
        ValueError: no layers, or G below 1.
    """
    if depth < 1 or every < 1:
        raise ValueError(f"{depth} layers, asking in every {every}; expected 1 or more")
    layers = [
        QFormerLayer(
            attention=PostNormAttention(heads, epsilon),
            query_mlp=PostNormMLP(hidden, activation, epsilon),
            text_mlp=PostNormMLP(hidden, activation, epsilon) if text else None,
            cross=PostNormAttention(heads, epsilon) if number % every == 0 else None,
        )
        for number in range(depth)
    ]
    return QFormer(tuple(layers), epsilon)
