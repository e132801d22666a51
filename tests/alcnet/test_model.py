"""The whole model: where gradients go, what padding does, and which parts may be absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alcnet import (
    ALCNet,
    ConcatFusion,
    Embeddings,
    Encoder,
    EncoderLayer,
    EqualRegions,
    FilmGenerator,
    LastLayer,
    StatisticsBranch,
    TopLeft,
    detached,
    make_attention_cnn,
    relative_statistics,
    token_regions,
)
from common.nn import attention_weights, average_values

pytestmark = pytest.mark.usefixtures("quick_compilation")
rng = np.random.default_rng(5)
IDS = jnp.asarray(rng.integers(1, 30, (2, 9)))
MASK = jnp.array([[1] * 9, [1] * 6 + [0] * 3])
TYPES = jnp.asarray((np.arange(9) >= 4).astype(int)[None] * np.asarray(MASK))
LAYERS = 2


def make(*parts, **others):
    encoder = Encoder(Embeddings(30, 16, 2, 8), tuple(EncoderLayer(2, 12) for _ in range(LAYERS)))
    chosen = {
        "pooling": LastLayer() if "cls" in parts else None,
        "cnn": make_attention_cnn(4, 1, 5) if "cnn" in parts else None,
        "statistics": StatisticsBranch(6) if {"stats", "film"} & set(parts) else None,
        "film": FilmGenerator((4,)) if "film" in parts else None,
        "regions": EqualRegions(5),
        "statistic_layers": (-2, -1),
    }
    read = tuple(name for name in ("cls", "cnn", "stats") if name in parts)
    return ALCNet(encoder, ConcatFusion(2, read), **(chosen | others))


def drawn(model):
    """Random parameters, large enough that attention is not uniform."""
    shapes = jax.eval_shape(lambda ids: model.init(jax.random.key(0), ids), IDS)
    local = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            0.7 * local.standard_normal(leaf.shape) + ("scale" in str(path[-1])), jnp.float32
        ),
        shapes,
    )


def slopes(model, params, ids=IDS, mask=MASK, types=TYPES):
    def loss(params):
        return model.apply(params, ids, mask, types).logits[:, 0].sum()

    return jax.jit(jax.grad(loss))(params)["params"]


def size(slope, layer, part):
    kernel = slope["encoder"][f"layers_{layer}"]["attention"][part]["kernel"]
    return float(jnp.abs(kernel).max())


@pytest.fixture(scope="module")
def cnn_alone():
    model = make("cnn")
    return model, slopes(model, drawn(model))


def test_the_cnn_teaches_queries_and_keys_of_every_layer(cnn_alone):
    _, slope = cnn_alone
    for layer in range(LAYERS):
        assert size(slope, layer, "query") > 1e-4 and size(slope, layer, "key") > 1e-4


def test_the_cnn_teaches_values_of_all_layers_but_the_last(cnn_alone):
    """The last layer's maps are made before its values are used."""
    _, slope = cnn_alone
    assert all(size(slope, layer, "value") > 1e-4 for layer in range(LAYERS - 1))
    assert size(slope, LAYERS - 1, "value") == 0
    last = slope["encoder"][f"layers_{LAYERS - 1}"]
    assert float(jnp.abs(last["up"]["kernel"]).max()) == 0


def test_without_the_cnn_a_pooled_first_layer_teaches_all_of_them():
    model = make("cls")
    slope = slopes(model, drawn(model))
    assert all(size(slope, LAYERS - 1, part) > 1e-4 for part in ("query", "key", "value"))
    assert set(slope) == {"encoder", "fusion"}


def test_statistics_teach_the_encoder_or_do_not():
    flowing, cut = make("stats"), make("stats", summary=detached(relative_statistics))
    params = drawn(flowing)
    assert size(slopes(flowing, params), 0, "query") > 1e-6
    still = slopes(cut, params)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(still["encoder"])) == 0
    assert float(jnp.abs(still["statistics"]["expand"]["kernel"]).max()) > 1e-4


