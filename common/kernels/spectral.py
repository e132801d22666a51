"""Depthwise circular convolution in the frequency domain.

With K = rfft2 of the kernel laid out on the map and X = rfft2(x), the convolution is
irfft2(K X). `magnitude_bound` maps K to rho K / (1 + |K|), so that no frequency is amplified.
"""

from typing import Literal, get_args

import jax.numpy as jnp

from common.array_types import Array, Complex, Float

Origin = Literal["centre", "upstream"]


def lay_out_kernel(
    kernel: Float[Array, "c k l"], height: int, width: int, origin: Origin = "centre"
) -> Float[Array, "c h w"]:
    """Lays small kernels out on a map of (height, width) for circular convolution.

    Args:
        kernel: one kernel a channel.
        height: rows of the map.
        width: columns of the map.
        origin: 'centre' puts tap (k // 2, l // 2) at the map's origin, so that a delta kernel is
            the identity; taps beyond the map wrap around. 'upstream' is the public code's layout:
            the kernel stays in the middle of the map (cropped to it where it is larger), so that
            every application also shifts the image by about half its size.

    Raises:
        ValueError: `origin` is neither.
    """
    if origin == "centre":
        return _wrap_around_origin(kernel, height, width)
    if origin == "upstream":
        return _pad_into_middle(kernel, height, width)
    raise ValueError(f"origin is {origin!r}; choose one of {get_args(Origin)}")


def _wrap_around_origin(kernel: Array, height: int, width: int) -> Array:
    rows = _wrap_last_axis(kernel.swapaxes(-1, -2), height).swapaxes(-1, -2)
    return _wrap_last_axis(rows, width)


def _wrap_last_axis(kernel: Array, size: int) -> Array:
    taps = kernel.shape[-1]
    copies = -(-taps // size)
    padding = [(0, 0)] * (kernel.ndim - 1) + [(0, copies * size - taps)]
    rolled = jnp.roll(jnp.pad(kernel, padding), -(taps // 2), -1)
    return rolled.reshape(*kernel.shape[:-1], copies, size).sum(-2)


def _pad_into_middle(kernel: Array, height: int, width: int) -> Array:
    _, rows, columns = kernel.shape
    if rows > height or columns > width:
        top, left = max(0, (rows - height) // 2), max(0, (columns - width) // 2)
        kernel = kernel[:, top : top + height, left : left + width]
        _, rows, columns = kernel.shape
    top, left = (height - rows) // 2, (width - columns) // 2
    bottom, right = height - rows - top, width - columns - left
    return jnp.pad(kernel, ((0, 0), (top, bottom), (left, right)))


def magnitude_bound(spectrum: Complex[Array, "*b"], rho: float = 0.999) -> Complex[Array, "*b"]:
    """Squashes every entry K to rho K / (1 + |K|): same phase, magnitude below rho."""
    return rho * spectrum / (1.0 + jnp.abs(spectrum))


def kernel_spectrum(
    kernel: Float[Array, "c k l"],
    height: int,
    width: int,
    *,
    origin: Origin = "centre",
    rho: float | None = 0.999,
) -> Complex[Array, "c h f"]:
    """Returns the spectrum of each kernel on a map of (height, width).

    Args:
        kernel: one kernel a channel.
        height: rows of the map.
        width: columns of the map; f = width // 2 + 1.
        origin: see `lay_out_kernel`.
        rho: bound of the magnitude, or None for the plain spectrum.
    """
    laid_out = lay_out_kernel(kernel.astype(jnp.float32), height, width, origin)
    spectrum = jnp.fft.rfft2(laid_out)
    return spectrum if rho is None else magnitude_bound(spectrum, rho)


def spectral_conv_2d(
    x: Float[Array, "*b c h w"], kernel: Float[Array, "c k l"], origin: Origin = "centre"
) -> Float[Array, "*b c h w"]:
    """Convolves every channel with its kernel, circularly; in float32, whatever the dtype of x.

    Raises:
        ValueError: x and kernel have different numbers of channels.
    """
    *batch, channels, height, width = x.shape
    if kernel.shape[0] != channels:
        raise ValueError(f"{kernel.shape[0]} kernels do not fit the {channels} channels of x")
    spectrum = kernel_spectrum(kernel, height, width, origin=origin, rho=None)
    spectrum = jnp.expand_dims(spectrum, tuple(range(len(batch))))
    product = jnp.fft.rfft2(x.astype(jnp.promote_types(x.dtype, jnp.float32))) * spectrum
    return jnp.fft.irfft2(product, s=(height, width)).astype(x.dtype)
