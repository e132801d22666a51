"""Objects as slots, and learned queries that each slot asks the features with.

Sources: Locatello et al. 2020, "Object-centric learning with slot attention", algorithm 1; the
notes' per-slot queries, which are a Q-Former's for every object.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.injection.attention import GatedMLP, MultiHeadAttention
from common.nn import LayerNorm


class SlotAttention(nn.Module):
    """Slots compete for the features, and take the mean of what each wins; `rounds` times.

        a = softmax over slots of (W_k LN(z)) (W_q LN(s)) / sqrt(d)
        s = GRU(s, (a / sum of a over features) W_v LN(z)), then s += mlp(LN(s))

    Slots begin at mu + sigma * noise, so that a permutation of the noise permutes the slots, and
    any number of them may be used. The maps a of the last round are sown as 'weights'.

    Attributes:
        width: d, of a slot.
        hidden: width of the feed-forward net.
        rounds: number of rounds; 3 in the paper.
        epsilon: added to a, so that no slot divides by zero.
        dtype: compute dtype of the projections; slots are float32.
    """

    width: int
    hidden: int
    rounds: int = 3
    epsilon: float = 1e-8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b s e"], noise: Float[Array, "b k d"]
    ) -> Float[Array, "b k d"]:
        """Returns the slots.

        Args:
            features: of the image, places in any order; add a code of their position beforehand.
            noise: standard normal, one row for each slot.
        """
        xavier = nn.initializers.xavier_uniform()
        mu, log_sigma = (self.param(name, xavier, (1, self.width)) for name in ("mu", "log_sigma"))
        slots = mu[None] + jnp.exp(log_sigma)[None] * noise
        inputs = LayerNorm(self.dtype, epsilon=1e-5, name="features_norm")(features)
        key, value = (self._dense(name)(inputs) for name in ("key", "value"))
        query, norm = self._dense("query"), LayerNorm(epsilon=1e-5, name="slots_norm")
        cell = nn.GRUCell(self.width, name="gru")
        mlp_norm = LayerNorm(epsilon=1e-5, name="mlp_norm")
        up, down = nn.Dense(self.hidden, name="up"), nn.Dense(self.width, name="down")
        weights = None
        for _ in range(self.rounds):
            scores = jnp.einsum("bkd,bsd->bks", query(norm(slots)), key) * self.width**-0.5
            weights = jax.nn.softmax(scores.astype(jnp.float32), axis=1)
            shares = weights + self.epsilon
            shares = shares / shares.sum(axis=-1, keepdims=True)
            updates = jnp.einsum("bks,bsd->bkd", shares, value.astype(jnp.float32))
            slots, _ = cell(slots, updates)
            slots = slots + down(jax.nn.relu(up(mlp_norm(slots))))
        self.sow("intermediates", "weights", weights)
        return slots

    def _dense(self, name: str) -> nn.Dense:
        return nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=name)


class SharedQueries(nn.Module):
    """q_kj = W s_k + e_j: every slot asks the same questions, each about itself.

    Permuting the slots permutes the queries.

    Attributes:
        count: queries of each slot.
        width: of a query.
    """

    count: int
    width: int

    @nn.compact
    def __call__(self, slots: Float[Array, "b k d"]) -> Float[Array, "b k j c"]:
        """Returns the queries of every slot."""
        learned = self.param("queries", nn.initializers.normal(0.02), (self.count, self.width))
        return nn.Dense(self.width, name="slot")(slots)[:, :, None] + learned[None, None]


class OwnQueries(nn.Module):
    """q_kj = W s_k + e_kj: slot k has questions of its own, as in the notes.

    It fixes the number of slots, and gives them an order: permuting the slots permutes the queries
    only if e is permuted as well.

    Attributes:
        slots: number of slots.
        count: queries of each slot.
        width: of a query.
    """

    slots: int
    count: int
    width: int

    @nn.compact
    def __call__(self, slots: Float[Array, "b k d"]) -> Float[Array, "b k j c"]:
        """Returns the queries of every slot.

        Raises:
            ValueError: another number of slots.
        """
        if slots.shape[1] != self.slots:
            raise ValueError(f"{slots.shape[1]} slots; there are queries of {self.slots}")
        shape = (self.slots, self.count, self.width)
        learned = self.param("queries", nn.initializers.normal(0.02), shape)
        return nn.Dense(self.width, name="slot")(slots)[:, :, None] + learned[None]


class SlotQueryAttention(nn.Module):
    """The queries of each slot attend to the features: t += attention(LN(t), z), t += mlp(LN(t)).

    Attributes:
        queries: gives the queries of the slots, `SharedQueries` or `OwnQueries`.
        attention: of the queries to the features.
        mlp: feed-forward net.
        dtype: of the norms.
    """

    queries: nn.Module
    attention: MultiHeadAttention
    mlp: GatedMLP
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, slots: Float[Array, "b k d"], features: Float[Array, "b s e"]
    ) -> Float[Array, "b k j c"]:
        """Returns one token for each query of each slot."""
        asked = self.queries(slots)
        tokens = asked.reshape(asked.shape[0], -1, asked.shape[-1])
        normed = LayerNorm(self.dtype, epsilon=1e-5, name="attention_norm")(tokens)
        tokens = tokens + self.attention(normed, features)
        tokens = tokens + self.mlp(LayerNorm(self.dtype, epsilon=1e-5, name="mlp_norm")(tokens))
        return tokens.reshape(asked.shape)


class SlotResampler(nn.Module):
    """Features to tokens by way of objects: slot attention, then the queries of the slots.

    The noise of the slots is drawn from the stream 'slots': apply with rngs={'slots': key}.

    Attributes:
        slots: number of slots.
        attention: finds the slots.
        queries: asks for each of them.
    """

    slots: int
    attention: SlotAttention
    queries: SlotQueryAttention

    def __call__(self, features: Float[Array, "b s e"]) -> Float[Array, "b n c"]:
        """Returns the tokens, those of the first slot first."""
        shape = (features.shape[0], self.slots, self.attention.width)
        found = self.attention(features, jax.random.normal(self.make_rng("slots"), shape))
        tokens = self.queries(found, features)
        return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
