"""Vision features as tokens of a language model: feature selection, projection, replacement.

Sources: Liu et al. 2023, "Visual instruction tuning", section 4.1 (one linear map); Liu et al.
2024, "Improved baselines with visual instruction tuning", section 3 (two layers); definitions of
the public LlavaModel.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Bool, Float
from common.kernels import exact_gelu

Strategy = Literal["default", "full"]
"""'default' drops the first token (CLS) of every layer, 'full' keeps it."""


class LinearProjector(nn.Module):
    """y = W x + b, the projection of the first LLaVA.

    Attributes:
        width: of the language model's embedding.
        bias: whether there is b.
        dtype: compute dtype; parameters are float32.
    """

    width: int
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "*b e"]) -> Float[Array, "*b d"]:
        """Projects every token."""
        return nn.Dense(self.width, self.bias, dtype=self.dtype, name="linear_1")(features)


class MLPProjector(nn.Module):
    """y = W_2 g(W_1 x + b_1) + b_2, the projection of LLaVA 1.5.

    Attributes:
        width: of the language model's embedding, and of the hidden layer.
        bias: whether there are b_1 and b_2.
        activation: g.
        dtype: compute dtype; parameters are float32.
    """

    width: int
    bias: bool = True
    activation: Callable[[Array], Array] = exact_gelu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "*b e"]) -> Float[Array, "*b d"]:
        """Projects every token."""
        hidden = nn.Dense(self.width, self.bias, dtype=self.dtype, name="linear_1")(features)
        hidden = self.activation(hidden)
        return nn.Dense(self.width, self.bias, dtype=self.dtype, name="linear_2")(hidden)


class VisionProjector(nn.Module):
    """Projects the layers of a vision tower that were chosen: y = projector(select(states)).

    Attributes:
        projector: maps features to the width of the language model.
        layers: index of the tower's hidden states, or several, see `select_features`.
        strategy: whether CLS is dropped ('default') or kept ('full').
    """

    projector: nn.Module
    layers: int | tuple[int, ...] = -2
    strategy: Strategy = "default"

    def __call__(
        self, hidden_states: Sequence[Float[Array, "b s e"]] | Float[Array, "l b s e"]
    ) -> Float[Array, "b n d"]:
        """Takes all hidden states of the tower, the embeddings first."""
        return self.project(select_features(hidden_states, self.layers, self.strategy))

    def project(self, features: Float[Array, "b n e"]) -> Float[Array, "b n d"]:
        """Takes features that were selected already."""
        return self.projector(features)


def select_features(
    hidden_states: Sequence[Float[Array, "b s e"]] | Float[Array, "l b s e"],
    layers: int | Sequence[int],
    strategy: Strategy = "default",
) -> Float[Array, "b n f"]:
    """Returns the hidden states of one layer, or of several joined on the feature axis.

    Args:
        hidden_states: of a vision tower: its embeddings, then the output of every layer.
        layers: an index, negative ones from the end; or several, joined in this order.
        strategy: 'default' drops the first token of each, CLS; 'full' keeps it.

    Raises:
        ValueError: an unknown strategy, no layer, or an index beyond the states.
    """
    if strategy not in ("default", "full"):
        raise ValueError(f"strategy is {strategy!r}; choose 'default' or 'full'")
    chosen = (layers,) if isinstance(layers, int) else tuple(layers)
    count = len(hidden_states)
    if not chosen or not all(-count <= index < count for index in chosen):
        raise ValueError(f"layers {list(chosen)} of {count} hidden states")
    first = 1 if strategy == "default" else 0
    return jnp.concatenate([hidden_states[index][:, first:] for index in chosen], axis=-1)


def replace_tokens(
    embeddings: Float[Array, "b t d"],
    features: Float[Array, "b n d"],
    places: Bool[Array, "b t"],
) -> Float[Array, "b t d"]:
    """Puts features in the places of the image tokens, the n-th feature at the n-th place.

    An example with fewer places than features uses the first ones; at a place beyond the features
    all is NaN, as the number of places is not known when this is traced. Check tokens beforehand.

    Args:
        embeddings: of the text with its image tokens.
        features: one for each image token.
        places: True at image tokens, such as `tokens == image_token`.
    """
    order = jnp.cumsum(places, axis=1) - 1
    known = order < features.shape[1]
    rows = jnp.clip(order, 0, features.shape[1] - 1)
    found = jnp.take_along_axis(features, rows[..., None], axis=1).astype(embeddings.dtype)
    found = jnp.where(known[..., None], found, jnp.nan)
    return jnp.where(places[..., None], found, embeddings)


class ReplaceTokens(nn.Module):
    """Replaces what stands at the image tokens by tokens made of the features.

    At layer 0 of a decoder this is LLaVA; an `Injector` can do it at any layer.

    Attributes:
        source: makes tokens (b, n, d) from features, such as a projector or a resampler.
    """

    source: nn.Module

    def __call__(
        self,
        x: Float[Array, "b t d"],
        features: Float[Array, "b s e"],
        places: Bool[Array, "b t"],
    ) -> Float[Array, "b t d"]:
        """Returns x with the tokens in their places, see `replace_tokens`."""
        return replace_tokens(x, self.source(features), places)