def test_the_gradient_is_the_chain_rule_written_out():
    """dL/dW_q = X' [A (G - rowsum(A G)) K] / sqrt(d), G = dL/dA; against differences too."""
    n, d = 5, 3
    x, q, k, target = (rng.standard_normal(s) for s in ((n, d), (d, d), (d, d), (n, n)))

    def maps(q):
        query, key = (x @ w for w in (q, k))
        weights = attention_weights(jnp.asarray(query)[:, None], jnp.asarray(key)[:, None])
        return weights[0]

    def loss(q):
        return (np.asarray(maps(q), np.float64) ** 2 * target).sum()

    a = np.asarray(maps(q), np.float64)
    g = 2 * a * target
    scores = a * (g - (a * g).sum(1, keepdims=True))
    written = x.T @ (scores @ (x @ k)) / np.sqrt(d)
    found = jax.grad(
        lambda q: (
            attention_weights(
                (jnp.asarray(x, jnp.float32) @ q)[:, None], jnp.asarray(x @ k, jnp.float32)[:, None]
            )[0]
            ** 2
            * jnp.asarray(target, jnp.float32)
        ).sum()
    )(jnp.asarray(q, jnp.float32))
    np.testing.assert_allclose(found, written, atol=2e-5)
    step = 1e-2
    for i, j in ((0, 0), (2, 1)):
        moved = [q.copy(), q.copy()]
        moved[0][i, j] += step
        moved[1][i, j] -= step
        numeric = (loss(moved[0]) - loss(moved[1])) / (2 * step)
        np.testing.assert_allclose(numeric, written[i, j], atol=2e-3)


def test_values_reach_the_maps_above_alone():
    """A value of this layer changes its output, not its own map."""
    value = jnp.asarray(rng.standard_normal((1, 4, 2, 3)), jnp.float32)
    maps = attention_weights(value, value)
    assert float(jnp.abs(jax.grad(lambda v: average_values(maps, v).sum())(value)).max()) > 0


@pytest.mark.parametrize("regions", [EqualRegions(5), token_regions])
def test_padding_changes_no_logit(regions):
    model = make("cls", "cnn", "stats", "film", regions=regions)
    params = drawn(model)
    apply = jax.jit(model.apply)
    whole = apply(params, IDS, MASK, TYPES).logits
    short = apply(params, IDS[1:, :6], MASK[1:, :6], TYPES[1:, :6]).logits
    np.testing.assert_allclose(whole[1:], short, atol=3e-5)
    junk = IDS.at[1, 6:].set(29)
    np.testing.assert_allclose(apply(params, junk, MASK, TYPES).logits, whole, atol=3e-5)


@pytest.mark.parametrize(
    "parts",
    [
        ("cls",),
        ("cls", "cnn"),
        ("cls", "stats"),
        ("cnn", "film"),
        ("cnn", "stats", "film"),
        ("cls", "cnn", "stats", "film"),
    ],
)
def test_any_branch_may_be_absent(parts):
    model = make(*parts)
    shapes = jax.eval_shape(lambda ids: model.init(jax.random.key(0), ids), IDS)["params"]
    names = {"cls": "pooling", "cnn": "cnn", "stats": "statistics", "film": "film"}
    for part in ("cnn", "film"):
        assert (names[part] in shapes) == (part in parts)
    assert ("statistics" in shapes) == bool({"stats", "film"} & set(parts))
    out = jax.eval_shape(model.apply, {"params": shapes}, IDS, MASK, TYPES)
    assert out.logits.shape == (2, 2)
    assert ("stats" in out.features) == bool({"stats", "film"} & set(parts))
    assert len(out.modulations) == (1 if "film" in parts else 0)


def test_film_needs_statistics():
    model = make("cnn", film=FilmGenerator((4,)))
    with pytest.raises(ValueError, match="FiLM needs the statistics branch"):
        jax.eval_shape(lambda ids: model.init(jax.random.key(0), ids), IDS)


def test_measured_statistics_follow_those_of_the_maps():
    model = make("stats")
    further = jnp.array([[1.5, -2.0], [0.25, 3.0]])

    def read(*inputs, **options):
        return model.apply(*inputs, method="read", **options)[0].statistics

    shapes = jax.eval_shape(model.init, jax.random.key(0), IDS, MASK, TYPES, measured=further)
    assert shapes["params"]["statistics"]["expand"]["kernel"].shape == (15 + 2, 6)
    params = drawn(model)
    plain, found = (jax.jit(read)(params, IDS, measured=m) for m in (None, further))
    np.testing.assert_array_equal(found[:, :15], plain)
    np.testing.assert_array_equal(found[:, 15:], further)
    with pytest.raises(ValueError, match="measured statistics need the statistics branch"):
        make("cls").init(jax.random.key(0), IDS, measured=further)


def test_behind_a_patch_nothing_else_of_the_maps_matters():
    model = make("cnn", view=TopLeft(0.4), regions=EqualRegions(5))
    params = drawn(model)
    reading, _ = jax.jit(lambda p: model.apply(p, IDS, MASK, TYPES, method="read"))(params)
    assert np.asarray(reading.mask).sum() == 2 * 4

    def logit(maps):
        return model.apply(params, reading.replace(maps=maps), method="decide").logits.sum()

    slope = np.array(jax.jit(jax.grad(logit))(reading.maps))
    assert np.abs(slope[:, :, :2, :2]).max() > 1e-4
    slope[:, :, :2, :2] = 0
    assert np.abs(slope).max() == 0
