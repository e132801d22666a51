"""Every variant: causal by its gradients, and the same in pieces as whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.analysis import capture
from common.train import parameter_count
from convattn import (
    Sizes,
    attn_attn,
    conv_attn,
    conv_keys,
    conv_qkv,
    hybrid,
    leaky,
    prefix_logits,
    smeared_keys,
    streamed_logits,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = Sizes(vocabulary=11, width=8, heads=2, length=12)
LENGTH = 7
CAUSAL = {
    "attn_attn": functools.partial(attn_attn, depth=2),
    "conv_attn": conv_attn,
    "conv_attn_1": functools.partial(conv_attn, taps=1),
    "conv_attn_9": functools.partial(conv_attn, taps=9),
    "conv_keys": conv_keys,
    "conv_qkv": conv_qkv,
    "smeared_keys": smeared_keys,
    "hybrid": hybrid,
    "hybrid_deep": functools.partial(hybrid, depth=2, taps=3, mlp=True),
}
OPTIONS = {
    "learned": {"positions": "learned"},
    "none": {"positions": "none"},
    "tied": {"tied": True},
}
each_variant = pytest.mark.parametrize("build", CAUSAL.values(), ids=CAUSAL)


def make(build, **options):
    """A model with random parameters, none of them idle, and two sequences."""
    model = build(Sizes(**{**vars(SIZES), **options}))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, SIZES.vocabulary, (2, LENGTH), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]

    def draw(path, shape):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return (centre + 0.4 * rng.standard_normal(shape.shape)).astype(np.float32)

    return model, {"params": jax.tree_util.tree_map_with_path(draw, shapes)}, tokens


def sensitivity(model, variables, tokens):
    """How much the logits after token t move with the embedding of token s: (t, s)."""
    x = model.apply(variables, tokens[:1], method="embed")

    def features(x):
        return model.apply(variables, x, method="from_embeddings")[0]

    jacobian = jax.jit(jax.jacrev(features))(x)  # (t, d, 1, s, d)
    return np.abs(np.asarray(jacobian)).max((1, 2, 4))


@each_variant
def test_no_logit_depends_on_a_later_token(build):
    found = sensitivity(*make(build))
    later = np.triu(np.ones((LENGTH, LENGTH), bool), 1)
    assert (found[later] == 0).all()
    assert (np.diagonal(found) > 1e-4).all()
    assert (found[-1] > 1e-6).all(), "attention sees all earlier tokens"


@pytest.mark.parametrize("taps", [3, 5])
def test_the_symmetric_convolution_looks_ahead(taps):
    found = sensitivity(*make(functools.partial(leaky, taps=taps)))
    ahead = taps // 2
    assert all(found[t, t + ahead] > 1e-4 for t in range(LENGTH - ahead))
    beyond = np.triu(np.ones((LENGTH, LENGTH), bool), ahead + 1)
    assert (found[beyond] == 0).all()


def require_equal_when_streamed(model, variables, tokens):
    whole = jax.jit(model.apply)(variables, tokens)
    streamed = jax.jit(functools.partial(streamed_logits, model))(variables, tokens)
    np.testing.assert_allclose(streamed, whole, atol=1e-5)


@each_variant
def test_one_token_at_a_time_gives_the_same_logits(build):
    require_equal_when_streamed(*make(build))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_so_it_does_with_other_positions_and_heads(options):
    require_equal_when_streamed(*make(conv_keys, **options))


@pytest.mark.parametrize("build", [conv_attn, smeared_keys])
def test_pieces_of_any_length_give_the_same_logits(build):
    model, variables, tokens = make(build)

    @jax.jit
    def in_pieces(variables, tokens):
        state, parts = model.init_state(2, SIZES.length), []
        for piece in jnp.split(tokens, [1, 3], axis=1):
            logits, state = model.apply(variables, piece, state, method="extend")
            parts.append(logits)
        return jnp.concatenate(parts, 1), state.place

    logits, place = in_pieces(variables, tokens)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, tokens), atol=1e-5)
    assert int(place) == LENGTH


def test_a_prefix_alone_gives_the_rows_of_a_causal_model_and_not_of_the_leaky_one():
    lengths = [1, 4, LENGTH]
    model, variables, tokens = make(conv_attn)
    rows = jax.jit(model.apply)(variables, tokens)[:, np.array(lengths) - 1]
    np.testing.assert_allclose(prefix_logits(model, variables, tokens, lengths), rows, atol=1e-5)
    model, variables, tokens = make(leaky)
    rows = jax.jit(model.apply)(variables, tokens)[:, np.array(lengths) - 1]
    alone = prefix_logits(model, variables, tokens, lengths)
    assert np.abs(np.asarray(alone - rows))[:, :2].max() > 0.1
    np.testing.assert_allclose(alone[:, 2], rows[:, 2], atol=1e-5)


def test_smeared_keys_are_the_shares_of_two_neighbours():
    """One head's scores, from the definition."""
    model, variables, tokens = make(smeared_keys, positions="none")
    params = jax.tree.map(np.asarray, variables["params"])
    layer = params["layers_0"]
    x = params["embedding"][np.asarray(tokens)]
    mean, std = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    normed = (x - mean) / std * layer["norm"]["scale"] + layer["norm"]["bias"]
    key = np.array(normed @ layer["key"]["kernel"])
    share = np.repeat(1 / (1 + np.exp(-layer["mixers_1"]["alpha"])), 4)
    key[:, 1:] = share * key[:, 1:] + (1 - share) * key[:, :-1]
    query = (normed @ layer["query"]["kernel"]).reshape(2, LENGTH, 2, 4)
    scores = np.einsum("bqhd,bshd->bhqs", query, key.reshape(2, LENGTH, 2, 4)) / 2
    scores[:, :, ~np.tri(LENGTH, dtype=bool)] = -np.inf
    expected = np.exp(scores - scores.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    _, sown = jax.jit(functools.partial(capture, model))(variables, tokens)
    np.testing.assert_allclose(sown["layers_0/attention/weights"], expected, atol=1e-5)


def test_tying_saves_a_matrix():
    _, free, _ = make(conv_attn)
    _, tied, _ = make(conv_attn, tied=True)
    saved = parameter_count(free) - parameter_count(tied)
    assert saved == SIZES.vocabulary * SIZES.width


def test_half_precision_keeps_float32_parameters_and_logits():
    model, variables, tokens = make(CAUSAL["hybrid_deep"])
    half, *_ = make(CAUSAL["hybrid_deep"], dtype=jnp.bfloat16)
    fresh = jax.eval_shape(half.init, jax.random.key(0), tokens)
    assert {x.dtype for x in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    found, expected = (jax.jit(m.apply)(variables, tokens) for m in (half, model))
    assert found.dtype == jnp.float32
    largest = float(jnp.abs(expected).max())
    assert 0 < float(jnp.abs(found - expected).max()) < 0.05 * largest


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Sizes(0, 8, 2, 4), "vocabulary is 0; expected 1 or more"),
        (lambda: Sizes(5, 8, 3, 4), "width is 8; expected a multiple of 3 heads"),
        (lambda: Sizes(5, 6, 2, 4), "even number of channels"),
        (lambda: Sizes(5, 8, 2, 4, positions="sine"), "positions is 'sine'; choose one of"),
        (lambda: attn_attn(SIZES, depth=0), "depth is 0"),
        (lambda: hybrid(SIZES, depth=0), "depth is 0"),
        (lambda: conv_attn(SIZES, taps=0), "taps is 0"),
        (lambda: leaky(SIZES, taps=4), "taps is 4; a symmetric kernel needs an odd number"),
    ],
)
def test_what_cannot_be_built_is_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()
