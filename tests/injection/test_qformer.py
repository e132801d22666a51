"""The Q-Former: order of features, masks by gradient, its start from BERT, its three objectives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from common.errors import DataError
from common.injection import (
    QFormerPretraining,
    QueryResampler,
    Similarity,
    TextEmbedding,
    bidirectional_mask,
    causal_multimodal_mask,
    contrastive_loss,
    generation_loss,
    hard_negatives,
    initialise_from_bert,
    matching_loss,
    qformer,
    separate_mask,
    similarity,
    text_from_bert,
)
from tests.injection.draws import noisy, normal, require_finite_gradients

WIDTH, QUERIES = 8, 3
TEXT = QUERIES + 4
REAL = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


def small(**options):
    return qformer(2, heads=2, hidden=12, **options)


def resampler():
    return QueryResampler(small(every=1), WIDTH, QUERIES)


@functools.cache
def asked():
    features = normal(0, 2, 7, 5)
    return features, noisy(resampler(), features), jax.jit(resampler().apply)


def test_the_order_of_features_does_not_matter():
    features, variables, run = asked()
    order, mask = np.random.default_rng(0).permutation(7), np.ones((2, 7), int)
    out = run(variables, features, mask)
    np.testing.assert_allclose(run(variables, features[:, order], mask), out, atol=1e-5)
    assert out.shape == (2, QUERIES, WIDTH)
    assert np.abs(out[0] - out[1]).max() > 0.1


def test_hidden_features_do_not_count():
    features, variables, run = asked()
    mask = np.array([[1] * 7, [1, 1, 0, 1, 0, 0, 1]])
    out = run(variables, features, mask)
    for place in range(7):
        other = features.copy()
        other[:, place] += 1
        moved = np.abs(np.asarray(run(variables, other, mask) - out)).max((1, 2)) > 0
        np.testing.assert_array_equal(moved, mask[:, place] > 0)


def test_every_parameter_has_a_gradient():
    features, variables, _ = asked()
    require_finite_gradients(resampler(), variables, features)


@pytest.mark.parametrize(
    ("depth", "every", "asking"), [(4, 2, [0, 2]), (3, 1, [0, 1, 2]), (5, 3, [0, 3])]
)
def test_every_gth_layer_asks_the_features(depth, every, asking):
    module = qformer(depth, heads=2, hidden=12, every=every)
    assert [n for n, layer in enumerate(module.layers) if layer.cross is not None] == asking


def test_thirty_two_queries_by_default():
    module = QueryResampler(small(), WIDTH)
    shapes = jax.eval_shape(module.init, jax.random.key(0), normal(0, 1, 4, 5))
    assert shapes["params"]["query_tokens"].shape == (1, 32, WIDTH)


NO_HEADS = QueryResampler(qformer(1, heads=3, hidden=4), WIDTH)
FEATURES, TOKENS = normal(0, 1, 4, 5), normal(0, 1, 2, WIDTH)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: qformer(0, 2, 4), "0 layers"),
        (lambda key: qformer(2, 2, 4, every=0), "asking in every 0"),
        (lambda key: NO_HEADS.init(key, FEATURES), "8 channels do not divide into 3 heads"),
        (
            lambda key: small().init(key, TOKENS, FEATURES, text=TOKENS),
            "no feed-forward net for text",
        ),
        (
            lambda key: TextEmbedding(9, 3, WIDTH).init(key, np.zeros((1, 4), int)),
            "4 tokens; there are 3 positions",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, jax.random.key(0))


@functools.cache
def jacobians():
    """Jitted: how the last states of the second example move with its features and its text."""
    module = qformer(2, heads=2, hidden=12, text=True, every=2)
    inputs = normal(0, 1, QUERIES, WIDTH), normal(1, 2, 6, 5), normal(2, 2, 4, WIDTH)
    variables = noisy(module, *inputs[:2], text=inputs[2])

    def out(features, text, mask):
        states = module.apply(variables, inputs[0], features, text=text, mask=mask)
        return (states.last_hidden_state * normal(3, 1, 1, WIDTH)).sum(-1)[1]

    run = jax.jit(jax.jacrev(out, (0, 1)))
    return lambda mask: run(*inputs[1:], mask)


def dependence(mask):
    """Which places move with which text token, and which with the features: (n, 4), (n,)."""
    by_features, by_text = jacobians()(mask)
    return np.abs(by_text[:, 1]).max(-1) > 0, np.abs(by_features[:, 1]).max((1, 2)) > 0


def test_separate_neither_side_knows_the_other():
    by_text, by_features = dependence(separate_mask(QUERIES, REAL))
    assert not by_text[:QUERIES].any()
    np.testing.assert_array_equal(by_features, [True] * QUERIES + [False] * 4)
    assert by_text[QUERIES : TEXT - 1, :3].all()


def test_bidirectional_all_know_all_but_padding():
    by_text, by_features = dependence(bidirectional_mask(QUERIES, REAL))
    assert by_text[: TEXT - 1, :3].all()
    assert not by_text[: TEXT - 1, 3].any()
    assert by_features[: TEXT - 1].all()


def test_causal_nothing_leaks_from_later_text():
    by_text, by_features = dependence(causal_multimodal_mask(QUERIES, REAL))
    assert not by_text[:QUERIES].any()
    np.testing.assert_array_equal(by_text[QUERIES : TEXT - 1, :3], np.tri(3, dtype=bool))
    assert by_features[: TEXT - 1].all()


def bert(depth=2, hidden=12):
    """A BERT by its public names."""
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (9, WIDTH),
        "embeddings.position_embeddings.weight": (6, WIDTH),
    }
    shapes |= {f"embeddings.LayerNorm.{part}": (WIDTH,) for part in ("weight", "bias")}
    for n in range(depth):
        layer = f"encoder.layer.{n}"
        sizes = {f"attention.self.{x}": (WIDTH, WIDTH) for x in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (WIDTH, WIDTH)}
        sizes |= {"intermediate.dense": (hidden, WIDTH), "output.dense": (WIDTH, hidden)}
        for name, size in sizes.items():
            shapes |= {f"{layer}.{name}.weight": size, f"{layer}.{name}.bias": size[:1]}
        for name in ("attention.output", "output"):
            shapes |= {f"{layer}.{name}.LayerNorm.{part}": (WIDTH,) for part in ("weight", "bias")}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def with_text():
    module = small(text=True)
    inputs = normal(0, 1, QUERIES, WIDTH), normal(1, 2, 6, 5), None, normal(2, 2, 4, WIDTH)
    return module, noisy(module, *inputs)["params"], inputs


def test_bert_starts_everything_but_cross_attention():
    _, params, _ = with_text()
    tensors = bert()
    started = flatten_dict(initialise_from_bert(params, tensors), sep="/")
    for path, before in flatten_dict(params, sep="/").items():
        assert np.array_equal(started[path], before) == ("cross" in path), path
    first = "encoder.layer.0"
    for side in ("query_mlp", "text_mlp"):
        up = started[f"layers_0/{side}/up/kernel"]
        np.testing.assert_array_equal(up, tensors[f"{first}.intermediate.dense.weight"].T)
    np.testing.assert_array_equal(started["norm/scale"], tensors["embeddings.LayerNorm.weight"])
    key = started["layers_0/attention/key/bias"]
    np.testing.assert_array_equal(key, tensors[f"{first}.attention.self.key.bias"])


def test_text_alone_is_then_a_bert():
    """Against BERT's equations in NumPy, for the text under the separate mask."""
    module, params, (queries, features, _, text) = with_text()
    tensors = bert()
    params = initialise_from_bert(params, tensors)
    mask = separate_mask(QUERIES, np.ones((2, 4)))
    run = jax.jit(lambda p: module.apply({"params": p}, queries, features, text=text, mask=mask))
    out = run(params).last_hidden_state[:, QUERIES:]

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * tensors[f"{name}.LayerNorm.weight"] + tensors[f"{name}.LayerNorm.bias"]

    x = norm(text, "embeddings")
    for n in range(2):
        layer = f"encoder.layer.{n}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{name}").reshape(2, 4, 2, 4)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("bqhd,bshd->bhqs", q, k) / 2
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        mixed = np.einsum("bhqs,bshd->bqhd", weights, v).reshape(2, 4, WIDTH)
        x = norm(linear(mixed, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output")
        hidden = linear(x, f"{layer}.intermediate.dense")
        hidden = np.asarray(jax.nn.gelu(hidden, approximate=False))
        x = norm(linear(hidden, f"{layer}.output.dense") + x, f"{layer}.output")
    np.testing.assert_allclose(out, x, atol=1e-4)


def test_older_names_of_bert_are_understood():
    _, params, _ = with_text()
    tensors, expected = bert(), initialise_from_bert(with_text()[1], bert())
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): x
        for name, x in tensors.items()
    }
    found = initialise_from_bert(params, old)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    words = text_from_bert(old)
    np.testing.assert_array_equal(words["word"], tensors["embeddings.word_embeddings.weight"])


