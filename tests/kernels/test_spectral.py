"""Convolution of maps against the sum over taps in NumPy, and what becomes of spectra."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kernels import (
    kernel_spectrum,
    lay_out_kernel,
    magnitude_bound,
    real_inverse_fft2,
    reference,
    spectral_conv_2d,
)
from common.kernels.spectral import Boundary, Method, Origin, choose_method

MAPS_AND_KERNELS = [
    ((7, 9), (3, 3)),
    ((6, 9), (4, 1)),
    ((3, 2), (7, 5)),
    ((3, 8), (4, 2)),
    ((5, 4), (2, 5)),
    ((1, 1), (3, 3)),
    ((5, 7), (6, 6)),
]

METHODS: tuple[Method, ...] = ("fft", "direct")
jitted_conv = jax.jit(spectral_conv_2d, static_argnames=("origin", "boundary", "rho", "method"))
each_method = pytest.mark.parametrize("method", METHODS)
each_shape = pytest.mark.parametrize(("size", "taps"), MAPS_AND_KERNELS, ids=str)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def delta(channels: int, rows: int, columns: int) -> Any:
    """Kernels that are one at the centre tap and zero elsewhere."""
    kernel = np.zeros((channels, rows, columns), np.float32)
    kernel[:, rows // 2, columns // 2] = 1.0
    return kernel


@functools.partial(jax.jit, static_argnames=("origin", "boundary", "rho", "method"))
def convolve_and_pull_back(x, kernel, weights, **options):
    y, pullback = jax.vjp(functools.partial(spectral_conv_2d, **options), x, kernel)
    return y, pullback(weights)


@pytest.mark.parametrize(
    ("size", "taps", "origin", "boundary"),
    [(*shape, "centre", "circular") for shape in MAPS_AND_KERNELS]
    + [(*shape, "upstream", "circular") for shape in MAPS_AND_KERNELS[2:4]]
    + [(*shape, "centre", "zero") for shape in MAPS_AND_KERNELS[1:3]],
)
@each_method
def test_convolution_and_gradients_equal_the_sum_over_taps(
    size: tuple[int, int],
    taps: tuple[int, int],
    method: Method,
    origin: Origin,
    boundary: Boundary,
) -> None:
    x, kernel, weights = normal(2, *size, 3), normal(3, *taps), normal(2, *size, 3, seed=1)
    options = {"origin": origin, "boundary": boundary}
    y, (d_x, d_kernel) = convolve_and_pull_back(x, kernel, weights, method=method, **options)
    assert y.dtype == jnp.float32
    convolve = functools.partial(reference.convolution_2d, **options)
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


def test_double_precision_is_kept() -> None:
    x, kernel = (normal(*s).astype(np.float64) for s in ((2, 7, 6, 3), (3, 3, 4)))
    with jax.enable_x64():
        for method, boundary in itertools.product(METHODS, ("circular", "zero")):
            y = jitted_conv(x, kernel, boundary=boundary, method=method)
            assert y.dtype == jnp.float64
            expected = reference.convolution_2d(x, kernel, boundary=boundary)
            np.testing.assert_allclose(y, expected, atol=1e-13)


@each_method
@pytest.mark.parametrize("batch", [(), (2, 2)])
def test_convolution_takes_any_leading_axes(batch: tuple[int, ...], method: Method) -> None:
    x, kernel = normal(*batch, 5, 4, 3), normal(3, 3, 3)
    expected = reference.convolution_2d(x, kernel)
    np.testing.assert_allclose(jitted_conv(x, kernel, method=method), expected, atol=1e-5)


def test_numbers_of_the_notebook_come_with_its_origin() -> None:
    """The function of the public notebook, in NumPy; its signature is (x, kernel) too."""
    x, kernel = normal(2, 8, 6, 3), normal(3, 5, 5)
    (top, bottom), (left, right) = (1, 2), (0, 1)  # of (8 - 5) and (6 - 5) rows and columns
    padded = np.pad(kernel, ((0, 0), (top, bottom), (left, right)))
    product = np.fft.rfft2(x, axes=(1, 2)) * np.moveaxis(np.fft.rfft2(padded), 0, -1)
    expected = np.fft.irfft2(product, s=(8, 6), axes=(1, 2))
    np.testing.assert_allclose(spectral_conv_2d(x, kernel, "upstream"), expected, atol=2e-5)


@each_method
@pytest.mark.parametrize(
    ("size", "taps", "boundary"), [((8, 7), (4, 3), "circular"), ((3, 4), (9, 2), "zero")]
)
def test_delta_at_the_centre_is_the_identity(
    size: tuple[int, int], taps: tuple[int, int], boundary: Boundary, method: Method
) -> None:
    x = normal(2, *size, 3)
    y = jitted_conv(x, delta(3, *taps), boundary=boundary, method=method)
    np.testing.assert_allclose(y, x, atol=1e-5)


@each_method
@pytest.mark.parametrize(
    ("size", "taps", "shift"),
    [((8, 8), (5, 5), (3, 3)), ((7, 9), (3, 3), (3, 4)), ((5, 6), (7, 9), (2, 3))],
)
def test_delta_in_the_public_layout_shifts_by_half_the_map(size, taps, shift, method) -> None:
    """By (h - 1) // 2 rows where an odd kernel is padded, by h // 2 where it is cropped."""
    x = normal(2, *size, 3)
    y = jitted_conv(x, delta(3, *taps), "upstream", method=method)
    np.testing.assert_allclose(y, np.roll(x, shift, (1, 2)), atol=1e-5)


