"""Convolution from all channels to all channels against the sum over taps and channels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import mixing_conv_2d, reference
from common.kernels.spectral import Boundary

BOUNDARIES: tuple[Boundary, ...] = ("circular", "zero")
each_boundary = pytest.mark.parametrize("boundary", BOUNDARIES)
jitted = jax.jit(mixing_conv_2d, static_argnames="boundary")


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def summed(x: np.ndarray, kernel: np.ndarray, boundary: Boundary) -> np.ndarray:
    per_output = [
        reference.convolution_2d(x, taps.transpose(2, 0, 1), boundary=boundary).sum(-1)
        for taps in np.moveaxis(kernel, -1, 0)
    ]
    return np.stack(per_output, -1)


@functools.partial(jax.jit, static_argnames="boundary")
def pull_back(x, kernel, weights, boundary):
    return jax.vjp(functools.partial(mixing_conv_2d, boundary=boundary), x, kernel)[1](weights)


@pytest.mark.parametrize(
    ("size", "taps"), [((7, 9), (3, 3)), ((3, 8), (4, 2)), ((3, 2), (7, 5)), ((1, 1), (3, 3))]
)
@each_boundary
def test_convolution_and_gradients_equal_the_sums(size, taps, boundary: Boundary) -> None:
    x, kernel, weights = normal(2, *size, 3), normal(*taps, 3, 2), normal(2, *size, 2)
    np.testing.assert_allclose(
        jitted(x, kernel, boundary=boundary), summed(x, kernel, boundary), atol=5e-5
    )
    d_x, d_kernel = pull_back(x, kernel, weights, boundary)
    for seed in range(3):  # linear in each argument: the slope is the convolution with a direction
        along_x, along_kernel = normal(*x.shape, seed=seed), normal(*kernel.shape, seed=seed)
        for slope, expected in (
            (np.vdot(d_x, along_x), summed(along_x, kernel, boundary)),
            (np.vdot(d_kernel, along_kernel), summed(x, along_kernel, boundary)),
        ):
            np.testing.assert_allclose(slope, np.vdot(weights, expected), atol=2e-3)


def test_layers_of_neural_networks_have_the_kernel_flipped() -> None:
    x, kernel = normal(2, 6, 5, 3), normal(3, 3, 3, 4)
    layer = jax.lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(jitted(x, kernel, boundary="zero"), layer, atol=2e-5)


@each_boundary
def test_leading_axes_and_dtypes(boundary: Boundary) -> None:
    x, kernel = normal(2, 3, 4, 5, 2), normal(3, 3, 2, 2)
    wide = jitted(x, kernel, boundary=boundary)
    np.testing.assert_allclose(wide[1, 2], jitted(x[1, 2], kernel, boundary=boundary), atol=2e-6)
    half = jitted(jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel), boundary=boundary)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), wide, atol=0.1)
    with jax.enable_x64(True):
        exact = mixing_conv_2d(x.astype(np.float64), kernel.astype(np.float64), boundary=boundary)
    assert exact.dtype == jnp.float64
    np.testing.assert_allclose(exact, summed(x, kernel, boundary), atol=1e-12)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3, 4, 2\) does not fit x \(1, 5, 5, 3\)"):
        mixing_conv_2d(jnp.zeros((1, 5, 5, 3)), jnp.zeros((3, 3, 4, 2)))
    with pytest.raises(ValueError, match="boundary"):
        mixing_conv_2d(jnp.zeros((1, 5, 5, 3)), jnp.zeros((3, 3, 3, 2)), boundary="open")  # type: ignore[arg-type]
