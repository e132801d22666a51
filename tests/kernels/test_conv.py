"""Correlation between all channels: values, its own gradient, and loops."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import correlate_2d


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def summed(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The definition, tap by tap, in float64."""
    rows, columns, _, channels = kernel.shape
    _, height, width, _ = x.shape
    y = np.zeros((*x.shape[:3], channels))
    for p in range(rows):
        for q in range(columns):
            down, right = p - rows // 2, q - columns // 2
            for i in range(max(0, -down), min(height, height - down)):
                for j in range(max(0, -right), min(width, width - right)):
                    y[:, i, j] += x[:, i + down, j + right].astype(np.float64) @ kernel[p, q]
    return y


@jax.jit
def run(x, kernel, weights):
    y, pull_back = jax.vjp(correlate_2d, x, kernel)
    return y, pull_back(weights)


@pytest.mark.parametrize(
    ("size", "taps"), [((7, 6), (3, 3)), ((4, 9), (5, 1)), ((2, 3), (7, 5)), ((1, 1), (3, 3))]
)
def test_values_and_gradients_equal_the_sum_over_taps(size, taps) -> None:
    x, kernel, weights = normal(3, *size, 2), normal(*taps, 2, 4), normal(3, *size, 4)
    y, (d_x, d_kernel) = run(x, kernel, weights)
    np.testing.assert_allclose(y, summed(x, kernel), atol=2e-5)
    for seed in range(3):  # linear in each argument: the slope is the correlation with a direction
        along_x, along_kernel = normal(*x.shape, seed=seed), normal(*kernel.shape, seed=seed)
        for slope, expected in (
            (np.vdot(d_x, along_x), summed(along_x, kernel)),
            (np.vdot(d_kernel, along_kernel), summed(x, along_kernel)),
        ):
            np.testing.assert_allclose(slope, np.vdot(weights, expected), atol=5e-4)


def test_under_vmap_remat_and_loops() -> None:
    x, kernel = normal(4, 2, 5, 6, 3), normal(3, 3, 3, 3)

    def loss(kernel, x):
        return jnp.sum(jnp.sin(correlate_2d(x, kernel)))

    whole = jax.jit(jax.grad(loss))(kernel, x.reshape(8, 5, 6, 3))
    mapped = jax.jit(lambda k, x: jax.vmap(jax.grad(loss), (None, 0))(k, x).sum(0))(kernel, x)

    def in_loop(kernel, x):
        return jax.lax.map(jax.checkpoint(functools.partial(loss, kernel)), x).sum()

    looped = jax.jit(jax.grad(in_loop))(kernel, x)
    np.testing.assert_allclose(mapped, whole, atol=2e-5)
    np.testing.assert_allclose(looped, whole, atol=2e-5)


def test_half_precision_sums_in_single() -> None:
    x, kernel, weights = normal(4, 16, 16, 3), normal(3, 3, 3, 2), normal(4, 16, 16, 2)
    half: list[Any] = [jnp.asarray(a, jnp.bfloat16) for a in (x, kernel, weights)]
    y, (d_x, d_kernel) = run(*half)
    assert {y.dtype, d_x.dtype, d_kernel.dtype} == {jnp.dtype(jnp.bfloat16)}
    single = [np.asarray(a.astype(jnp.float32)) for a in half]
    _, (_, expected) = run(*single)
    np.testing.assert_allclose(d_kernel.astype(jnp.float32), expected, rtol=2**-8, atol=0.2)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 3, 2\) has no centre; expected odd"):
        correlate_2d(jnp.zeros((1, 5, 5, 3)), jnp.zeros((2, 3, 3, 2)))
    with pytest.raises(ValueError, match=r"\(3, 3, 4, 2\) does not fit x \(1, 5, 5, 3\)"):
        correlate_2d(jnp.zeros((1, 5, 5, 3)), jnp.zeros((3, 3, 4, 2)))
