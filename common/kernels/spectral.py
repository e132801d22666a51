"""Depthwise convolution of maps, in the frequency domain and by the sum over taps.

With K = rfft2 of the kernel laid out on the map and X = rfft2(x), the circular convolution is
irfft2(K X). `magnitude_bound` maps K to rho K / (1 + |K|), so that no frequency is amplified.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from common.array_types import Array, Complex, Float
from common.kernels.taps import correlate_taps

Origin = Literal["centre", "upstream"]
Boundary = Literal["circular", "zero"]
Method = Literal["auto", "fft", "direct"]


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
            every application also shifts the image by about half its size; a kernel that is larger
            on one axis alone keeps one line of taps on the other if that is one or two longer.

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
    kernel, (top, left) = _public_layout(kernel, height, width)
    bottom, right = height - kernel.shape[1] - top, width - kernel.shape[2] - left
    return jnp.pad(kernel, ((0, 0), (top, bottom), (left, right)))


def _public_layout(kernel: Array, height: int, width: int) -> tuple[Array, tuple[int, int]]:
    """Returns the taps that the public layout keeps, and where the first of them lies."""
    _, rows, columns = kernel.shape
    crops = rows > height or columns > width
    row_taps, top = _public_span(rows, height, crops)
    column_taps, left = _public_span(columns, width, crops)
    return kernel[:, row_taps, column_taps], (top, left)


def _public_span(taps: int, size: int, crops: bool) -> tuple[slice, int]:
    """Returns which taps of one axis the public layout keeps, and where the first of them lies.

    A kernel longer than the map on one axis is cropped on both by the same formula. On an axis
    where it is one or two cells shorter the slice then begins at -1 and leaves the last tap alone,
    and that tap meets all frequencies alike, as if it lay at the origin. Three cells and more
    shorter it fails in the public code, and is padded here.
    """
    if taps >= size:
        first = (taps - size) // 2
        return slice(first, first + size), 0
    if crops and size - taps <= 2:
        return slice(taps - 1, taps), 0
    return slice(None), (size - taps) // 2


def crop_to_reach(kernel: Float[Array, "c k l"], height: int, width: int) -> Array:
    """Cuts off taps that join no two cells of a map, those a map's length or more from the centre.

    With zeros beyond the map they meet nothing else.
    """
    _, rows, columns = kernel.shape
    top, left = max(0, rows // 2 - height + 1), max(0, columns // 2 - width + 1)
    return kernel[:, top : rows // 2 + height, left : columns // 2 + width]


def unwrapped_size(size: tuple[int, int], taps: tuple[int, ...]) -> tuple[int, int]:
    """Returns the (h, w) on which kernels of `taps` taps do not reach around a map of `size`.

    The map lies in the first rows and columns, and zeros after them, half a kernel of them (but no
    more than the map has) and up to the next length with small prime factors.
    """
    height, width = (_fast_length(n + min(k // 2, n - 1)) for n, k in zip(size, taps, strict=True))
    return height, width


def _fast_length(at_least: int) -> int:
    lengths = (2**a * 3**b * 5**c for a in range(20) for b in range(12) for c in range(8))
    return min(n for n in lengths if n >= at_least)


def check_boundary(origin: str, boundary: str) -> None:
    """Checks the names of a kernel's origin and of what lies beyond the map.

    Raises:
        ValueError: unknown choices, or such that exclude each other.
    """
    for name, value, kind in (("origin", origin, Origin), ("boundary", boundary, Boundary)):
        if value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; choose one of {get_args(kind)}")
    if origin == "upstream" and boundary == "zero":
        raise ValueError("origin 'upstream' is a circular shift; choose boundary 'circular'")


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

    It has no batch and no time axis: compute it once a step and multiply every map by it.

    Args:
        kernel: one kernel a channel.
        height: rows of the map.
        width: columns of the map; f = width // 2 + 1.
        origin: see `lay_out_kernel`.
        rho: bound of the magnitude, or None for the plain spectrum.
    """
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    laid_out = lay_out_kernel(kernel.astype(wide), height, width, origin)
    spectrum = jnp.fft.rfft2(laid_out)
    return spectrum if rho is None else magnitude_bound(spectrum, rho)


