"""Softmax: values and gradients against float64, extremes, and the function of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import softmax
from tests.compilation import optimised_jit


def draw(shape, seed):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def definition(x):
    """Values and the matrix of derivatives of one row, in float64."""
    y = np.array([1.0 / sum(np.exp(other - number) for other in x) for number in x])
    return y, np.diag(y) - np.outer(y, y)


@optimised_jit
def run(x, weight):
    y, pullback = jax.vjp(softmax, x)
    return y, pullback(weight)[0]


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 1), (3, 7), (2, 3, 4, 33)])
def test_values_and_gradients_equal_the_definition(shape):
    x, weight = 3.0 * draw(shape, 0), draw(shape, 1)
    y, gradient = run(np.float32(x), np.float32(weight))
    for place in np.ndindex(shape[:-1]):
        values, derivatives = definition(x[place])
        np.testing.assert_allclose(y[place], values, atol=1e-6)
        np.testing.assert_allclose(gradient[place], derivatives @ weight[place], atol=2e-6)


def test_large_and_hidden_numbers_stay_finite():
    x = jnp.array([[1e4, 1e4, -1e30], [-1e30, -1e30, -1e30], [-jnp.inf, 2.0, -jnp.inf]])
    y, gradient = run(x, jnp.array([[1.0, 2.0, 3.0]] * 3))
    np.testing.assert_allclose(y, [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1, 0]], atol=1e-6)
    expected = [[-0.25, 0.25, 0], [-1 / 3, 0, 1 / 3], [0, 0, 0]]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_under_vmap_remat_and_loops():
    x, weight = (jnp.asarray(draw((4, 3, 6), seed), jnp.float32) for seed in (0, 1))

    def loss(function, x, weight):
        return jnp.sum(weight * jnp.sin(function(x)))

    expected = jax.grad(lambda x: loss(jax.nn.softmax, x, weight))(x)
    mapped = jax.vmap(jax.grad(lambda x, w: loss(softmax, x, w)))(x, weight)
    looped = optimised_jit(
        jax.grad(
            lambda x: jax.lax.map(
                lambda part: jax.checkpoint(lambda x, w: loss(softmax, x, w))(*part), (x, weight)
            ).sum()
        )
    )(x)
    np.testing.assert_allclose(mapped, expected, atol=1e-6)
    np.testing.assert_allclose(looped, expected, atol=1e-6)


def test_second_derivatives_are_those_of_jax():
    x, weight, along = (jnp.asarray(draw((2, 5), seed), jnp.float32) for seed in range(3))

    def slope(function):
        return jax.grad(lambda x: jnp.vdot(weight, function(x)))

    own, expected = slope(softmax), slope(jax.nn.softmax)
    reverse = jax.grad(lambda x: jnp.vdot(along, own(x)))(x)
    forward = jax.jvp(own, (x,), (along,))[1]
    wanted = jax.jvp(expected, (x,), (along,))[1]
    np.testing.assert_allclose(reverse, wanted, atol=1e-6)
    np.testing.assert_allclose(forward, wanted, atol=1e-6)
