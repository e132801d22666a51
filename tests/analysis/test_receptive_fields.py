"""Receptive fields of maps whose reach is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.analysis import field_radius, receptive_field, sample_along


def shifted(x, by):
    return jnp.roll(x, by, (-3, -2))


def test_the_field_holds_the_weights_of_a_linear_map():
    """Two channels: 3 times the pixel itself, and 4 times the one above, of the first colour."""

    def features(x):
        return jnp.concatenate([3 * x[..., :1], 4 * jnp.roll(x[..., :1], 1, -3)], -1)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 6, 3)), jnp.float32)
    field = np.asarray(receptive_field(features, x))
    expected = np.zeros((2, 6, 6))
    expected[:, 3, 3], expected[:, 2, 3] = 3.0, 4.0
    np.testing.assert_allclose(field, expected, atol=1e-6)
    moved = np.asarray(receptive_field(features, x, place=(0, 5)))
    np.testing.assert_allclose(moved, np.roll(expected, (-3, 2), (1, 2)), atol=1e-6)


def test_the_field_of_a_repeated_blur_grows_as_the_root_of_the_steps():
    """Frame s of T reaches the last state through T - 1 - s blurs, each of variance 1/2 a side."""
    steps, size = 5, 17

    def blur(x):
        for axis in (-3, -2):
            x = 0.5 * x + 0.25 * (jnp.roll(x, 1, axis) + jnp.roll(x, -1, axis))
        return x

    def features(frames):
        state = jnp.zeros_like(frames[:, 0])
        for t in range(steps):
            state = blur(state) + frames[:, t]
        return state

    x = jnp.zeros((1, steps, size, size, 1))
    field = np.asarray(jax.jit(lambda x: receptive_field(features, x))(x))[0]
    offset = np.arange(size) - size // 2
    variance = (field.sum(-1) * offset**2).sum(-1) / field.sum((-2, -1))
    np.testing.assert_allclose(variance, 0.5 * np.arange(steps)[::-1], atol=1e-5)
    radius = field_radius(field)
    assert radius[-1] == 0.0
    assert (np.diff(radius) <= 0).all() and radius[0] == 1.0


def test_the_radius_holds_the_share_that_was_asked_for():
    field = np.zeros((2, 5, 5))
    field[:, 2, 2], field[0, 2, 4], field[1, 0, 2] = 1.0, 1.0, 3.0
    np.testing.assert_allclose(field_radius(field), [0.0, 2.0])
    np.testing.assert_allclose(field_radius(field, share=1.0), 2.0)
    np.testing.assert_allclose(field_radius(field[0], centre=(2, 4)), 0.0)
    with pytest.raises(ValueError, match="share is 0"):
        field_radius(field, share=0)


def test_sampling_is_exact_for_a_tilted_plane_and_holds_the_edge():
    rows, columns = np.mgrid[:6, :8] + 0.5
    maps = np.stack([2 * rows - columns, np.ones((6, 8))])
    points = np.random.default_rng(0).uniform(0.1, 0.9, (20, 2))
    found = sample_along(maps, points)
    np.testing.assert_allclose(found[0], 2 * 6 * points[:, 0] - 8 * points[:, 1])
    np.testing.assert_allclose(found[1], 1.0)
    corner = sample_along(maps, np.array([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(corner[0], [maps[0, 0, 0], maps[0, -1, -1]])
    np.testing.assert_allclose(sample_along(np.full((1, 1), 3.0), points), 3.0)
