"""The convolutional branch: reads the attention maps of all layers as one stack of pictures.

Heads are mixed to channels, then each block computes

    y = LayerNorm(x),  y = FiLM(K * y),  y = W [y_{l-1}, y_l, y_{l+1}],  x = x + SE(y)

with a 3 x 3 convolution K over queries and keys, shared by the layers, and a convolution W over
three neighbouring layers. Places outside of the mask are 0 before every convolution, so that
nothing depends on how far an example was padded.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Bool, Float
from common.kernels import correlate_2d, film, largest
from common.nn import Dense, LayerNorm

Modulation = tuple[Float[Array, "b c"], Float[Array, "b c"]]
"""gamma and beta of one place where FiLM acts."""


OUTSIDE = -1e9
"""Stands for a place that is no candidate for a maximum."""


class SpatialConv(nn.Module):
    """Convolution over queries and keys, one kernel for all layers; zeros beyond the map.

    Attributes:
        channels: channels out.
        size: taps along queries and along keys, odd.
        dtype: of the result.
    """

    channels: int
    size: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b layers q s c"]) -> Float[Array, "b layers q s d"]:
        """Returns the convolved maps."""
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        flat = x.reshape(-1, *x.shape[2:]).astype(self.dtype)
        y = correlate_2d(flat, kernel.astype(self.dtype))
        return y.reshape(*x.shape[:-1], self.channels) + _row(bias, x).astype(self.dtype)


class LayerConv(nn.Module):
    """Convolution over neighbouring layers; zeros below the first and above the last.

    Attributes:
        channels: channels out.
        size: number of layers that are joined, odd.
        dtype: of the result.
    """

    channels: int
    size: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b layers q s c"]) -> Float[Array, "b layers q s d"]:
        """Returns the mixed maps."""
        layers, half = x.shape[1], self.size // 2
        framed = jnp.pad(x, ((0, 0), (half, half), (0, 0), (0, 0), (0, 0)))
        neighbours = [framed[:, i : i + layers] for i in range(self.size)]
        wide = jnp.concatenate(neighbours, -1)
        return Dense(self.channels, dtype=self.dtype, name="dense")(wide)


class SqueezeExcitation(nn.Module):
    """Scales the channels of an example by what they hold on average (Hu et al. 2018).

    Attributes:
        ratio: channels over hidden units.
        dtype: of the result.
    """

    ratio: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b layers q s c"], mask: Bool[Array, "b q s"]
    ) -> Float[Array, "b layers q s c"]:
        """Returns x with its channels scaled by factors between 0 and 1."""
        width = x.shape[-1]
        hidden = Dense(max(1, width // self.ratio), dtype=self.dtype, name="squeeze")
        gate = Dense(width, dtype=self.dtype, name="excite")
        scale = jax.nn.sigmoid(gate(jax.nn.relu(hidden(masked_mean(x, mask)))))
        return x * scale[:, None, None, None, :]


class MapBlock(nn.Module):
    """One residual block.

    Attributes:
        channels: of its input and output.
        dtype: of activations.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b layers q s c"],
        mask: Bool[Array, "b q s"],
        modulation: Modulation | None = None,
    ) -> Float[Array, "b layers q s c"]:
        """Returns x plus what the block makes of it; without modulation FiLM is the identity."""
        y = _inside(LayerNorm(self.dtype, name="norm")(x), mask)
        y = SpatialConv(self.channels, dtype=self.dtype, name="spatial")(y)
        if modulation is not None:
            y = film(y, *modulation)
        y = _inside(jax.nn.gelu(y), mask)
        y = LayerConv(self.channels, dtype=self.dtype, name="across_layers")(y)
        y = SqueezeExcitation(dtype=self.dtype, name="excitation")(y, mask)
        return _inside(x + y, mask)


