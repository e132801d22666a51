"""Text encoders of the BERT family with all hidden states and attention maps out.

    x = LN(word[ids] + position[p] + type[t])
    A = softmax(q k' / sqrt(d / heads) + mask),  x = LN(W_o (A v) + x),  x = LN(W_2 g(W_1 x) + x)

BERT (Devlin et al. 2018), RoBERTa (Liu et al. 2019) and MiniLM (Wang et al. 2020) differ in how
positions are counted, in sizes and in g alone. Parameters are those of the Hugging Face checkpoints
of these models, see `alcnet.hf_weights`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from alcnet.dropout import Dropout
from common.array_types import Array, Bool, Float, Int, PyTree
from common.kernels import exact_gelu
from common.nn import Dense, LayerNorm, attention_weights, average_values

INIT = nn.initializers.truncated_normal(0.02)

MapReader = Callable[[Float[Array, "b heads q s"]], PyTree]
"""Takes from the attention maps of one layer what is to be kept of them."""


class EncoderOutput(struct.PyTreeNode):
    """What an encoder gives.

    Attributes:
        last_hidden_state: output of the last layer.
        hidden_states: output of the embeddings, then of every layer.
        attentions: maps of every layer, each row adding up to 1, before dropout; empty where the
            encoder was called with a reader.
        pooler_output: tanh(W x_0 + b) of the last layer's first token; None without a pooler.
        readings: what the reader kept of each layer's maps.
    """

    last_hidden_state: Float[Array, "b s d"]
    hidden_states: tuple[Float[Array, "b s d"], ...]
    attentions: tuple[Float[Array, "b heads s s"], ...]
    pooler_output: Float[Array, "b d"] | None
    readings: tuple[PyTree, ...] = ()


def count_from_zero(input_ids: Int[Array, "b s"]) -> Int[Array, "b s"]:
    """Returns positions 0, 1, ... as BERT has them."""
    return jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)


@dataclasses.dataclass(frozen=True)
class CountTokens:
    """Positions as RoBERTa has them: pad_id + 1, ... over tokens that are no padding, else pad_id.

    Attributes:
        pad_id: id of the padding token.
    """

    pad_id: int

    def __call__(self, input_ids: Int[Array, "b s"]) -> Int[Array, "b s"]:
        """Returns the position of every token."""
        real = (input_ids != self.pad_id).astype(jnp.int32)
        return jnp.cumsum(real, axis=1) * real + self.pad_id


class Embeddings(nn.Module):
    """Sum of the embeddings of word, position and token type, normalised.

    Attributes:
        vocabulary: number of words.
        positions: number of positions.
        types: number of token types.
        width: channels.
        count: gives the position of every token from the ids.
        epsilon: of the layer norm.
        dropout: rate after the norm.
        dtype: of the result.
    """

    vocabulary: int
    positions: int
    types: int
    width: int
    count: Callable[[Array], Array] = count_from_zero
    epsilon: float = 1e-12
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, input_ids: Int[Array, "b s"], token_type_ids: Int[Array, "b s"], deterministic: bool
    ) -> Float[Array, "b s d"]:
        """Returns the embeddings; an id beyond its table gives NaN.

        Raises:
            ValueError: more tokens than positions.
        """
        offset = self.count.pad_id + 1 if isinstance(self.count, CountTokens) else 0
        if input_ids.shape[1] > self.positions - offset:
            raise ValueError(
                f"{input_ids.shape[1]} tokens; the encoder has {self.positions - offset} positions"
            )
        x = self._rows("word", self.vocabulary, input_ids)
        x = x + self._rows("position", self.positions, self.count(input_ids))
        x = x + self._rows("token_type", self.types, token_type_ids)
        x = LayerNorm(self.dtype, epsilon=self.epsilon, name="norm")(x)
        return Dropout(self.dropout)(x, deterministic)

    def _rows(self, name: str, count: int, indices: Array) -> Array:
        table = self.param(name, INIT, (count, self.width))
        return jnp.take(table, indices, axis=0)


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens, with its maps.

    Attributes:
        heads: number of heads.
        dropout: rate of the maps.
        dtype: of the result; maps are in float32 at least.
    """

    heads: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b s d"], mask: Bool[Array, "b 1 1 s"], deterministic: bool
    ) -> tuple[Float[Array, "b s d"], Float[Array, "b heads s s"]]:
        """Returns the mixed values and the maps."""
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"{width} channels do not divide into {self.heads} heads")
        split = (*x.shape[:-1], self.heads, width // self.heads)
        query, key, value = (
            _dense(width, self.dtype, name)(x).reshape(split) for name in ("query", "key", "value")
        )
        maps = attention_weights(query, key, mask)
        out = average_values(Dropout(self.dropout)(maps, deterministic), value)
        return _dense(width, self.dtype, "output")(out.reshape(x.shape)), maps


class EncoderLayer(nn.Module):
    """Attention and a feed-forward net, each added to its input and then normalised.

    Attributes:
        heads: number of heads.
        hidden: width of the feed-forward net.
        activation: its nonlinearity.
        epsilon: of the layer norms.
        dropout: rate after attention and after the feed-forward net.
        attention_dropout: rate of the maps.
        dtype: of activations; norms, scores and softmax are in float32 at least.
    """

    heads: int
    hidden: int
    activation: Callable[[Array], Array] = exact_gelu
    epsilon: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b s d"],
        mask: Bool[Array, "b 1 1 s"],
        deterministic: bool = True,
        read: MapReader | None = None,
    ) -> tuple[Float[Array, "b s d"], PyTree]:
        """Returns the layer's output, and its maps or what `read` makes of them."""
        attention = SelfAttention(self.heads, self.attention_dropout, self.dtype, name="attention")
        mixed, maps = attention(x, mask, deterministic)
        x = self._added("attention_norm", x, mixed, deterministic)
        y = self.activation(_dense(self.hidden, self.dtype, "up")(x))
        y = _dense(x.shape[-1], self.dtype, "down")(y)
        x = self._added("output_norm", x, y, deterministic)
        return x, maps if read is None else read(maps)

    def _added(self, name: str, x: Array, y: Array, deterministic: bool) -> Array:
        y = Dropout(self.dropout, name=f"{name}_dropout")(y, deterministic)
        return LayerNorm(self.dtype, epsilon=self.epsilon, name=name)(x + y)