def real_inverse_fft2(
    spectrum: Complex[Array, "*b"], size: tuple[int, int], axes: tuple[int, int] = (-3, -2)
) -> Float[Array, "*b"]:
    """Inverts rfft2 for any half spectrum, also where its edge columns are not Hermitian.

    A real map's columns 0 and (w even) w / 2 are Hermitian, z[i] = conj(z[-i mod h]). Gates that
    are free at every frequency break that, and what an inverse real FFT makes of it is undefined:
    the CPU's reads the Hermitian part, cuFFT promises nothing. Defined here, for every platform:
    the columns 0 < j < w / 2 are continued by symmetry, and the result is the *real part* of the
    full inverse transform. It is the same as replacing both columns by their Hermitian part
    (z[i] + conj(z[-i mod h])) / 2, which is done explicitly. The gradient is that of this map.

    Args:
        spectrum: h rows and w // 2 + 1 columns along `axes`.
        size: (h, w) of the map.
        axes: the axes of rows and columns; the default is for channels last.

    Raises:
        ValueError: the spectrum does not belong to a map of this size.
    """
    (height, width), (rows, columns) = size, (spectrum.shape[axis] for axis in axes)
    if (rows, columns) != (height, width // 2 + 1):
        expected = (height, width // 2 + 1)
        raise ValueError(f"spectrum has {(rows, columns)} frequencies; expected {expected}")
    spectrum = jnp.moveaxis(spectrum, axes, (-2, -1))
    real = jnp.fft.irfft2(_project_edges(spectrum, width), s=size)
    return jnp.moveaxis(real, (-2, -1), axes)


def _project_edges(spectrum: Array, width: int) -> Array:
    """Replaces the first and, where width is even, the last column by its Hermitian part."""
    first, rest = spectrum[..., :1], spectrum[..., 1:]
    if width % 2 or width == 0:
        return jnp.concatenate([_hermitian_part(first), rest], -1)
    inner, last = rest[..., :-1], rest[..., -1:]
    return jnp.concatenate([_hermitian_part(first), inner, _hermitian_part(last)], -1)


def _hermitian_part(column: Array) -> Array:
    mirrored = jnp.roll(column[..., ::-1, :], 1, -2).conj()
    return 0.5 * (column + mirrored)


def spectral_conv_2d(
    x: Float[Array, "*b h w c"],
    kernel: Float[Array, "c k l"],
    origin: Origin = "centre",
    *,
    boundary: Boundary = "circular",
    rho: float | None = None,
    method: Method = "auto",
) -> Float[Array, "*b h w c"]:
    """Convolves every channel with its kernel, y[i] = sum_p kernel[p] x[i - p + k // 2].

    In float32 at least, whatever the dtype of x, which is that of the result. Kernels may be larger
    than the map.

    Args:
        x: maps, channels last.
        kernel: one kernel a channel.
        origin: see `lay_out_kernel`; 'upstream' gives the numbers of the public notebooks.
        boundary: beyond the map are its other side ('circular') or zeros ('zero').
        rho: bound of the magnitude of the kernel's spectrum (`magnitude_bound`), or None. With
            zeros beyond the map it is the spectrum on a map of twice the height and width.
        method: 'fft', 'direct' (the sum over taps), or 'auto': see `choose_method`.

    Raises:
        ValueError: unknown choices or such that exclude each other; x and kernel have different
            numbers of channels.
    """
    *batch, height, width, channels = x.shape
    if kernel.ndim != 3 or kernel.shape[0] != channels:
        raise ValueError(f"kernel {kernel.shape} does not fit x {x.shape}; not ({channels}, k, l)")
    _check(origin, boundary, rho, method)
    if method == "auto":
        method = choose_method((kernel.shape[1], kernel.shape[2]), rho=rho)
    wide = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
    maps, taps = x.reshape(-1, height, width, channels).astype(wide), kernel.astype(wide)
    if method == "direct":
        y = _convolve_directly(maps, taps, origin, boundary)
    else:
        y = _convolve_by_fft(maps, taps, origin, boundary, rho)
    return y.reshape(x.shape).astype(x.dtype)


MOST_TAPS = 49
"""Taps up to which the sum over them is cheaper than the FFT on a CPU, forward and backward.

From `experiments.benchmarks.convolution`: processor time of the FFT over that of the sum, on two
busy cores of an Intel Xeon at 2.1 GHz with jax 0.10.2. Maps are (8, 16, 16, 32), (8, 32, 32, 64)
and (4, 56, 56, 64), circular; the last column is the second one with zeros beyond the map.

    taps                       16    32    56   zeros
    3 x 3  forward            3.0   3.9   5.9    7.0
           and backward       2.5   2.7   3.3    5.0
    5 x 5  forward            2.0   2.9
           and backward       2.0   1.8
    7 x 7  forward            2.2   2.1   2.7    3.2
           and backward       1.4   1.2   1.3    1.6
    9 x 9  forward            1.6   1.5   1.7    2.1
           and backward        .9    .7    .8    1.1

XLA's own grouped convolution takes 2 to 12 times as long as the FFT at 3 x 3 and 5 x 5 taps.
"""


def choose_method(taps: tuple[int, int], *, rho: float | None = None) -> Method:
    """Names the method that 'auto' takes for kernels of `taps` on the default platform.

    'direct' on a CPU for up to `MOST_TAPS` taps, if no bound asks for the spectrum; 'fft'
    otherwise, also on every other platform, where nothing has been measured.
    """
    few = taps[0] * taps[1] <= MOST_TAPS
    return "direct" if few and rho is None and jax.default_backend() == "cpu" else "fft"


def _check(origin: str, boundary: str, rho: float | None, method: str) -> None:
    check_boundary(origin, boundary)
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}; choose one of {get_args(Method)}")
    if rho is not None and method == "direct":
        raise ValueError("rho bounds a spectrum; the method 'direct' has none, choose 'fft'")


def _convolve_by_fft(
    x: Array, kernel: Array, origin: Origin, boundary: Boundary, rho: float | None
) -> Array:
    _, height, width, _ = x.shape
    size = (height, width)
    if boundary == "zero":
        doubled = (2 * height, 2 * width)
        size = unwrapped_size(size, kernel.shape[1:]) if rho is None else doubled
        kernel = crop_to_reach(kernel, height, width)
    spectrum = kernel_spectrum(kernel, *size, origin=origin, rho=rho)
    product = jnp.fft.rfft2(x, s=size, axes=(1, 2)) * jnp.moveaxis(spectrum, 0, -1)[None]
    return jnp.fft.irfft2(product, s=size, axes=(1, 2))[:, :height, :width]


def _convolve_directly(x: Array, kernel: Array, origin: Origin, boundary: Boundary) -> Array:
    shift = (0, 0)
    if origin == "upstream":
        kernel, (top, left) = _public_layout(kernel, *x.shape[1:3])
        shift = (top + kernel.shape[1] // 2, left + kernel.shape[2] // 2)
    padding = [(0, 0), *((k - 1 - k // 2, k // 2) for k in kernel.shape[1:]), (0, 0)]
    padded = jnp.pad(x, padding, mode="wrap" if boundary == "circular" else "constant")
    flipped = jnp.moveaxis(kernel[:, ::-1, ::-1], 0, -1)
    return jnp.roll(correlate_taps(padded, flipped), shift, (1, 2))