class AttentionCNN(nn.Module):
    """Turns the maps of several layers into one vector for each example.

    Attributes:
        blocks: applied one after the other; between two of them queries and keys are halved.
        head_mix: 1 x 1 convolution from heads to channels.
        project: from the pooled channels to the features.
    """

    blocks: tuple[MapBlock, ...]
    head_mix: nn.Module
    project: nn.Module

    def __call__(
        self,
        maps: Float[Array, "b layers q s heads"],
        mask: Bool[Array, "b q s"],
        modulations: Sequence[Modulation] = (),
    ) -> Float[Array, "b d"]:
        """Returns the features.

        Args:
            maps: standardised maps.
            mask: places that are there and may be seen.
            modulations: gamma and beta for each block; none for no FiLM.

        Raises:
            ValueError: another number of modulations than of blocks.
        """
        if modulations and len(modulations) != len(self.blocks):
            raise ValueError(f"{len(modulations)} modulations for {len(self.blocks)} blocks")
        x = _inside(self.head_mix(maps), mask)
        for number, block in enumerate(self.blocks):
            if number:
                x, mask = halve(x, mask)
            x = block(x, mask, modulations[number] if modulations else None)
        layers = jnp.concatenate([masked_mean(x, mask, (2, 3)), _masked_max(x, mask)], -1)
        return self.project(layers.reshape(len(x), -1))


def make_attention_cnn(
    channels: int = 16, blocks: int = 2, features: int = 128, dtype: Any = jnp.float32
) -> AttentionCNN:
    """Builds the branch with `blocks` equal blocks."""
    return AttentionCNN(
        tuple(MapBlock(channels, dtype) for _ in range(blocks)),
        Dense(channels, dtype=dtype),
        nn.Sequential([Dense(features, dtype=dtype), nn.LayerNorm(dtype=dtype), jax.nn.gelu]),
    )


def masked_mean(
    x: Float[Array, "b layers q s c"],
    mask: Bool[Array, "b q s"],
    axes: tuple[int, ...] = (1, 2, 3),
) -> Float[Array, "b *l c"]:
    """Returns the mean over the places of the mask, and over layers too unless `axes` says not."""
    inside = mask[:, None, :, :, None].astype(x.dtype)
    layers = x.shape[1] if 1 in axes else 1
    count = layers * jnp.maximum(jnp.sum(mask, (1, 2)), 1).astype(x.dtype)
    total = jnp.sum(x * inside, axes)
    return total / count.reshape((-1,) + (1,) * (total.ndim - 1))


def halve(
    x: Float[Array, "b layers q s c"], mask: Bool[Array, "b q s"]
) -> tuple[Float[Array, "b layers q2 s2 c"], Bool[Array, "b q2 s2"]]:
    """Joins 2 x 2 places: the mean of those of the mask; a place of the result is there if any is.

    An odd side is padded with places outside of the mask.
    """
    odd = [n % 2 for n in mask.shape[1:]]
    mask = jnp.pad(mask, ((0, 0), (0, odd[0]), (0, odd[1])))
    x = jnp.pad(x, ((0, 0), (0, 0), (0, odd[0]), (0, odd[1]), (0, 0)))
    b, layers, q, s, c = x.shape
    inside = mask[:, None, :, :, None].astype(x.dtype)
    split = (b, layers, q // 2, 2, s // 2, 2, c)
    total = jnp.sum((x * inside).reshape(split), (3, 5))
    count = jnp.sum(mask.reshape(b, 1, q // 2, 2, s // 2, 2, 1), (3, 5))
    return total / jnp.maximum(count, 1).astype(x.dtype), count[:, 0, :, :, 0] > 0


def _masked_max(x: Array, mask: Array) -> Array:
    """Returns the maximum (b, layers, c) over the places of the mask, 0 where there is none.

    What is outside counts as a large negative number.
    """
    highest = largest(jnp.where(mask[:, None, :, :, None], x, OUTSIDE), (2, 3))
    return jnp.where(jnp.any(mask, (1, 2))[:, None, None], highest, 0.0)


def _inside(x: Array, mask: Array) -> Array:
    return x * mask[:, None, :, :, None].astype(x.dtype)


def _row(vector: Array, like: Array) -> Array:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