@pytest.mark.parametrize(("size", "origin"), [((7, 6), "centre"), ((4, 5), "upstream")])
def test_bounded_convolution_equals_the_definition(size: tuple[int, int], origin: Origin) -> None:
    x, kernel = normal(2, *size, 3), normal(3, 5, 3)
    y = jitted_conv(x, kernel, origin, rho=0.9)
    np.testing.assert_allclose(y, reference.bounded_convolution(x, kernel, 0.9, origin), atol=1e-5)
    assert np.linalg.norm(y) < 0.9 * np.linalg.norm(x)


@pytest.mark.parametrize("taps", [(3, 3), (15, 9)])
def test_bounded_convolution_beyond_zeros_is_that_of_a_map_twice_the_size(
    taps: tuple[int, int],
) -> None:
    x, kernel = normal(2, 5, 4, 3), normal(3, *taps)
    y = jitted_conv(x, kernel, boundary="zero", rho=0.9)
    framed = np.pad(x, ((0, 0), (0, 5), (0, 4), (0, 0)))
    kept = kernel[:, :, : 4 + 4] if taps == (3, 3) else kernel[:, 3:12, 1:8]  # 4 and 3 beside
    expected = reference.bounded_convolution(framed, kept, 0.9)[:, :5, :4]
    np.testing.assert_allclose(y, expected, atol=1e-5)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    factor=st.floats(-8, 8, width=32),
    shift=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    method=st.sampled_from(METHODS),
)
def test_linear_and_equivariant_to_shifts(seed, factor, shift, method) -> None:
    convolve = functools.partial(jitted_conv, kernel=normal(3, 3, 4), method=method)
    x, z = normal(2, 5, 6, 3, seed=seed), normal(2, 5, 6, 3, seed=seed + 1)
    combined = convolve(x + np.float32(factor) * z)
    expected = convolve(x) + np.float32(factor) * convolve(z)
    np.testing.assert_allclose(combined, expected, atol=3e-4)
    rolled = np.roll(convolve(x), shift, (1, 2))
    np.testing.assert_allclose(convolve(np.roll(x, shift, (1, 2))), rolled, atol=2e-5)


def free_spectrum(*shape: int, seed: int = 0) -> Any:
    """A half spectrum whose columns 0 and w / 2 are not Hermitian."""
    return (normal(*shape, seed=seed) + 1j * normal(*shape, seed=seed + 1)).astype(np.complex64)


