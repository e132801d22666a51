"""Attention against its definition in NumPy, written as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from common.analysis import capture
from common.nn import DotProductAttention, attend, attention_weights, average_values

SHAPES = {  # lead, queries, keys, heads, groups, width
    "plain": ((2,), 5, 5, 3, 3, 4),
    "cross": ((2,), 4, 7, 2, 2, 3),
    "grouped": ((2,), 5, 6, 6, 2, 4),
    "one_key_head": ((1,), 3, 3, 4, 1, 2),
    "no_lead": ((), 4, 4, 2, 2, 8),
    "two_leads": ((2, 3), 3, 3, 2, 1, 2),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def draw(shape, seed=0):
    lead, queries, keys, heads, groups, width = shape
    rng = np.random.default_rng(seed)
    sizes = ((queries, heads), (keys, groups), (keys, groups))
    q, k, v = (rng.normal(size=(*lead, *size, width)).astype(np.float32) for size in sizes)
    mask = rng.random((*lead, heads, queries, keys)) < 0.7
    mask[..., 0] = True  # no query without a key
    return q, k, v, mask


def definition(q, k, v, mask, scale):
    """Weights and averages in float64, head by head and query by query."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    *lead, queries, heads, width = q.shape
    weights, out = np.zeros((*lead, heads, queries, k.shape[-3])), np.zeros(q.shape)
    for place in np.ndindex(*lead, queries, heads):
        *b, i, n = place
        group = n // (heads // k.shape[-2])
        scores = k[(*b, slice(None), group)] @ q[place] * (width**-0.5 if scale is None else scale)
        scores[~mask[(*b, n, i)]] = -np.inf
        row = np.exp(scores - scores.max())
        weights[(*b, n, i)] = row / row.sum()
        out[place] = weights[(*b, n, i)] @ v[(*b, slice(None), group)]
    return weights, out


@each_shape
@pytest.mark.parametrize("scale", [None, 0.3])
def test_equals_the_definition(shape, scale):
    q, k, v, mask = draw(shape)
    weights, out = definition(q, k, v, mask, scale)
    got = attention_weights(q, k, jnp.asarray(mask), scale=scale)
    np.testing.assert_allclose(got, weights, atol=2e-6)
    np.testing.assert_allclose(average_values(got, jnp.asarray(v)), out, atol=5e-6)
    np.testing.assert_allclose(attend(q, k, v, jnp.asarray(mask), scale=scale), out, atol=5e-6)


@each_shape
def test_causal_is_a_triangular_mask(shape):
    q, k, v, mask = draw(shape)
    both = mask & np.tri(*mask.shape[-2:], dtype=bool)
    _, out = definition(q, k, v, both, None)
    np.testing.assert_allclose(attend(q, k, v, jnp.asarray(mask), causal=True), out, atol=5e-6)
    weights = attention_weights(q, k, jnp.asarray(mask), causal=True)
    assert not np.asarray(weights)[~both].any()


def test_a_mask_may_be_one_row_for_all():
    q, k, v, mask = draw(SHAPES["plain"])
    row = mask[:, :1, :1]
    _, out = definition(q, k, v, np.broadcast_to(row, mask.shape), None)
    np.testing.assert_allclose(attend(q, k, v, jnp.asarray(row)), out, atol=5e-6)
    weights = attention_weights(q, k, jnp.asarray(row))
    np.testing.assert_allclose(average_values(weights, jnp.asarray(v)), out, atol=5e-6)


def test_a_query_that_sees_nothing_gets_the_mean():
    q, k, v, _ = draw(SHAPES["plain"])
    mask = jnp.zeros((2, 1, 5, 5), bool)
    mean = np.broadcast_to(v.mean(1, keepdims=True), q.shape)
    np.testing.assert_allclose(attend(q, k, v, mask), mean, atol=1e-5)
    np.testing.assert_allclose(attention_weights(q, k, mask), 0.2, atol=1e-6)


@pytest.mark.parametrize("name", ["cross", "grouped"])
def test_gradients_agree_with_the_weights(name):
    q, k, v, mask = draw(SHAPES[name])
    weight = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)

    def by_weights(q, k, v):
        return average_values(attention_weights(q, k, jnp.asarray(mask)), v)

    def direct(q, k, v):
        return attend(q, k, v, jnp.asarray(mask))

    found, expected = (
        jax.jit(jax.grad(lambda *x, f=f: (f(*x) * weight).sum(), (0, 1, 2)))(q, k, v)
        for f in (direct, by_weights)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_softmaxed_in_float32(dtype):
    q, k, v, mask = draw(SHAPES["plain"])
    half = [jnp.asarray(x, dtype) for x in (q, k, v)]
    weights, out = definition(*(np.asarray(x, np.float32) for x in half), mask, None)
    got = attention_weights(*half[:2], jnp.asarray(mask))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, weights, atol=2e-6)
    result = attend(*half, jnp.asarray(mask))
    assert result.dtype == dtype
    np.testing.assert_allclose(np.asarray(result, np.float32), out, atol=0.02)


class Layer(nn.Module):
    """Attends from x to itself."""

    @nn.compact
    def __call__(self, x):
        return DotProductAttention(name="attention")(x, x, x, causal=True)


def test_the_layer_shows_its_weights_when_one_looks():
    q, *_ = draw(SHAPES["plain"])
    plain = Layer().apply({}, q)
    looked, sown = capture(Layer(), {}, jnp.asarray(q))
    np.testing.assert_allclose(looked, plain, atol=2e-6)
    np.testing.assert_allclose(
        sown["attention/weights"], attention_weights(q, q, causal=True), atol=1e-7
    )


def test_the_plain_call_keeps_no_weights():
    q, *_ = draw(SHAPES["plain"])
    _, sown = Layer().apply({}, q, mutable=["other"])
    assert not sown
