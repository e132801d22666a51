"""Circular convolution through the FFT against the sum over taps, and the magnitude bound."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import (
    kernel_spectrum,
    lay_out_kernel,
    magnitude_bound,
    reference,
    spectral_conv_2d,
)
from common.kernels.spectral import Origin

ORIGINS: tuple[Origin, ...] = ("centre", "upstream")
MAPS_AND_KERNELS = [
    ((8, 8), (5, 5)),
    ((7, 9), (3, 3)),
    ((6, 9), (4, 1)),
    ((5, 6), (15, 15)),
    ((5, 8), (8, 4)),
    ((7, 4), (2, 9)),
    ((1, 1), (3, 3)),
]

each_origin = pytest.mark.parametrize("origin", ORIGINS)
each_shape = pytest.mark.parametrize(("size", "taps"), MAPS_AND_KERNELS, ids=str)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def delta(channels: int, rows: int, columns: int) -> Any:
    """Kernels that are one at the centre tap and zero elsewhere."""
    kernel = np.zeros((channels, rows, columns), np.float32)
    kernel[:, rows // 2, columns // 2] = 1.0
    return kernel


@functools.partial(jax.jit, static_argnums=3)
def convolve_and_pull_back(x, kernel, weights, origin: Origin):
    convolve = functools.partial(spectral_conv_2d, origin=origin)
    y, pullback = jax.vjp(convolve, x, kernel)
    return y, pullback(weights)


@each_origin
@each_shape
def test_convolution_and_gradients_equal_the_sum_over_taps(
    size: tuple[int, int], taps: tuple[int, int], origin: Origin
) -> None:
    x, kernel, weights = normal(2, 3, *size), normal(3, *taps), normal(2, 3, *size, seed=1)
    y, (d_x, d_kernel) = convolve_and_pull_back(x, kernel, weights, origin)
    assert y.dtype == jnp.float32
    convolve = functools.partial(reference.circular_convolution, origin=origin)
    np.testing.assert_allclose(y, convolve(x, kernel), atol=4e-5)
    # linear in each argument: the directional derivative is the convolution with the direction
    for seed in range(3):
        along_x, along_kernel = normal(*x.shape, seed=seed), normal(*kernel.shape, seed=seed)
        slopes = np.vdot(d_x, along_x), np.vdot(d_kernel, along_kernel)
        expected = (
            np.vdot(weights, convolve(along_x, kernel)),
            np.vdot(weights, convolve(x, along_kernel)),
        )
        np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("batch", [(), (2, 2)])
def test_convolution_takes_any_leading_axes(batch: tuple[int, ...]) -> None:
    x, kernel = normal(*batch, 3, 5, 4), normal(3, 3, 3)
    expected = reference.circular_convolution(x, kernel)
    np.testing.assert_allclose(spectral_conv_2d(x, kernel), expected, atol=1e-5)


@each_shape
def test_delta_at_the_centre_is_the_identity(size: tuple[int, int], taps: tuple[int, int]) -> None:
    x = normal(2, 3, *size)
    y, _ = convolve_and_pull_back(x, delta(3, *taps), x, "centre")
    np.testing.assert_allclose(y, x, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "taps", "shift"),
    [((8, 8), (5, 5), (3, 3)), ((7, 9), (3, 3), (3, 4)), ((5, 6), (15, 15), (2, 3))],
)
def test_delta_in_the_public_layout_shifts_by_half_the_map(size, taps, shift) -> None:
    """By (h - 1) // 2 rows where an odd kernel is padded, by h // 2 where it is cropped."""
    x = normal(2, 3, *size)
    y, _ = convolve_and_pull_back(x, delta(3, *taps), x, "upstream")
    np.testing.assert_allclose(y, np.roll(x, shift, (-2, -1)), atol=1e-5)