def test_a_bert_that_does_not_fit_is_refused():
    _, params, _ = with_text()
    with pytest.raises(DataError, match=r"encoder.layer.1.\S+ is missing"):
        initialise_from_bert(params, bert(depth=1))
    with pytest.raises(
        DataError, match=r"intermediate.dense.weight is \[16, 8\], expected \[12, 8\]"
    ):
        initialise_from_bert(params, bert(hidden=16))
    with pytest.raises(DataError, match="position_embeddings.weight is missing"):
        text_from_bert({"embeddings.word_embeddings.weight": np.zeros((9, 8))})


def test_contrastive_loss_by_definition():
    images, texts = normal(0, 4, QUERIES, 5), normal(1, 4, 5)
    found = similarity(images, texts, 0.5)
    scores = np.array([[max(q @ t for q in image) for t in texts] for image in images]) / 0.5
    np.testing.assert_allclose(found.image_to_text, scores, atol=1e-5)
    np.testing.assert_allclose(found.text_to_image, scores.T, atol=1e-5)
    for smoothing in (0.0, 0.1):
        target = (1 - smoothing) * np.eye(4) + smoothing / 4
        rows = []
        for x in (scores, scores.T):
            log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
            rows.append(-(target * log_p).sum(-1).mean())
        np.testing.assert_allclose(contrastive_loss(found, smoothing), np.mean(rows), atol=1e-5)


