"""Convolution of maps with kernels from every channel to every channel, in the frequency domain."""

import jax.numpy as jnp

from common.array_types import Array, Float
from common.kernels.spectral import (
    Boundary,
    check_boundary,
    crop_to_reach,
    kernel_spectrum,
    unwrapped_size,
)


def mixing_conv_2d(
    x: Float[Array, "*b h w c"],
    kernel: Float[Array, "k l c d"],
    *,
    boundary: Boundary = "circular",
) -> Float[Array, "*b h w d"]:
    """Convolves and mixes channels, y[i, d] = sum_pc kernel[p, c, d] x[i - p + k // 2, c].

    `spectral_conv_2d` with a kernel for each pair of channels: at each frequency a matrix takes the
    channels of the input to those of the output. In float32 at least, whatever the dtype of x,
    which is that of the result. The layers of neural networks correlate: they are this with the
    kernel flipped on both axes. Kernels may be larger than the map. On a CPU it takes half the time
    of XLA's convolution at 15 x 15 taps, and 1.5 times as much at 7 x 7
    (`experiments.benchmarks.convolution`); in loops over time, where XLA's gradient of convolution
    is slow, far less at either.

    Args:
        x: maps, channels last.
        kernel: taps first, then channels in and channels out, as the layers of Flax have them.
        boundary: beyond the map are its other side ('circular') or zeros ('zero').

    Raises:
        ValueError: an unknown boundary; kernel and x have different numbers of channels.
    """
    *batch, height, width, channels = x.shape
    if kernel.ndim != 4 or kernel.shape[2] != channels:
        raise ValueError(
            f"kernel {kernel.shape} does not fit x {x.shape}; not (k, l, {channels}, d)"
        )
    check_boundary("centre", boundary)
    wide = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
    taps = jnp.moveaxis(kernel.astype(wide), (0, 1), (2, 3)).reshape(-1, *kernel.shape[:2])
    size = (height, width)
    if boundary == "zero":
        size, taps = unwrapped_size(size, kernel.shape[:2]), crop_to_reach(taps, height, width)
    spectrum = kernel_spectrum(taps, *size, rho=None)
    spectrum = spectrum.reshape(channels, -1, *spectrum.shape[1:])
    maps = x.reshape(-1, height, width, channels).astype(wide)
    mixed = jnp.einsum("bhfc,cdhf->bhfd", jnp.fft.rfft2(maps, s=size, axes=(1, 2)), spectrum)
    y = jnp.fft.irfft2(mixed, s=size, axes=(1, 2))[:, :height, :width]
    return y.reshape(*batch, height, width, -1).astype(x.dtype)
