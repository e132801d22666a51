"""The exact GELU against its definition in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import exact_gelu
from tests.compilation import optimised_jit

POINTS = np.concatenate([np.linspace(-9.0, 9.0, 181), [-40.0, 40.0, 1e-6]])


def definition(x):
    """Value, first and second derivative."""
    below = np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x])
    density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return x * below, below + x * density, (2.0 - x * x) * density


def test_value_and_derivatives():
    value, first, second = definition(POINTS)
    x = jnp.asarray(POINTS, jnp.float32)
    slope = jax.grad(exact_gelu)
    np.testing.assert_allclose(optimised_jit(exact_gelu)(x), value, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(slope)(x), first, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(slope))(x), second, atol=1e-6)
    forward = jax.jvp(exact_gelu, (x,), (2.0 * jnp.ones_like(x),))
    np.testing.assert_allclose(forward[1], 2.0 * first, atol=2e-6)


@pytest.mark.parametrize(("dtype", "digits"), [(jnp.bfloat16, 8), (jnp.float16, 11)])
def test_half_precision_is_rounded_once(dtype, digits):
    x = jnp.asarray(POINTS, dtype)
    value, first, _ = definition(np.asarray(x, np.float64))
    found, slope = exact_gelu(x), jax.vmap(jax.grad(exact_gelu))(x)
    assert found.dtype == slope.dtype == dtype
    for half, exact in ((found, value), (slope, first)):
        np.testing.assert_allclose(
            np.asarray(half, np.float64), exact, rtol=1.01 * 2.0**-digits, atol=1e-6
        )