def test_hard_negatives_are_wrong_and_alike():
    scores = np.float32([[9, 2, -9], [2, 9, 0], [-9, 0, 9]])
    similar = Similarity(scores, scores.T)
    draw = jax.jit(jax.vmap(lambda key: jnp.stack(hard_negatives(similar, key))))
    images, texts = np.asarray(draw(jax.random.split(jax.random.key(0), 400))).swapaxes(0, 1)
    for drawn in (images, texts):
        assert (drawn != np.arange(3)).all()
        shares = [(drawn[:, 1] == n).mean() for n in (0, 2)]
        expected = np.exp([2, 0]) / np.exp([2, 0]).sum()
        np.testing.assert_allclose(shares, expected, atol=0.06)
        assert (drawn[:, 0] == 1).mean() > 0.98


def test_matching_and_generation_losses_by_definition():
    logits, fits = normal(0, 5, 2), np.array([1, 0, 0, 1, 0])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        matching_loss(logits, fits), -log_p[np.arange(5), fits].mean(), atol=1e-6
    )
    logits, tokens = normal(1, 2, 4, 6), np.array([[5, 1, 2, 3], [5, 4, 2, 0]])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = [log_p[b, t - 1, tokens[b, t]] for b in range(2) for t in range(1, 4) if REAL[b, t]]
    np.testing.assert_allclose(
        generation_loss(logits, tokens, REAL != 0), -np.mean(rows), atol=1e-6
    )


@pytest.mark.slow
def test_the_three_objectives_train_a_qformer():
    """Four images, each with the text that names it: all losses fall, all parameters move."""
    text = TextEmbedding(9, 4, WIDTH)
    net = qformer(1, heads=2, hidden=12, text=True)
    module = QFormerPretraining(net, text, start=8, queries=QUERIES, shared=6)
    features = 2 * normal(0, 4, 5, 6)
    tokens = np.array([[7, n, (n + 1) % 4, 0] for n in range(4)])
    real = np.array([[1, 1, 1, 0]] * 4)
    optimiser = optax.adam(1e-2)
    inputs = features, tokens, real

    def total(params, key):
        losses = module.apply({"params": params}, *inputs, key)
        return losses.total, losses

    @jax.jit
    def train(params, keys):
        def step(carry, key):
            params, state = carry
            (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(params, key)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(params, updates), state), losses

        return jax.lax.scan(step, (params, optimiser.init(params)), keys)

    before = noisy(module, *inputs, jax.random.key(0), scale=0.1)["params"]
    (after, _), losses = train(before, jax.random.split(jax.random.key(1), 120))
    for name in ("contrastive", "matching", "generation"):
        curve = np.asarray(getattr(losses, name))
        assert curve[-20:].mean() < 0.5 * curve[:5].mean(), name
    moved = functools.partial(jax.tree.map, lambda a, b: bool(np.abs(a - b).max() > 0))
    assert all(jax.tree.leaves(moved(before, after)))