@each_shape
def test_public_layout_pads_or_crops_around_the_middle(
    size: tuple[int, int], taps: tuple[int, int]
) -> None:
    kernel = normal(3, *taps)
    laid_out = lay_out_kernel(kernel, *size, origin="upstream")
    np.testing.assert_array_equal(laid_out, reference.lay_out_in_middle(kernel, *size))


def test_taps_beyond_the_map_wrap_around() -> None:
    kernel = jnp.arange(15.0).reshape(1, 1, 15)
    laid_out = lay_out_kernel(kernel, 1, 4)
    expected = [sum(j for j in range(15) if (j - 7) % 4 == i) for i in range(4)]
    np.testing.assert_array_equal(laid_out, np.reshape(expected, (1, 1, 4)))


@each_origin
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_kernel_spectrum_is_the_bounded_transform(size: tuple[int, int], origin: Origin) -> None:
    kernel = normal(2, 3, 5)
    spectrum = kernel_spectrum(kernel, *size, origin=origin, rho=0.9)
    impulse = np.zeros((2, *size))
    impulse[:, 0, 0] = 1.0
    plain = np.fft.rfft2(reference.circular_convolution(impulse, kernel, origin))
    assert spectrum.shape == (2, size[0], size[1] // 2 + 1)
    assert spectrum.dtype == jnp.complex64
    np.testing.assert_allclose(spectrum, reference.bound_magnitude(plain, 0.9), atol=2e-6)
    unbounded = kernel_spectrum(kernel, *size, origin=origin, rho=None)
    np.testing.assert_allclose(unbounded, plain, atol=2e-5)


@pytest.mark.parametrize("rho", [0.999, 0.5])
def test_bound_keeps_the_phase_and_stays_below_rho(rho: float) -> None:
    magnitudes, angles = 10.0 ** np.arange(-6, 4), np.linspace(-3.0, 3.0, 7)
    spectrum = np.array([m * np.exp(1j * a) for m, a in itertools.product(magnitudes, angles)])
    bounded = np.asarray(magnitude_bound(jnp.asarray(spectrum, jnp.complex64), rho))
    assert np.abs(bounded).max() < rho
    np.testing.assert_allclose(np.angle(bounded), np.angle(spectrum), atol=1e-6)
    np.testing.assert_allclose(bounded, reference.bound_magnitude(spectrum, rho), rtol=1e-5)


def test_gradient_of_the_bound_is_finite_at_zero_and_in_the_limit_exact() -> None:
    """At zero the bound is rho times the identity."""
    weights = normal(2, 4, 3)

    @jax.jit
    @jax.grad
    def slope(kernel):
        spectrum = kernel_spectrum(kernel, 4, 4, rho=0.5)
        return (weights * spectrum.real).sum() + (weights * spectrum.imag).sum()

    at_zero = np.asarray(slope(jnp.zeros((2, 3, 3))))
    near_zero = np.asarray(slope(1e-6 * normal(2, 3, 3)))
    assert np.isfinite(at_zero).all()
    assert np.abs(at_zero).max() > 0.1
    np.testing.assert_allclose(at_zero, near_zero, atol=1e-4)


def test_unknown_origin_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"origin is 'corner'; choose one of \('centre', 'ups"):
        lay_out_kernel(jnp.zeros((1, 3, 3)), 8, 8, "corner")  # pyright: ignore[reportArgumentType]


def test_bfloat16_maps_come_back_as_bfloat16() -> None:
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 3, 8, 8)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3)), jnp.float32)
    out = spectral_conv_2d(x, kernel)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        out.astype(jnp.float32),
        spectral_conv_2d(x.astype(jnp.float32), kernel),
        rtol=0.01,
        atol=0.02,
    )


def test_kernels_must_match_the_channels() -> None:
    with pytest.raises(ValueError, match="1 kernels do not fit the 3 channels"):
        spectral_conv_2d(jnp.zeros((2, 3, 8, 8)), jnp.zeros((1, 3, 3)))
