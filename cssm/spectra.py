"""Layers on the spectra of frames: what acts on channels alone commutes with the FFT.

A block's projections and temporal rotation mix channels and leave space alone, so they are applied
to spectra: one transform of c channels in and one out serve any number of states, and a still
image is transformed once for all of its steps.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from common.array_types import Array, Complex, Float, Time
from common.kernels import kernel_spectrum, real_inverse_fft2
from common.kernels.spectral import (
    Boundary,
    Origin,
    check_boundary,
    crop_to_reach,
    unwrapped_size,
)
from common.kernels.spread import on_each_device, require_even
from common.nn import Rotary


class Grid(NamedTuple):
    """A map and the grid on which a block transforms it.

    A recurrence that is solved in the spectrum convolves circularly on its grid, at every step.
    With the boundary 'circular' the grid is the map: what leaves it on one side enters on the
    other. With 'zero' the map lies in a grid with half a kernel more rows and columns of zeros,
    and the rest is cut off the result. That is exact for one application of a kernel: its taps
    reach the zeros, and no other side. It is not for several. The zeros are not renewed between
    the steps, so what a kernel has carried over the border may come back by the next application,
    as it would on an infinite map, and after the second one it may also come around, thinned out
    by as many kernels as it has passed. The bound of the spectrum (`magnitude_bound`) and gates
    that differ between frequencies are long kernels, with tails that come around at once.

    Attributes:
        height: rows h of the map.
        width: its columns w.
        rows: rows of the grid.
        columns: its columns; f = columns // 2 + 1.
        boundary: what lies beyond the map.
    """

    height: int
    width: int
    rows: int
    columns: int
    boundary: Boundary

    @property
    def spectrum_size(self) -> tuple[int, int]:
        """Rows and columns of a half spectrum."""
        return self.rows, self.columns // 2 + 1

    def spectra(self, maps: Float[Array, "*b"], layout: str = "b t h w c") -> Complex[Array, "*b"]:
        """Returns half spectra of maps, in float32.

        Args:
            maps: rows along 'h' of the layout, columns along 'w'.
            layout: names of the axes, see `common.kernels.spread`.
        """
        names = layout.split()
        axes, size = (names.index("h"), names.index("w")), (self.rows, self.columns)
        transform = partial(jnp.fft.rfft2, s=size, axes=axes)
        return on_each_device(transform, maps.astype(jnp.float32), layout)

    def maps(
        self, spectra: Complex[Array, "*b r f c"], layout: str = "t b h f c"
    ) -> Float[Array, "*b h w c"]:
        """Inverts `spectra` by `common.kernels.real_inverse_fft2`."""
        invert = partial(real_inverse_fft2, size=(self.rows, self.columns))
        on_grid = on_each_device(invert, spectra, layout)
        return on_grid[..., : self.height, : self.width, :]

    def ones(self) -> Complex[Array, "r f"]:
        """Returns the spectrum of the map that is one everywhere."""
        if (self.rows, self.columns) == (self.height, self.width):
            return jnp.zeros(self.spectrum_size).at[0, 0].set(self.height * self.width)
        return self.spectra(jnp.ones((self.height, self.width)), "h w")

    def kernel_spectrum(
        self, kernel: Float[Array, "n k l"], origin: Origin, rho: float | None = 0.999
    ) -> Complex[Array, "r f n"]:
        """Returns spectra of kernels, see `common.kernels.kernel_spectrum`."""
        if self.boundary == "zero":
            kernel = crop_to_reach(kernel, self.height, self.width)
        spectrum = kernel_spectrum(kernel, self.rows, self.columns, origin=origin, rho=rho)
        return jnp.moveaxis(spectrum, 0, -1)


def grid_of(
    x: Float[Array, "*b h w c"], kernel_size: int, origin: Origin, boundary: Boundary
) -> Grid:
    """Returns the grid of a map, for kernels of some size.

    Raises:
        ValueError: unknown names, or 'upstream' with 'zero'.
        UserError: rows or channels that the devices along 'frequency' do not divide.
    """
    check_boundary(origin, boundary)
    height, width = x.shape[-3:-1]
    size = (height, width)
    if boundary == "zero":
        size = unwrapped_size(size, (kernel_size, kernel_size))
    require_even("frequency", size[0], "rows of the spectrum")
    require_even("frequency", x.shape[-1], "channels")
    return Grid(height, width, *size, boundary)


def frame_spectra(
    x: Float[Array, "b t h w c"], grid: Grid, rotary: Rotary, steps: int, start: Time
) -> Complex[Array, "T b h f c"]:
    """Returns the spectra of the frames under a position code, time leading.

    Args:
        x: frames; t = 1 is a still image.
        grid: that of the frames.
        rotary: the position code.
        steps: number T of time steps; the result has one frame where all are the same.
        start: time of the first step; may be traced.
    """
    still = x.shape[1] == 1 < steps
    spectra = grid.spectra(rotary.in_space(x) if still else rotary(x, steps, start))
    if still:
        spectra = rotary.in_time(spectra, steps, start)
    return jnp.moveaxis(spectra, 1, 0)


def frame_means(
    spectra: Complex[Array, "t b h f c"], grid: Grid, steps: int
) -> Float[Array, "T b c"]:
    """Returns the spatial mean of each of T frames, which their zero frequency holds."""
    means = spectra[:, :, 0, 0].real / (grid.height * grid.width)
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
        param_dtype: dtype of the parameters.
    """

    parts: int
    channels: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, spectra: Complex[Array, "t b h f c"], grid: Grid
    ) -> list[Complex[Array, "t b h f d"]]:
        """Returns the parts.

        Args:
            spectra: half spectra of the maps.
            grid: that of the maps.
        """
        width = self.parts * self.channels
        shape = (spectra.shape[-1], width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (width,), self.param_dtype)
        ones = grid.ones()[..., None]
        return [
            mix_channels(spectra, part, self.dtype) + (ones * offset)[None, None]
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
        param_dtype: dtype of the parameters.
    """

    channels: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        states: Sequence[Complex[Array, "t b h f c"]],
        gate: Float[Array, "t b h f 1"],
        grid: Grid,
    ) -> Float[Array, "t b h w d"]:
        """Returns the map.

        Args:
            states: states of the recurrence.
            gate: multiplies all of them.
            grid: that of the map.
        """
        rows = len(states) * states[0].shape[-1]
        shape = (rows, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), self.param_dtype)
        kernels = kernel.reshape(-1, len(states), self.channels)
        mixed = [mix_channels(s, kernels[:, i], self.dtype) for i, s in enumerate(states)]
        y = grid.maps(gate * sum(mixed[1:], start=mixed[0]))
        return (y + jnp.broadcast_to(bias, y.shape)).astype(self.dtype)
