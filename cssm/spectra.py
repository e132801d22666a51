"""Layers on the spectra of frames: what acts on channels alone commutes with the FFT.

A block's projections and temporal rotation mix channels and leave space alone, so they are applied
to spectra: one transform of c channels in and one out serve any number of states, and a still
image is transformed once for all of its steps.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from common.array_types import Array, Complex, Float
from common.kernels import real_inverse_fft2
from common.nn import Rotary


def map_size(x: Float[Array, "*b h w c"]) -> tuple[int, int]:
    """Returns (h, w)."""
    height, width = x.shape[-3:-1]
    return height, width


def frame_spectra(
    x: Float[Array, "b t h w c"], rotary: Rotary, steps: int
) -> Complex[Array, "T b h f c"]:
    """Returns the spectra of the frames under a position code, time leading.

    Args:
        x: frames; t = 1 is a still image.
        rotary: the position code.
        steps: number T of time steps; the result has one frame where all are the same.
    """
    still = x.shape[1] == 1 < steps
    turned = rotary.in_space(x) if still else rotary(x, steps)
    spectra = jnp.fft.rfft2(turned.astype(jnp.float32), axes=(-3, -2))
    if still:
        spectra = rotary.in_time(spectra, steps)
    return jnp.moveaxis(spectra, 1, 0)


def frame_means(
    spectra: Complex[Array, "t b h f c"], size: tuple[int, int], steps: int
) -> Float[Array, "T b c"]:
    """Returns the spatial mean of each of T frames, which their zero frequency holds."""
    means = spectra[:, :, 0, 0].real / (size[0] * size[1])
    return jnp.broadcast_to(means, (steps, *means.shape[1:]))


def mix_channels(
    spectra: Complex[Array, "*b c"], kernel: Float[Array, "c d"], dtype: jnp.dtype
) -> Complex[Array, "*b d"]:
    """Multiplies by a real matrix, with factors in `dtype` and sums in float32."""
    kernel = kernel.astype(dtype)
    real, imaginary = (
        jnp.matmul(part.astype(dtype), kernel, preferred_element_type=jnp.float32)
        for part in (spectra.real, spectra.imag)
    )
    return lax.complex(real, imaginary)


class SpectralDense(nn.Module):
    """Dense layer on the channels of maps, given and returned as spectra, in several parts.

    Attributes:
        parts: number of outputs; the columns of the kernel are those of one part after the other.
        channels: width of each.
        dtype: compute dtype of the products.
    """

    parts: int
    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, spectra: Complex[Array, "t b h f c"], size: tuple[int, int]
    ) -> list[Complex[Array, "t b h f d"]]:
        """Returns the parts.

        Args:
            spectra: half spectra of the maps.
            size: (h, w) of the maps.
        """
        width = self.parts * self.channels
        shape = (spectra.shape[-1], width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        sums = jnp.zeros(spectra.shape[2:4]).at[0, 0].set(size[0] * size[1])
        return [
            mix_channels(spectra, part, self.dtype) + (sums[..., None] * offset)[None, None]
            for part, offset in zip(
                jnp.split(kernel, self.parts, -1),
                jnp.split(bias[None, None], self.parts, -1),
                strict=True,
            )
        ]


class SpectralReadout(nn.Module):
    """Gated states become one map: y = b + W irfft2(gate * states), the transform taken last.

    The rows of the kernel go through the states of a channel before the next channel.

    Attributes:
        channels: width of the map.
        dtype: compute dtype of the products.
    """

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        states: Sequence[Complex[Array, "t b h f c"]],
        gate: Float[Array, "t b h f 1"],
        size: tuple[int, int],
    ) -> Float[Array, "t b h w d"]:
        """Returns the map.

        Args:
            states: states of the recurrence.
            gate: multiplies all of them.
            size: (h, w) of the map.
        """
        rows = len(states) * states[0].shape[-1]
        shape = (rows, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        kernels = kernel.reshape(-1, len(states), self.channels)
        mixed = [mix_channels(s, kernels[:, i], self.dtype) for i, s in enumerate(states)]
        y = real_inverse_fft2(gate * sum(mixed[1:], start=mixed[0]), size)
        return (y + jnp.broadcast_to(bias, y.shape)).astype(self.dtype)
