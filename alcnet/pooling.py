"""One vector for each example from the hidden states of its tokens."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, Int

Pool = Callable[[Float[Array, "b s d"], Int[Array, "b s"]], Float[Array, "b d"]]


def first_token(states: Float[Array, "b s d"], mask: Int[Array, "b s"]) -> Float[Array, "b d"]:
    """Returns the state of token 0, CLS."""
    del mask
    return states[:, 0]


def mean_of_tokens(states: Float[Array, "b s d"], mask: Int[Array, "b s"]) -> Float[Array, "b d"]:
    """Returns the mean over real tokens."""
    real = (mask != 0).astype(jnp.float32)
    total = jnp.einsum("bsd,bs->bd", states, real.astype(states.dtype))
    return total / jnp.maximum(real.sum(1, keepdims=True), 1.0).astype(states.dtype)


class LastLayer(nn.Module):
    """Pools the last hidden state.

    Attributes:
        pool: how.
    """

    pool: Pool = mean_of_tokens

    def __call__(
        self, hidden_states: Sequence[Float[Array, "b s d"]], mask: Int[Array, "b s"]
    ) -> Float[Array, "b d"]:
        """Returns the vector."""
        return self.pool(hidden_states[-1], mask)


class WeightedLayers(nn.Module):
    """Pools each of the last layers and averages them with learned weights, softmax(w).

    Attributes:
        layers: how many of the last layers.
        pool: how each is pooled.
    """

    layers: int = 4
    pool: Pool = first_token

    @nn.compact
    def __call__(
        self, hidden_states: Sequence[Float[Array, "b s d"]], mask: Int[Array, "b s"]
    ) -> Float[Array, "b d"]:
        """Returns the vector; all layers weigh the same at initialisation."""
        chosen = hidden_states[-self.layers :]
        scores = self.param("scores", nn.initializers.zeros, (len(chosen),))
        pooled = jnp.stack([self.pool(states, mask) for states in chosen])
        return jnp.einsum("lbd,l->bd", pooled, jax.nn.softmax(scores).astype(pooled.dtype))