class Pooler(nn.Module):
    """tanh of a linear map of the first token.

    Attributes:
        dtype: of the result.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b d"]:
        """Returns one vector for each example."""
        return jnp.tanh(_dense(x.shape[-1], self.dtype, "dense")(x[:, 0]))


class Encoder(nn.Module):
    """Embeddings, layers and, where there is one, a pooler.

    Attributes:
        embeddings: gives (b, s, d) from ids and token types.
        layers: each gives the next hidden state and its attention maps.
        pooler: gives a vector (b, d) from the last hidden state.
        remat: compute each layer again for its gradient instead of keeping what is inside it.
    """

    embeddings: Embeddings
    layers: tuple[EncoderLayer, ...]
    pooler: Pooler | None = None
    remat: bool = False

    def __call__(
        self,
        input_ids: Int[Array, "b s"],
        attention_mask: Int[Array, "b s"] | Bool[Array, "b s"] | None = None,
        token_type_ids: Int[Array, "b s"] | None = None,
        deterministic: bool = True,
        read: MapReader | None = None,
    ) -> EncoderOutput:
        """Encodes a batch of token ids.

        Args:
            input_ids: tokens.
            attention_mask: 1 where a token is real; everywhere by default. Padded tokens are
                computed as queries, and no query sees them.
            token_type_ids: 0 by default.
            deterministic: without dropout; otherwise apply with rngs={'dropout': key}.
            read: what to keep of each layer's maps, in `readings`; with `remat` the maps then live
                no longer than their layer is computed.
        """
        input_ids = jnp.asarray(input_ids)
        real = jnp.ones_like(input_ids) if attention_mask is None else jnp.asarray(attention_mask)
        types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        mask = (real != 0)[:, None, None, :]
        x = self.embeddings(input_ids, jnp.asarray(types), deterministic)
        states, found = [x], []
        for layer in self.layers:
            x, maps = _apply_layer(layer, self.remat, x, mask, deterministic, read)
            states.append(x)
            found.append(maps)
        return EncoderOutput(
            last_hidden_state=x,
            hidden_states=tuple(states),
            attentions=tuple(found) if read is None else (),
            pooler_output=None if self.pooler is None else self.pooler(x),
            readings=() if read is None else tuple(found),
        )


def _apply_layer(
    layer: EncoderLayer,
    remat: bool,
    x: Array,
    mask: Array,
    deterministic: bool,
    read: MapReader | None,
) -> tuple[Array, PyTree]:
    if not remat:
        return layer(x, mask, deterministic, read)

    def call(module: EncoderLayer, x: Array, mask: Array) -> tuple[Array, PyTree]:
        return module(x, mask, deterministic, read)

    return nn.remat(call)(layer, x, mask)


def _dense(width: int, dtype: Any, name: str) -> Dense:
    return Dense(width, dtype=dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)
