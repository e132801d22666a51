import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.analysis import (
    input_gradient,
    integrated_gradients,
    mean_magnitude,
    parameter_gradients,
    spatial_attribution,
    temporal_attribution,
)


@pytest.fixture(scope="module")
def case():
    """A smooth recurrence over three frames; the target classes differ."""
    into, again, out = (
        0.5 * jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate([(48, 6), (6, 6), (6, 2)])
    )

    def apply(frames):
        state = jnp.zeros((len(frames), 6))
        for t in range(3):
            state = jnp.tanh(frames[:, t].reshape(len(frames), -1) @ into + state @ again)
        return state @ out

    frames = 0.3 * jax.random.normal(jax.random.key(3), (2, 3, 4, 4, 3))
    return jax.jit(apply), frames, jnp.array([1, 0])


def test_against_finite_differences(case):
    apply, frames, target = case
    direction = jnp.sign(input_gradient(apply, frames, target))
    attribution = temporal_attribution(apply, frames, target)
    epsilon = 3e-3
    assert attribution.shape == (2, 3)
    for t in range(3):
        step = jnp.zeros_like(frames).at[:, t].set(epsilon * direction[:, t])
        change = apply(frames + step) - apply(frames - step)
        slope = jnp.take_along_axis(change, target[:, None], 1)[:, 0] / (2 * epsilon)
        np.testing.assert_allclose(attribution[:, t], slope, rtol=0.01)


def test_sums_agree(case):
    apply, frames, target = case
    gradient = input_gradient(apply, frames, target)
    spatial = spatial_attribution(apply, frames, target)
    assert spatial.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(spatial, np.abs(gradient).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(
        temporal_attribution(apply, frames, target), spatial.sum((-2, -1)), rtol=1e-5
    )


def test_a_linear_model_returns_its_weights():
    weights = jax.random.normal(jax.random.key(2), (4, 2, 2, 3, 5))
    frames = jnp.zeros((2, 4, 2, 2, 3))
    target = jnp.array([4, 1])
    spatial = spatial_attribution(
        lambda x: jnp.einsum("bthwc,thwck->bk", x, weights), frames, target
    )
    expected = np.abs(np.moveaxis(np.asarray(weights), -1, 0)[[4, 1]]).sum(-1)
    np.testing.assert_allclose(spatial, expected, rtol=1e-5)


def test_integrated_gradients_of_polynomials_are_exact():
    """Of x^2 y along the line from (a, b): the integral by hand, as a cubic in the position."""

    def apply(z):
        return jnp.stack([z[:, 0] ** 2 * z[:, 1], z.sum(-1)], -1)

    z, start = jnp.array([[2.0, 3.0], [-1.0, 0.5]]), jnp.array([[0.5, -1.0], [0.0, 1.0]])
    positions = (np.arange(20_000) + 0.5) / 20_000
    for steps, exact in ((2, True), (1, False)):
        ours = integrated_gradients(apply, z, jnp.array([0, 0]), start, steps)
        for example in range(2):
            way = np.asarray(z - start)[example]
            path = np.asarray(start)[example] + positions[:, None] * way
            slope = np.stack([2 * path[:, 0] * path[:, 1], path[:, 0] ** 2], -1)
            expected = way * slope.mean(0)
            assert np.allclose(ours.values[example], expected, atol=1e-5) is exact
        assert bool(np.abs(ours.error).max() < 1e-5) is exact


def test_integrated_gradients_add_up_to_the_change(case):
    apply, frames, target = case
    baseline = 0.1 * jnp.ones_like(frames)
    ours = integrated_gradients(apply, frames, target, baseline, 16)
    rows = jnp.arange(2)
    change = apply(frames)[rows, target] - apply(baseline)[rows, target]
    np.testing.assert_allclose(ours.change, change, atol=1e-6)
    np.testing.assert_allclose(ours.values.sum((1, 2, 3, 4)), change, atol=1e-5)
    np.testing.assert_allclose(ours.error, 0.0, atol=1e-5)
    assert np.abs(change).min() > 0.01
    with pytest.raises(ValueError, match="steps is 0; expected 1 or more"):
        integrated_gradients(apply, frames, target, steps=0)


def test_parameter_gradients_of_a_linear_model_are_its_inputs():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3)).astype(np.float32)
    target = np.array([0, 1, 1, 0])
    params = {"w": rng.standard_normal((3, 2)).astype(np.float32), "b": np.zeros(2, np.float32)}
    found = parameter_gradients(lambda p, x: x @ p["w"] + p["b"][None], params, x, target)
    chosen = np.eye(2)[target]
    np.testing.assert_allclose(found["w"], x[:, :, None] * chosen[:, None], rtol=1e-6)
    np.testing.assert_allclose(found["b"], chosen)
    expected = (np.abs(x).sum(1) + 1) / 8
    np.testing.assert_allclose(mean_magnitude(found), expected, rtol=1e-6)
