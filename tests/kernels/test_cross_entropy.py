"""Cross-entropy over a table against its definition in float64, whole and in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.kernels import cross_entropy, linear_cross_entropy
from tests.compilation import optimised_jit


def draw(lead=(3,), steps=6, width=4, classes=10, dtype=np.float32):
    rng = np.random.default_rng(0)
    features = (2.0 * rng.normal(size=(*lead, steps, width))).astype(dtype)
    table = rng.normal(size=(classes, width)).astype(np.float32)
    labels = rng.integers(classes, size=(*lead, steps))
    weights = rng.random((*lead, steps)).astype(np.float32)
    return features, table, labels, weights


def definition(features, table, labels, weights):
    """Losses, hits, and the total's gradients, in float64."""
    x, w = features.astype(np.float64), table.astype(np.float64)
    logits = x @ w.T
    shifted = logits - logits.max(-1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    one_hot = np.eye(len(w))[labels]
    losses = np.log(np.exp(shifted).sum(-1)) - (shifted * one_hot).sum(-1)
    gradient = (p - one_hot) * weights[..., None]
    of_table = np.tensordot(gradient, x, [range(labels.ndim)] * 2)
    return losses, logits.argmax(-1) == labels, gradient @ w, of_table


@pytest.fixture(params=[2**26, 60, 1], ids=["whole", "pieces", "step_by_step"])
def chunks(request, monkeypatch):
    """Holds all logits at a time, those of two steps, or those of one."""
    monkeypatch.setattr(cross_entropy, "LARGEST_CHUNK", request.param)


@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
def test_equals_the_definition(chunks, lead):
    given = draw(lead)
    losses, correct, of_features, of_table = definition(*given)
    found = linear_cross_entropy(*map(jnp.asarray, given))
    np.testing.assert_allclose(found.losses, losses, atol=2e-6)
    np.testing.assert_array_equal(found.correct, correct)
    np.testing.assert_allclose(found.total, (losses * given[3]).sum(), rtol=2e-6)

    def total(features, table):
        result = linear_cross_entropy(features, table, *map(jnp.asarray, given[2:]))
        return 3.0 * result.total, result

    (value, result), gradients = optimised_jit(
        jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    )(*given[:2])
    np.testing.assert_allclose(value, 3.0 * (losses * given[3]).sum(), rtol=2e-6)
    np.testing.assert_allclose(result.losses, losses, atol=2e-6)
    np.testing.assert_array_equal(result.correct, correct)
    np.testing.assert_allclose(gradients[0], 3.0 * of_features, atol=1e-5)
    np.testing.assert_allclose(gradients[1], 3.0 * of_table, atol=2e-5)


def test_half_precision_sums_in_float32(chunks):
    features, table, labels, weights = draw()
    half = jnp.asarray(features, jnp.bfloat16)
    narrow = np.asarray(jnp.asarray(table, jnp.bfloat16), np.float32)
    losses, *_ = definition(np.asarray(half, np.float32), narrow, labels, weights)
    found = linear_cross_entropy(half, jnp.asarray(table), labels, jnp.asarray(weights))
    assert found.losses.dtype == jnp.float32
    np.testing.assert_allclose(found.losses, losses, atol=2e-5)
    gradients = jax.grad(
        lambda x, w: linear_cross_entropy(x, w, labels, jnp.asarray(weights)).total, (0, 1)
    )(half, jnp.asarray(table))
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32]


def test_large_logits_do_not_overflow():
    features, table, labels, weights = draw()
    losses, *_ = definition(1e4 * features, table, labels, weights)
    found = linear_cross_entropy(
        jnp.asarray(1e4 * features), jnp.asarray(table), labels, jnp.asarray(weights)
    )
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5, atol=0.05)


def test_a_model_that_tells_nothing_apart_is_never_right():
    features, table, labels, weights = draw()
    found = linear_cross_entropy(
        jnp.zeros_like(features), jnp.asarray(table), labels, jnp.asarray(weights)
    )
    assert not found.correct.any()
    np.testing.assert_allclose(found.losses, np.log(10), rtol=1e-6)


def test_agrees_with_optax_and_shows_no_other_gradient():
    features, table, labels, weights = map(jnp.asarray, draw())
    plain = optax.softmax_cross_entropy_with_integer_labels(features @ table.T, labels)
    np.testing.assert_allclose(
        linear_cross_entropy(features, table, labels, weights).losses, plain, atol=2e-6
    )
    of_losses = jax.grad(lambda x: linear_cross_entropy(x, table, labels, weights).losses.sum())(
        features
    )
    assert not of_losses.any()


@pytest.mark.parametrize("wrong", [0, 1, 2, 3])
def test_shapes_that_do_not_fit_are_refused(wrong):
    given = list(map(jnp.asarray, draw()))
    given[wrong] = given[wrong][..., :-1]
    with pytest.raises(ValueError, match=r"do not fit; expected \(\*b, t, d\), \(v, d\)"):
        linear_cross_entropy(*given)
