"""Resampling and gated cross-attention: order, gates at rest, and which token may see which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.analysis import capture
from common.injection import (
    GatedMLP,
    MultiHeadAttention,
    gated_cross_attention,
    latest_image_mask,
    perceiver_resampler,
    tile_mask,
    tile_tag_mask,
)
from tests.injection.draws import float64, fresh, noisy, normal, require_finite_gradients, softmax


def test_grouped_attention_by_definition():
    """Four heads, two groups of keys and values, a mask, no norms."""
    module = MultiHeadAttention(heads=4, head_width=3, groups=2)
    x, z = normal(0, 2, 3, 5), normal(1, 2, 7, 6)
    mask = np.random.default_rng(0).random((2, 3, 7)) < 0.6
    mask[..., 0] = True
    variables = noisy(module, x, z)
    p = {name: part["kernel"] for name, part in float64(variables["params"]).items()}
    q = (x @ p["query"]).reshape(2, 3, 4, 3)
    k, v = ((z @ p[name]).reshape(2, 7, 2, 3) for name in ("key", "value"))
    heads = []
    for head in range(4):
        scores = np.einsum("bqd,bsd->bqs", q[:, :, head], k[:, :, head // 2]) / 3**0.5
        weights = softmax(np.where(mask, scores, -np.inf))
        heads.append(weights @ v[:, :, head // 2])
    expected = np.concatenate(heads, -1) @ p["out"]
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x, z, mask), expected, atol=1e-5)


def test_gated_mlp_by_definition():
    module, x = GatedMLP(4, activation=jnp.tanh), normal(0, 2, 3)
    variables = noisy(module, x)
    p = {name: part["kernel"] for name, part in float64(variables["params"]).items()}
    expected = (np.tanh(x @ p["gate"]) * (x @ p["up"])) @ p["down"]
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


def test_groups_that_do_not_divide_the_heads_are_refused():
    with pytest.raises(ValueError, match="4 heads; expected a multiple of 3 groups"):
        MultiHeadAttention(4, 2, 3)


def resampler(**options):
    return perceiver_resampler(4, depth=1, heads=2, head_width=3, hidden=7, **options)


def test_a_resampler_does_not_care_for_the_order_of_features():
    module, features = resampler(), normal(0, 2, 9, 5)
    variables = noisy(module, features)
    order = np.random.default_rng(0).permutation(9)
    look = jax.jit(lambda v, f: capture(module, v, f))
    out, sown = look(variables, features)
    again, _ = look(variables, features[:, order])
    np.testing.assert_allclose(again, out, atol=1e-5)
    assert out.shape == (2, 4, 5)
    weights = sown["blocks_0/attention/attention/weights"]
    assert weights.shape == (2, 2, 4, 9 + 4), "latents see the features and themselves"
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    require_finite_gradients(module, variables, features)


def test_a_resampler_takes_any_number_of_features():
    module = resampler(qk_norms=False)
    variables = noisy(module, normal(0, 1, 3, 5))
    for count in (1, 2, 8):
        shape = jax.eval_shape(module.apply, variables, normal(0, 1, count, 5)).shape
        assert shape == (1, 4, 5)


def gated(**options):
    return gated_cross_attention(heads=2, head_width=3, hidden=7, **options)


X, VISION = normal(0, 2, 4, 6), normal(1, 2, 9, 5)
VISIBLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
VISIBLE = np.stack([VISIBLE, VISIBLE[::-1]])


@pytest.mark.parametrize("shape", [(), (1, 1, 6)])
def test_a_gated_layer_begins_as_the_identity_and_learns(shape):
    module = gated(gate_shape=shape)
    variables = noisy(module, X, VISION)
    gates = {name: jnp.zeros(shape) for name in ("attention_gate", "mlp_gate")}
    start = fresh(module, X, VISION)["params"]
    assert all(np.array_equal(start[name], gate) for name, gate in gates.items())

    def out(gates):
        return module.apply({"params": variables["params"] | gates}, X, VISION)

    np.testing.assert_array_equal(jax.jit(out)(gates), X)
    gradients = jax.jit(jax.grad(lambda gates: (out(gates) * normal(2, 2, 4, 6)).sum()))(gates)
    assert all(np.abs(gradient).max() > 1e-3 for gradient in gradients.values())
    assert all(gradient.shape == shape for gradient in gradients.values())


def test_a_text_token_sees_what_it_may_and_nothing_else():
    """By gradient; where a token may see nothing it does not depend on the image."""
    module, visible = gated(), tile_mask(VISIBLE, 3)
    variables = noisy(module, X, VISION)

    def out(vision):
        return (module.apply(variables, X, vision, visible) * normal(2, 1, 1, 6)).sum(-1)

    moved = np.abs(np.asarray(jax.jit(jax.jacrev(out))(VISION))).max(-1) > 0  # (b, t, b, s)
    for b in range(2):
        np.testing.assert_array_equal(moved[b, :, b], visible[b])
        assert not moved[b, :, 1 - b].any()
    require_finite_gradients(module, variables, X, VISION, visible)


def test_a_text_token_that_sees_nothing_is_unchanged_but_for_the_mlp():
    module, visible = gated(), np.zeros((2, 4, 9), bool)
    params = noisy(module, X, VISION)["params"] | {"mlp_gate": jnp.zeros(1)}
    run = jax.jit(lambda visible: module.apply({"params": params}, X, VISION, visible))
    np.testing.assert_array_equal(run(visible), X)
    assert np.abs(run(~visible) - X).max() > 0.1


def test_tiles_are_spread_over_their_tokens():
    table = np.array([[[1, 0], [0, 1], [0, 0]]])
    expected = [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0] * 6]
    np.testing.assert_array_equal(tile_mask(table, 3)[0], np.array(expected, bool))


def test_a_tag_sees_its_tile_and_text_the_tiles_before_it():
    tokens = np.array([[5, 90, 6, 92, 7, 91, 93]])  # <tile_0> is 90; 93 is a word beyond the tags
    expected = [[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1]]
    found = jax.jit(tile_tag_mask, static_argnums=(1, 2, 3))(tokens, 90, 3, 2)
    np.testing.assert_array_equal(found[0], np.repeat(np.array(expected, bool), 2, -1))


def test_text_sees_the_latest_image():
    is_image = np.array([[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]], bool)
    expected = [[[0, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1]], [[1, 0]] * 6]
    found = latest_image_mask(is_image, 2, 3)
    np.testing.assert_array_equal(found, np.repeat(np.array(expected, bool), 3, -1))
