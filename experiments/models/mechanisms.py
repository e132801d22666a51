"""The mechanisms that an injection model may have, by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.injection import (
    DisentangledAttention,
    DisentangledLayer,
    FiLM,
    FiLMEnsemble,
    FiLMGenerator,
    GatedCrossAttention,
    GatedMLP,
    MLPProjector,
    MultiHeadAttention,
    NoDetail,
    OwnQueries,
    PathwayFiLM,
    QueryResampler,
    ReplaceTokens,
    SamePath,
    SlotAttention,
    SlotQueryAttention,
    SlotResampler,
    SpatialProjector,
    SpatialTokens,
    central_crops,
    perceiver_resampler,
    qformer,
)

PATHWAYS = 3
SPATIAL_TOKENS = 6
SHARPNESS = 3.0
LONGEST_DISTANCE = 3
"""Relative positions that disentangled attention tells apart: those within a question."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a mechanism is made for.

    Attributes:
        layers: numbers of the decoder's layers that it stands before.
        side: rows, and columns, of the encoder's map.
        width: channels of features and text.
        heads: of every attention.
        inner: width of what is hidden in it.
        tokens: tokens that a resampler makes.
        members: of an ensemble.
    """

    layers: tuple[int, ...]
    side: int
    width: int
    heads: int
    inner: int
    tokens: int
    members: int

    @property
    def places(self) -> int:
        """Places of the encoder's map."""
        return self.side**2

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """How vision enters.

    Attributes:
        before: modules before the layers, in their order.
        connector: makes of the encoder's features what these modules see.
        context: gives their arguments after the text's state, from what they see and the text.
        image_tokens: tokens of the text that stand for the picture.
        members: copies of the text, told apart by the modules.
        is_layer: whether the layers themselves are cross-attention, and no modules are needed.
    """

    before: tuple[nn.Module, ...] = ()
    connector: nn.Module = SamePath()
    context: Callable[[Array, Any], tuple[Any, ...]] = lambda vision, text: (vision,)
    image_tokens: int = 0
    members: int = 1
    is_layer: bool = False


class OnGrid(nn.Module):
    """Gives a module its features as a map.

    Attributes:
        module: takes (b, h, w, e).
        side: h and w.
    """

    module: nn.Module
    side: int

    def __call__(self, features: Float[Array, "b s e"]) -> Float[Array, "b n d"]:
        """Returns what the module makes of the map."""
        shape = (features.shape[0], self.side, self.side, features.shape[-1])
        return self.module(features.reshape(shape))


class Pooled(nn.Module):
    """Conditions a module on the mean of the features.

    Attributes:
        module: takes x and a vector (b, e).
    """

    module: nn.Module

    def __call__(
        self, x: Float[Array, "b t c"], features: Float[Array, "b s e"]
    ) -> Float[Array, "b t c"]:
        """Returns what the module makes of x."""
        return self.module(x, features.mean(axis=1))


def _as_tokens(source: nn.Module, count: int) -> Mechanism:
    """Visual tokens in the text, in the places of the image tokens."""
    return Mechanism(
        (ReplaceTokens(source),),
        context=lambda vision, text: (vision, jnp.arange(text.tokens.shape[1])[None] < count),
        image_tokens=count,
    )


def _projection(at: Setting) -> Mechanism:
    return _as_tokens(MLPProjector(at.width), at.places)


def _spatial_projection(at: Setting) -> Mechanism:
    spatial = SpatialTokens(at.width, central_crops, NoDetail(), at.inner, SPATIAL_TOKENS)
    source = OnGrid(SpatialProjector(spatial, MLPProjector(at.width)), at.side)
    return _as_tokens(source, SPATIAL_TOKENS + at.places)


def _qformer(at: Setting) -> Mechanism:
    made = qformer(depth=2, heads=at.heads, hidden=at.inner, every=1)
    return _as_tokens(QueryResampler(made, at.width, at.tokens), at.tokens)


def _perceiver(at: Setting) -> Mechanism:
    made = perceiver_resampler(at.tokens, 2, at.heads, at.head_width, at.inner)
    return _as_tokens(made, at.tokens)


def _slots(at: Setting) -> Mechanism:
    """Each slot has one question of its own."""
    made = SlotResampler(
        at.tokens,
        SlotAttention(at.width, at.inner),
        SlotQueryAttention(
            OwnQueries(at.tokens, 1, at.width),
            MultiHeadAttention(at.heads, at.head_width),
            GatedMLP(at.inner),
        ),
    )
    return _as_tokens(made, at.tokens)


def _cross_layers(at: Setting) -> tuple[nn.Module, ...]:
    return tuple(
        GatedCrossAttention(sharp_attention(at.heads, at.head_width), GatedMLP(at.inner))
        for _ in at.layers
    )


def sharp_attention(heads: int, head_width: int) -> MultiHeadAttention:
    """Attention whose heads begin with a choice: scores of a standard deviation of `SHARPNESS`."""
    query_norm = nn.RMSNorm(scale_init=nn.initializers.constant(SHARPNESS))
    return MultiHeadAttention(heads, head_width, None, query_norm, nn.RMSNorm())


def _cross(at: Setting) -> Mechanism:
    return Mechanism(_cross_layers(at))


def _flamingo(at: Setting) -> Mechanism:
    resampler = perceiver_resampler(at.tokens, 2, at.heads, at.head_width, at.inner)
    return Mechanism(_cross_layers(at), connector=resampler)


def _mllama(at: Setting) -> Mechanism:
    del at
    return Mechanism(is_layer=True)


def _film(at: Setting) -> Mechanism:
    films = (Pooled(FiLM(FiLMGenerator(at.width, (at.inner,)))) for _ in at.layers)
    return Mechanism(tuple(films))


def _pathways(at: Setting) -> Mechanism:
    def mixture() -> Pooled:
        paths = (
            SamePath(),
            *(nn.Dense(at.width, kernel_init=_identity) for _ in range(1, PATHWAYS)),
        )
        films = tuple(FiLM(FiLMGenerator(at.width, (at.inner,))) for _ in paths)
        return Pooled(PathwayFiLM(paths, films))

    return Mechanism(tuple(mixture() for _ in at.layers))


def _film_ensemble(at: Setting) -> Mechanism:
    apart = nn.initializers.normal(0.1)
    generator = FiLMGenerator(at.width, (at.inner,), bias_init=apart)
    films = (Pooled(FiLMEnsemble(at.members, generator)) for _ in at.layers)
    return Mechanism(tuple(films), members=at.members)


def _disentangled(at: Setting) -> Mechanism:
    layers = (
        DisentangledLayer(DisentangledAttention(at.heads, LONGEST_DISTANCE)) for _ in at.layers
    )
    return Mechanism(tuple(layers), context=lambda vision, text: (vision, None, text.mask))


def _identity(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """An initialiser: the identity map."""
    del key
    return jnp.eye(*shape, dtype=dtype)


MECHANISMS: dict[str, Callable[[Setting], Mechanism]] = {
    "projection": _projection,
    "spatial_projection": _spatial_projection,
    "qformer": _qformer,
    "perceiver": _perceiver,
    "slots": _slots,
    "cross": _cross,
    "flamingo": _flamingo,
    "mllama": _mllama,
    "film": _film,
    "pathways": _pathways,
    "film_ensemble": _film_ensemble,
    "disentangled": _disentangled,
}
"""Builders of mechanisms: the first five put visual tokens into the text, the others leave it."""
