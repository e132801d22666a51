"""Disentangled attention against its definition, and against the plain forms it contains."""

import functools

import jax
import numpy as np
import pytest

from common.injection import DisentangledAttention
from common.nn import attend
from tests.injection.draws import float64, noisy, normal, require_finite_gradients, softmax

X, VISION = normal(0, 2, 6, 8), normal(1, 2, 5, 3)
VISIBLE = np.random.default_rng(0).random((2, 6, 5)) < 0.6
MODULE = DisentangledAttention(heads=2, span=3)


@functools.cache
def made():
    return noisy(MODULE, X, VISION), jax.jit(MODULE.apply)


def heads(x, kernel):
    return (x @ kernel).reshape(*x.shape[:-1], 2, 4)


def definition(p, visible):
    """Token by token in float64."""
    k = {name: p[name]["kernel"] for name in p if name != "positions"}
    q, key, v = (heads(X, k[name]) for name in ("query", "key", "value"))
    vq = heads(X, k["vision_query"])
    vk, vv = heads(VISION, k["vision_key"]), heads(VISION, k["vision_value"])
    pq, pk = heads(p["positions"], k["position_query"]), heads(p["positions"], k["position_key"])
    out = np.zeros((2, 6, 2, 4))
    for b, i, h in np.ndindex(2, 6, 2):
        text = [
            (q[b, i, h] @ key[b, j, h] + q[b, i, h] @ pk[d, h] + pq[d, h] @ key[b, j, h]) / 12**0.5
            for j in range(i + 1)
            for d in [min(i - j, 3)]
        ]
        seen = [s for s in range(5) if visible[b, i, s]]
        scores = np.array(text + [vq[b, i, h] @ vk[b, s, h] / 2 for s in seen])
        out[b, i, h] = softmax(scores) @ np.concatenate([v[b, : i + 1, h], vv[b, seen, h]])
    return out.reshape(2, 6, 8) @ k["out"]


def test_equals_its_definition():
    variables, run = made()
    p = float64(variables["params"])
    np.testing.assert_allclose(
        run(variables, X, VISION, VISIBLE), definition(p, VISIBLE), atol=1e-5
    )
    everything = np.ones_like(VISIBLE)
    np.testing.assert_allclose(run(variables, X, VISION), definition(p, everything), atol=1e-5)


def without(params, *names):
    return {"params": params | {n: jax.tree.map(np.zeros_like, params[n]) for n in names}}


def plain(p):
    """Causal attention of the text to itself, by the same projections."""
    q, k, v = (heads(X, p[name]["kernel"]) for name in ("query", "key", "value"))
    out = attend(q, k, v, causal=True, scale=12**-0.5)
    return out.reshape(2, 6, 8) @ p["out"]["kernel"]


def test_without_positions_and_images_it_is_plain_causal_attention():
    variables, run = made()
    bare = without(variables["params"], "positions")
    nothing = np.zeros_like(VISIBLE)
    found = run(bare, X, VISION, nothing)
    np.testing.assert_allclose(found, plain(variables["params"]), atol=1e-5)
    assert np.abs(found - run(variables, X, VISION, nothing)).max() > 1e-2, "positions count"
    assert np.abs(found - run(bare, X, VISION, VISIBLE)).max() > 1e-2, "the image counts"


@pytest.mark.parametrize(
    ("zeroed", "term"),
    [
        ("query", "content"),
        ("position_key", "content_position"),
        ("position_query", "position_content"),
        ("vision_query", "vision"),
    ],
)
def test_each_term_has_projections_of_its_own(zeroed, term):
    variables, _ = made()

    @jax.jit
    def terms(variables):
        _, sown = MODULE.apply(variables, X, VISION, mutable=["intermediates"])
        return sown["intermediates"]

    before, after = terms(variables), terms(without(variables["params"], zeroed))
    gone = {term} | ({"content_position"} if zeroed == "query" else set())
    for name in ("content", "content_position", "position_content", "vision"):
        if name in gone:
            assert np.abs(before[name][0]).max() > 0.1
            assert not np.any(after[name][0])
        else:
            np.testing.assert_array_equal(after[name][0], before[name][0])


def test_no_token_sees_a_later_one():
    variables, _ = made()
    weigh = normal(3, 1, 1, 8)

    def out(x):
        return (MODULE.apply(variables, x, VISION[:1]) * weigh).sum(-1)[0]

    moved = np.abs(np.asarray(jax.jit(jax.jacrev(out))(X[:1]))).max((1, 3)) > 0
    np.testing.assert_array_equal(moved, np.tri(6, dtype=bool))


def test_weights_add_up_and_parameters_learn():
    variables, _ = made()
    weights = jax.jit(lambda: MODULE.apply(variables, X, VISION, mutable=["intermediates"])[1])()
    rows = weights["intermediates"]["weights"][0]
    assert rows.shape == (2, 2, 6, 6 + 5)
    np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-5)
    require_finite_gradients(MODULE, variables, X, VISION, VISIBLE)


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="8 channels do not divide into 3 heads"):
        jax.eval_shape(DisentangledAttention(3, 2).init, jax.random.key(0), X, VISION)
