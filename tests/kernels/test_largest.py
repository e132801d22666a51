"""The largest of many numbers, and where its gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import larger, largest


@pytest.mark.parametrize("axes", [(1,), (0, 2), (-3, -1), (0, 1, 2)])
def test_it_is_the_maximum_and_its_gradient_goes_where_that_is(axes):
    x = jax.random.normal(jax.random.key(0), (3, 4, 5))
    np.testing.assert_array_equal(largest(x, axes), np.max(np.asarray(x), axes))
    weights = jax.random.normal(jax.random.key(1), largest(x, axes).shape)
    gradient = jax.jit(jax.grad(lambda x: (weights * largest(x, axes)).sum()))(x)
    here = np.asarray(x) == np.max(np.asarray(x), axes, keepdims=True)
    spread = np.expand_dims(weights, tuple(axis % 3 for axis in axes))
    np.testing.assert_array_equal(gradient, np.where(here, spread, 0))


def test_the_first_of_equals_has_the_gradient_and_infinity_harms_nothing():
    x = jnp.array([[1.0, 2.0, 2.0, -jnp.inf]])
    np.testing.assert_array_equal(jax.grad(lambda x: largest(x, (1,))[0])(x), [[0, 1, 0, 0]])
    assert largest(x, (1,))[0] == 2.0


def test_the_larger_of_two_has_the_gradient_and_no_nan_is_lost():
    x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 2.0, 1.0])
    np.testing.assert_array_equal(larger(x, y), [2, 2, 3])
    d_x, d_y = jax.grad(lambda *pair: larger(*pair).sum(), (0, 1))(x, y)
    np.testing.assert_array_equal(d_x, [0, 1, 1])
    np.testing.assert_array_equal(d_y, [1, 0, 0])
    bad = jnp.full((1,), jnp.nan)
    assert np.isnan(larger(bad, x[:1])).all()
    assert np.isnan(larger(x[:1], bad)).all()