@pytest.mark.parametrize("size", [(7, 6), (4, 9), (1, 4), (5, 1), (2, 2)])
def test_any_spectrum_has_one_real_inverse(size: tuple[int, int]) -> None:
    """The real part of the inverse transform; the gradient is the adjoint of that map."""
    height, width = size
    spectrum = free_spectrum(2, 3, height, width // 2 + 1)
    invert = jax.jit(functools.partial(real_inverse_fft2, size=size, axes=(-2, -1)))
    expected = reference.real_inverse(spectrum, width)
    np.testing.assert_allclose(invert(spectrum), expected, atol=2e-6)
    weights = normal(*expected.shape)
    slope = jax.jit(jax.grad(lambda s: jnp.vdot(weights, invert(s))))(spectrum)
    direction = free_spectrum(*spectrum.shape, seed=5)
    change = np.vdot(weights, reference.real_inverse(direction, width))
    np.testing.assert_allclose((slope * direction).real.sum(), change, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_what_the_inverse_drops_is_dropped_before_the_transform(size: tuple[int, int]) -> None:
    """So that no platform's inverse real FFT meets columns for which it promises nothing."""
    height, width = size
    spectrum = free_spectrum(height, width // 2 + 1)
    seen = []

    def record(spectrum, s):
        seen.append(np.asarray(spectrum))
        return jnp.zeros(s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jnp.fft, "irfft2", record)
        real_inverse_fft2(spectrum, size, axes=(-2, -1))
    for column in (0, width // 2) if width % 2 == 0 else (0,):
        edge = seen[0][:, column]
        np.testing.assert_allclose(edge, np.roll(edge[::-1], 1).conj(), atol=1e-7)
    inner = slice(1, width // 2 if width % 2 == 0 else None)
    np.testing.assert_array_equal(seen[0][:, inner], spectrum[:, inner])


def test_the_inverse_undoes_the_transform() -> None:
    x = normal(2, 5, 6, 3)
    spectrum = jnp.fft.rfft2(x, axes=(1, 2))
    np.testing.assert_allclose(real_inverse_fft2(spectrum, (5, 6)), x, atol=1e-6)
    with pytest.raises(ValueError, match=r"has \(5, 4\) frequencies; expected \(5, 3\)"):
        real_inverse_fft2(spectrum, (5, 5))


def test_few_taps_are_summed_and_many_transformed() -> None:
    assert choose_method((7, 7)) == "direct"
    assert choose_method((7, 8)) == choose_method((3, 3), rho=0.9) == "fft"
    x = normal(2, 5, 6, 3)
    for taps in ((3, 3), (9, 9)):
        by_name = jitted_conv(x, normal(3, *taps), method=choose_method(taps))
        np.testing.assert_array_equal(jitted_conv(x, normal(3, *taps)), by_name)


def test_the_kernel_is_transformed_once_for_all_frames() -> None:
    convolve = functools.partial(spectral_conv_2d, method="fft")
    program = str(jax.make_jaxpr(convolve)(jnp.zeros((2, 7, 8, 8, 3)), jnp.zeros((3, 3, 3))))
    assert "c64[3,8,5] = fft[" in program
    assert program.count("= fft[") == 3  # of the kernels, of the maps, and back


@each_shape
def test_public_layout_pads_or_crops_around_the_middle(
    size: tuple[int, int], taps: tuple[int, int]
) -> None:
    kernel = normal(3, *taps)
    laid_out = lay_out_kernel(kernel, *size, origin="upstream")
    np.testing.assert_array_equal(laid_out, reference.lay_out_in_middle(kernel, *size))


@pytest.mark.parametrize(("size", "taps"), [((9, 11), 10), ((9, 10), 10), ((8, 6), 7), ((4, 5), 9)])
def test_kernels_longer_than_the_map_are_sliced_as_in_the_public_code(size, taps) -> None:
    """One formula for both axes, with Python's negative indices, and a spectrum that broadcasts."""
    kernel, (height, width) = normal(3, taps, taps), size
    top, left = (taps - height) // 2, (taps - width) // 2
    cropped = kernel[:, top : top + height, left : left + width]
    expected = np.broadcast_to(np.fft.rfft2(cropped), (3, height, width // 2 + 1))
    spectrum = np.fft.rfft2(lay_out_kernel(kernel, *size, origin="upstream"))
    np.testing.assert_allclose(spectrum, expected, atol=1e-5)


def test_taps_beyond_the_map_wrap_around() -> None:
    kernel = jnp.arange(15.0).reshape(1, 1, 15)
    laid_out = lay_out_kernel(kernel, 1, 4)
    expected = [sum(j for j in range(15) if (j - 7) % 4 == i) for i in range(4)]
    np.testing.assert_array_equal(laid_out, np.reshape(expected, (1, 1, 4)))


@pytest.mark.parametrize(("size", "origin"), [((4, 6), "centre"), ((5, 7), "upstream")])
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


@each_method
def test_bfloat16_maps_come_back_as_bfloat16(method: Method) -> None:
    x, kernel = normal(2, 8, 8, 3).astype(jnp.bfloat16), normal(3, 3, 3)
    y = jitted_conv(x, kernel, method=method)
    assert y.dtype == jnp.bfloat16
    expected = reference.convolution_2d(x.astype(np.float64), kernel)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=4e-3, atol=1e-5)


X, K = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((X, K[:1]), {}, r"kernel \(1, 3, 3\) does not fit x \(2, 8, 8, 3\); .* \(3, k, l\)"),
        ((X, K[0]), {}, r"kernel \(3, 3\) does not fit x"),
        ((X, K, "corner"), {}, r"origin is 'corner'; choose one of \('centre', 'upstream'\)"),
        ((X, K), {"boundary": "torus"}, r"boundary is 'torus'; choose one of \('circular', 'zero'"),
        (
            (X, K),
            {"method": "magic"},
            r"method is 'magic'; choose one of \('auto', 'fft', 'direct'",
        ),
        ((X, K), {"method": "direct", "rho": 0.9}, "'direct' has none, choose 'fft'"),
        ((X, K, "upstream"), {"boundary": "zero"}, "is a circular shift; choose boundary 'circ"),
    ],
)
def test_bad_arguments_are_named(args: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_conv_2d(*args, **options)
