"""A small encoder of pictures, whose places see each other by content and distance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common.array_types import Array, Float, PRNGKey, UInt8
from common.data.sort_of_clevr import COLOURS, SHAPES
from common.injection import GatedMLP
from common.nn import attend

CONVOLUTIONS = ((5, 2), (3, 2), (3, 2))
"""Sides of the kernels of the encoder's convolutions, and their strides."""

LONGEST = 4.0
"""Amplitude of the longest waves of the code of places."""
SHARPNESS = 3.0
"""Standard deviation of the scores of contents at the start."""
STEEPNESS = 30.0
"""Score of a squared distance of the picture's side at the start, in half of the heads; minus it in
the others."""

ROLES = ("here", "nearest", "furthest")
"""What the encoder tells of every place: what stands there, and what the nearest and furthest
object from there is."""
THINGS = 1 + len(COLOURS) * len(SHAPES)
"""What may stand at a place: nothing, or an object of some colour and shape."""


class Seen(NamedTuple):
    """What an encoder makes of pictures.

    Attributes:
        features: of every place of its map, row by row; they fade where nothing seems to stand.
        names: logits of what stands there, and of what is nearest to and furthest from it.
    """

    features: Float[Array, "b s c"]
    names: Float[Array, "b s roles things"]


class SceneEncoder(nn.Module):
    """A small convolutional net, a code for each place of its map, and places that see each other.

    Each channel is normalised over the places of its picture. A norm over the channels of a place
    instead takes the size of what is there, by which circles are told from squares.

    Attributes:
        channels: of the three convolutions.
        width: of the features.
        block: lets places see each other.
    """

    channels: tuple[int, int, int]
    width: int
    block: nn.Module

    @nn.compact
    def __call__(self, images: UInt8[Array, "b h w 3"]) -> Seen:
        """Returns the features of every place, row by row, and what they say of it."""
        x = 1.0 - images.astype(jnp.float32) / 255.0  # white is nothing
        for number, (channels, (side, stride)) in enumerate(
            zip(self.channels, CONVOLUTIONS, strict=True)
        ):
            conv = nn.Conv(
                channels,
                (side, side),
                (stride, stride),
                kernel_init=nn.initializers.he_normal(),
                name=f"conv_{number}",
            )
            norm = nn.GroupNorm(None, 1, name=f"norm_{number}")
            x = nn.relu(norm(conv(x)))
        x = nn.Dense(self.width, name="out")(x)
        x = x + self.param("positions", _cosines, x.shape[1:])[None]
        x = self.block(x.reshape(x.shape[0], -1, self.width))
        x = nn.LayerNorm(name="out_norm")(x)
        names = nn.DenseGeneral((len(ROLES), THINGS), name="names")(x)
        there = 1 - jax.nn.softmax(names[..., 0, :])[..., :1]
        return Seen(there * x, names)


class PlacesBlock(nn.Module):
    """x += attention(norm(x)), then x += mlp(norm(x)), over the places of a map.

    Attributes:
        attention: of the places to each other.
        mlp: feed-forward net.
    """

    attention: nn.Module
    mlp: GatedMLP

    @nn.compact
    def __call__(self, x: Float[Array, "b s c"]) -> Float[Array, "b s c"]:
        """Returns the places with what they saw."""
        x = x + self.attention(nn.LayerNorm(name="attention_norm")(x))
        return x + self.mlp(nn.LayerNorm(name="mlp_norm")(x))


class DistanceAttention(nn.Module):
    """y = W_o softmax(n(W_q x) n(W_k x)^T / sqrt(d) - a |p_i - p_j|^2) W_v x over a square map.

    A place's point p is its middle, in sides of the map, plus a learned linear function of what is
    there: an object that covers several places is at one point. Heads with a > 0 look near, those
    with a < 0 far. As |p_i|^2 is the same for all that place i sees, three more channels of queries
    and keys make the distances. Source: invariant point attention, in two dimensions (Jumper et al.
    2021, "Highly accurate protein structure prediction with AlphaFold", supplement, algorithm 22).

    Attributes:
        heads: number of heads; the first half begins by looking near, the others far.
        head_width: d, channels of a head.
    """

    heads: int
    head_width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b s c"]) -> Float[Array, "b s c"]:
        """Returns what each place gathers from all."""
        shape = (self.heads, self.head_width)
        query, key, value = (
            nn.DenseGeneral(shape, use_bias=False, name=name)(x)
            for name in ("query", "key", "value")
        )
        sharp = nn.initializers.constant(SHARPNESS)
        query = nn.RMSNorm(scale_init=sharp, name="query_norm")(query) * self.head_width**-0.5
        key = nn.RMSNorm(name="key_norm")(key)
        shift = nn.Dense(2, use_bias=False, kernel_init=nn.initializers.zeros, name="shift")(x)
        points = (_middles(x.shape[1])[None] + shift)[:, :, None]
        steepness = STEEPNESS * self.param("steepness", _near_and_far, (self.heads,))
        steepness = steepness[None, None, :, None]
        near = jnp.broadcast_to(-steepness, (*query.shape[:-1], 1))
        query = jnp.concatenate([query, 2 * steepness * points, near], -1)
        squared = (points**2).sum(-1, keepdims=True)
        others = jnp.concatenate([points, squared], -1)
        others = jnp.broadcast_to(others, (*key.shape[:-1], 3))
        out = attend(query, jnp.concatenate([key, others], -1), value, scale=1.0)
        return nn.DenseGeneral(x.shape[-1], (-2, -1), use_bias=False, name="out")(out)


def _middles(places: int) -> Float[Array, "s 2"]:
    """Returns the middles of the places of a square map, row by row, in sides of the map."""
    side = round(places**0.5)
    along = (jnp.arange(side) + 0.5) / side
    return jnp.stack(jnp.meshgrid(along, along, indexing="ij"), -1).reshape(-1, 2)


def _near_and_far(key: PRNGKey, shape: tuple[int]) -> Float[Array, "heads"]:
    """An initialiser: 1 for the first half, -1 for the second."""
    del key
    return jnp.where(jnp.arange(shape[0]) < shape[0] / 2, 1.0, -1.0)


def _cosines(key: PRNGKey, shape: tuple[int, int, int]) -> Float[Array, "h w c"]:
    """An initialiser: products of cosines over rows and columns, the longer the wave the larger."""
    del key
    height, width, channels = shape
    waves = sorted(np.ndindex(channels, channels), key=lambda pair: (sum(pair), pair))[1:]
    rows, columns = np.array(waves[:channels]).T
    y, x = ((np.arange(size) + 0.5) * np.pi / size for size in (height, width))
    products = np.cos(y[:, None, None] * rows) * np.cos(x[:, None] * columns)
    return jnp.asarray(LONGEST / (rows + columns) * products, jnp.float32)


def map_side(image_size: int) -> int:
    """Returns the number of rows, and of columns, of a `SceneEncoder`'s map."""
    for _, stride in CONVOLUTIONS:
        image_size = -(-image_size // stride)
    return image_size
