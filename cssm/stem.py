"""Convolutional stem: an image becomes a map of a quarter of its height and width."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels import correlate_2d, larger
from common.kernels.arrays import largest_divisor
from common.kernels.spread import on_each_device
from common.mesh import is_spread
from cssm.norms import Norm, batch_norm, layer_norm

CHUNK_BYTES = 2**20
"""Size of the stem's largest map up to which frames go through it together on a CPU.

Forward and backward of frames of 64 and 128 pixels, 32 and 64 channels, took 1.5 and 1.3 times as
long all together as in chunks of this size, and 15 and 11 times the memory (two cores of an Intel
Xeon at 2.1 GHz, jax 0.10.2).
"""


PARTS = ("conv1", "norm1", "conv2", "norm2")
FRAMES = "b t rows columns channels"
"""Layout of images and maps: on several devices, batch and time are spread."""


def max_pool_2x2(x: Float[Array, "*b h w c"]) -> Float[Array, "*b ceil(h/2) ceil(w/2) c"]:
    """Takes the maximum over 2 x 2 windows; an odd last row or column stands alone."""
    *batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        padding = [(0, 0)] * len(batch) + [(0, height % 2), (0, width % 2), (0, 0)]
        x = jnp.pad(x, padding, constant_values=-jnp.inf)
        *batch, height, width, channels = x.shape
    rows = larger(x[..., 0::2, :, :], x[..., 1::2, :, :])
    return larger(rows[..., 0::2, :], rows[..., 1::2, :])


class ConvStem(nn.Module):
    """Twice: 3 x 3 convolution, activation, norm over channels, 2 x 2 max pooling.

    On a CPU a few frames at a time, which the backward pass goes through again: the maps of the
    size of the images are never all there at once, and those of a chunk stay in a core's cache.

    Attributes:
        channels: width of both stages.
        activation: nonlinearity.
        dtype: compute dtype.
        norm: makes the norms.
        param_dtype: dtype of the parameters.
    """

    channels: int
    activation: Callable[[Array], Array]
    dtype: Any = jnp.float32
    norm: Norm = layer_norm
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t H W 3"], training: bool = False
    ) -> Float[Array, "b t h w c"]:
        """Returns the map, h = ceil(ceil(H / 2) / 2) and likewise w.

        Args:
            x: images.
            training: whether the norms learn from this batch.
        """
        if is_spread() and not self._needs_all(training):
            return self._by_devices(x, training)
        frames = x.reshape(-1, *x.shape[-3:])
        count = self._frames_at_once(frames.shape, training)
        if count == len(frames):
            maps = self._stages(frames, training)
        else:
            maps = self._in_chunks(frames.reshape(-1, count, *frames.shape[1:]), training)
        return maps.reshape(*x.shape[:2], *maps.shape[-3:])

    def _needs_all(self, training: bool) -> bool:
        """Tells whether all frames have to go through together."""
        return self.is_initializing() or (training and self.norm is batch_norm)

    def _by_devices(self, x: Float[Array, "b t H W 3"], training: bool) -> Array:
        """Returns the maps of each device's own frames."""
        alone: Any = self.clone(parent=None)
        variables = {
            kind: {name: tree[name] for name in PARTS if name in tree}
            for kind, tree in self.variables.items()
        }
        return on_each_device(lambda x, v: alone.apply(v, x, training), x, FRAMES, variables)

    def _frames_at_once(self, shape: tuple[int, ...], training: bool) -> int:
        count, height, width, _ = shape
        if self._needs_all(training) or jax.default_backend() != "cpu":
            return count
        bytes_a_frame = height * width * self.channels * jnp.dtype(self.dtype).itemsize
        return largest_divisor(count, CHUNK_BYTES // bytes_a_frame)

    def _in_chunks(self, chunks: Float[Array, "n m H W 3"], training: bool) -> Array:
        def advance(stem: Any, carry: None, chunk: Array) -> tuple[None, Array]:
            return carry, stem._stages(chunk, training)

        lifted: Any = nn.scan(
            nn.remat(advance, prevent_cse=False),
            variable_broadcast=True,
            split_rngs={},
        )
        return lifted(self, None, chunks)[1]

    def _stages(self, x: Float[Array, "n H W 3"], training: bool) -> Float[Array, "n h w c"]:
        for stage in (1, 2):
            x = nn.Conv(
                self.channels,
                (3, 3),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                conv_general_dilated=lambda x, kernel, *_, **__: correlate_2d(x, kernel),
                name=f"conv{stage}",
            )(x)
            norm: Any = self.norm(f"norm{stage}", self.dtype, self.param_dtype, training)
            x = max_pool_2x2(norm(self.activation(x)))
        return x
