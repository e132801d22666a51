"""A causal language model: embedding, layers, norm, logits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, Int, PyTree, Time
from common.nn import LayerNorm

INITIAL = nn.initializers.normal(0.02)


class LanguageState(NamedTuple):
    """What a model keeps of the tokens so far; of one size, however many they are.

    Attributes:
        place: their number.
        layers: state of each layer.
    """

    place: Int[Array, ""]
    layers: tuple[PyTree, ...]


class LearnedPositions(nn.Module):
    """Adds a learned vector for each place.

    Attributes:
        width: d.
        length: places that have a vector; beyond them all is NaN.
    """

    width: int
    length: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], start: Time = 0) -> Float[Array, "b t d"]:
        """Returns x plus the vectors of the places from `start` on."""
        table = self.param("table", INITIAL, (self.length, self.width))
        places = start + jnp.arange(x.shape[1])
        vectors = jnp.take(table, places, 0, mode="fill", fill_value=jnp.nan)
        return x + vectors[None].astype(x.dtype)


class NoPositions(nn.Module):
    """Adds nothing; layers may know places in ways of their own."""

    def __call__(self, x: Float[Array, "b t d"], start: Time = 0) -> Float[Array, "b t d"]:
        """Returns x."""
        del start
        return x


class LinearHead(nn.Module):
    """Logits by a matrix of their own.

    Attributes:
        vocabulary: number of tokens.
        width: d.
    """

    vocabulary: int
    width: int

    @nn.compact
    def __call__(self, table: Float[Array, "v d"]) -> Float[Array, "v d"]:
        """Returns the matrix; the embedding's is not used."""
        del table
        return self.param("kernel", INITIAL, (self.vocabulary, self.width))


class TiedHead(nn.Module):
    """Logits by the matrix of the embedding (Press and Wolf 2017)."""

    def __call__(self, table: Float[Array, "v d"]) -> Float[Array, "v d"]:
        """Returns the matrix of the embedding."""
        return table


class LanguageModel(nn.Module):
    """Predicts each token from those before it: logits_t = W norm(layers(embedding(tokens)))_t.

    Whole sequences go through `__call__`. Sequences that come in pieces, and generated ones, go
    through `extend`, with the same numbers:

        state = model.init_state(batch, length)
        logits, state = model.apply(variables, tokens, state, method="extend")

    Attributes:
        vocabulary: number of tokens v.
        width: d.
        positions: added to the embedding.
        layers: from `convattn.layers`.
        head: gives the matrix of the logits.
        dtype: compute dtype; parameters and logits are float32.
    """

    vocabulary: int
    width: int
    positions: nn.Module
    layers: tuple[nn.Module, ...]
    head: nn.Module
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the embedding and the last norm."""
        self.table = self.param("embedding", INITIAL, (self.vocabulary, self.width))
        self.norm = LayerNorm(dtype=self.dtype)

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t v"]:
        """Returns the logits of the token after each."""
        features, table = self.features(tokens)
        return _logits(features, table)

    def features(
        self, tokens: Int[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "v d"]]:
        """Returns what the logits are products of, for losses that need not hold the logits."""
        return self.from_embeddings(self.embed(tokens)), self.head(self.table)

    def embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Looks the tokens up."""
        return jnp.take(self.table, tokens, axis=0).astype(self.dtype)

    def from_embeddings(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Returns the features of sequences whose tokens are looked up already."""
        x = self.positions(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def init_state(self, batch: int, length: int) -> LanguageState:
        """Returns the state before the first token, with room for `length` of them."""
        states = tuple(layer.init_state(batch, length) for layer in self.layers)
        return LanguageState(jnp.zeros((), jnp.int32), states)

    def extend(
        self, tokens: Int[Array, "b t"], state: LanguageState
    ) -> tuple[Float[Array, "b t v"], LanguageState]:
        """Takes the next tokens; returns the logits of the token after each, and the next state.

        More tokens than the state has room for overwrite the last ones, and give wrong numbers:
        `convattn.generate` checks.
        """
        x = self.positions(self.embed(tokens), state.place)
        states = []
        for layer, old in zip(self.layers, state.layers, strict=True):
            x, new = layer.extend(x, old, state.place)
            states.append(new)
        logits = _logits(self.norm(x), self.head(self.table))
        return logits, LanguageState(state.place + tokens.shape[1], tuple(states))


def _logits(features: Float[Array, "b t d"], table: Float[Array, "v d"]) -> Float[Array, "b t v"]:
    """Returns products of features and the rows of the table, summed in float32."""
    table = table.astype(features.dtype)
    return jax.lax.dot_general(
        features, table, (((2,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
