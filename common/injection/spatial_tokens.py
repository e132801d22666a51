"""Six spatial tokens beside the patch tokens: convolutions over views of the patch grid.

Source: Lou et al. 2025, "LLaVA-SP: Enhancing visual representation with visual spatial tokens",
section 3, and its public code. View i of six is the central crop of i/6 of the grid ('from
central region to global'), or the whole grid pooled to i/6 of its size ('from abstract to
specific'); a convolution as large as the view makes one token of it. The tokens stand before the
patch tokens.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels import exact_gelu
from common.nn import LayerNorm, attention_weights, average_values

Views = Callable[[Float[Array, "b h w c"], int], list[Float[Array, "b hi wi c"]]]


def view_sizes(length: int, count: int) -> tuple[int, ...]:
    """Returns the sizes i/count of a length, rounded, at least 1: 4, 8, ..., 24 for 24 and 6."""
    halves = [(2 * length * number + count) // (2 * count) for number in range(1, count + 1)]
    return tuple(max(1, size) for size in halves)


def central_crops(grid: Float[Array, "b h w c"], count: int) -> list[Float[Array, "b hi wi c"]]:
    """Returns growing crops around the centre; the last is the grid. LLaVA-SP-Cropping."""
    height, width = grid.shape[1:3]
    crops = []
    for h, w in zip(view_sizes(height, count), view_sizes(width, count), strict=True):
        top, left = (height - h) // 2, (width - w) // 2
        crops.append(grid[:, top : top + h, left : left + w])
    return crops


def pooled_grids(grid: Float[Array, "b h w c"], count: int) -> list[Float[Array, "b hi wi c"]]:
    """Returns the grid averaged to growing sizes; the last is the grid. LLaVA-SP-Pooling."""
    height, width = grid.shape[1:3]
    sizes = zip(view_sizes(height, count), view_sizes(width, count), strict=True)
    return [
        jnp.einsum("ih,jw,bhwc->bijc", _pooling(height, h), _pooling(width, w), grid)
        for h, w in sizes
    ]


class NoDetail(nn.Module):
    """Adds nothing to the spatial tokens."""

    def __call__(
        self, tokens: Float[Array, "b n c"], grid: Float[Array, "b h w e"]
    ) -> Float[Array, "b n c"]:
        """Returns the tokens."""
        del grid
        return tokens


class DetailIntegrator(nn.Module):
    """y = [tokens, softmax(q k^T / sqrt(c)) v]: q of the tokens, k and v of a convolution.

    The convolution looks at all parts of the grid with one kernel; q, k and v are linear maps of
    layer norms. The weights are returned by `common.analysis.capture` as 'weights'.

    Attributes:
        kernel: size of the convolution's kernel; two thirds of the grid in the public code.
        stride: of the convolution.
        dtype: compute dtype; parameters are float32.
    """

    kernel: int
    stride: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n c"], grid: Float[Array, "b h w e"]
    ) -> Float[Array, "b n 2c"]:
        """Returns the tokens, each with the details that it asked for.

        Raises:
            ValueError: the kernel is larger than the grid.
        """
        if self.kernel > min(grid.shape[1:3]):
            raise ValueError(f"a kernel of {self.kernel} on a grid of {grid.shape[1:3]}")
        channels = tokens.shape[-1]
        conv = nn.Conv(
            channels,
            (self.kernel, self.kernel),
            (self.stride, self.stride),
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )
        details = conv(grid).reshape(grid.shape[0], -1, channels)
        query = self._projected("query", tokens)
        key, value = self._projected("key", details), self._projected("value", details)
        weights = attention_weights(query, key)
        self.sow("intermediates", "weights", weights)
        return jnp.concatenate([tokens, average_values(weights, value)[:, :, 0]], axis=-1)

    def _projected(self, name: str, x: Array) -> Float[Array, "b s 1 c"]:
        """Returns a linear map of the layer norm, as one head."""
        normed = LayerNorm(self.dtype, epsilon=1e-5, name=f"{name}_norm")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(normed)[:, :, None]


class SpatialTokens(nn.Module):
    """token_i = W g(detail(conv_i(view_i(grid)))), each convolution as large as its view.

    The kernels tie the parameters to the size of the grid. In the public code the map W has a bias
    where details are integrated and none where they are not; here it always has one.

    Attributes:
        width: of the language model's embedding.
        views: `central_crops` or `pooled_grids`.
        detail: `NoDetail` or a `DetailIntegrator`.
        channels: of the convolutions; 512 in the paper.
        count: number of tokens; 6 in the paper.
        dtype: compute dtype; parameters are float32.
    """

    width: int
    views: Views
    detail: nn.Module
    channels: int = 512
    count: int = 6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: Float[Array, "b h w e"]) -> Float[Array, "b n d"]:
        """Returns the spatial tokens of a grid of patch features."""
        tokens = []
        for number, view in enumerate(self.views(grid, self.count)):
            flat = view.reshape(view.shape[0], -1)
            conv = nn.Dense(self.channels, use_bias=False, dtype=self.dtype, name=f"conv_{number}")
            tokens.append(conv(flat))
        found = self.detail(jnp.stack(tokens, axis=1), grid)
        return nn.Dense(self.width, dtype=self.dtype, name="out")(exact_gelu(found))


class SpatialProjector(nn.Module):
    """[spatial tokens, projected patches]: what LLaVA-SP gives to the language model.

    Attributes:
        spatial: makes the spatial tokens from the grid.
        projector: projects the patches, one by one.
    """

    spatial: SpatialTokens
    projector: nn.Module

    def __call__(self, grid: Float[Array, "b h w e"]) -> Float[Array, "b n d"]:
        """Returns the spatial tokens, then the patches row by row."""
        patches = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        return jnp.concatenate([self.spatial(grid), self.projector(patches)], axis=1)


def _pooling(length: int, size: int) -> np.ndarray:
    """Returns the averages (size, length) of PyTorch's adaptive pooling.

    Bin i covers floor(i n / s) to ceil((i + 1) n / s); bins overlap where s does not divide n.
    """
    matrix = np.zeros((size, length), np.float32)
    for number in range(size):
        start, stop = number * length // size, -(-(number + 1) * length // size)
        matrix[number, start:stop] = 1 / (stop - start)
    return matrix
