"""Layer norm: values and gradients against float64, extremes, and the layer of Flax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from common.kernels import layer_norm
from common.nn import LayerNorm
from tests.compilation import optimised_jit


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def normalized(x: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    centred = x - x.mean(-1, keepdims=True)
    return scale * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) + offset


@optimised_jit
def run(x, scale, offset, weights):
    y, pullback = jax.vjp(layer_norm, x, scale, offset)
    return y, pullback(weights)


@pytest.mark.parametrize("shape", [(5,), (1, 1), (3, 7), (2, 3, 4, 16)])
def test_values_and_slopes(shape: tuple[int, ...]) -> None:
    arguments = [normal(*shape) + 0.5, normal(shape[-1], seed=1), normal(shape[-1], seed=2)]
    weights = normal(*shape, seed=3)
    y, gradients = run(*(np.float32(a) for a in (*arguments, weights)))
    np.testing.assert_allclose(y, normalized(*arguments), atol=5e-6)
    for i, (argument, slope) in enumerate(zip(arguments, gradients, strict=True)):
        direction = normal(*argument.shape, seed=4 + i)
        ahead, behind = (
            np.vdot(weights, normalized(*arguments[:i], argument + step, *arguments[i + 1 :]))
            for step in (1e-6 * direction, -1e-6 * direction)
        )
        np.testing.assert_allclose(np.vdot(slope, direction), (ahead - behind) / 2e-6, atol=2e-4)


def test_equal_channels_give_the_offset_and_finite_slopes() -> None:
    x, scale, offset = jnp.full((2, 8), 3.0), jnp.ones(8), jnp.arange(8.0)
    y, gradients = run(x, scale, offset, jnp.ones((2, 8)))
    np.testing.assert_allclose(y, np.broadcast_to(offset, (2, 8)), atol=1e-3)
    assert all(np.isfinite(g).all() for g in gradients)


def test_layer_is_that_of_flax() -> None:
    x = jnp.asarray(normal(4, 9), jnp.float32)
    for dtype, tolerance in ((jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)):
        theirs, ours = nn.LayerNorm(dtype=dtype), LayerNorm(dtype=dtype)
        variables = ours.init(jax.random.key(0), x)
        assert jax.tree.structure(variables) == jax.tree.structure(
            theirs.init(jax.random.key(0), x)
        )
        y = ours.apply(variables, x.astype(dtype))
        assert isinstance(y, jax.Array) and y.dtype == dtype
        expected = theirs.apply(variables, x.astype(dtype))
        np.testing.assert_allclose(np.float32(y), np.float32(expected), atol=tolerance)


def test_under_vmap_remat_and_loops() -> None:
    x, scale, offset = (np.float32(normal(*s)) for s in ((4, 3, 6), (6,), (6,)))

    def loss(scale, x):
        return jnp.sum(jnp.sin(layer_norm(x, scale, offset)))

    whole = optimised_jit(jax.grad(loss))(scale, x)
    mapped = optimised_jit(jax.vmap(jax.grad(loss), (None, 0)))(scale, x).sum(0)
    looped = optimised_jit(
        jax.grad(lambda s: jax.lax.map(lambda m: jax.checkpoint(loss)(s, m), x).sum())
    )(scale)
    np.testing.assert_allclose(mapped, whole, atol=1e-5)
    np.testing.assert_allclose(looped, whole, atol=1e-5)
