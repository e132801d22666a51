"""The CNN, FiLM, pooling, fusion and adapters, each against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alcnet import (
    ConcatFusion,
    FilmGenerator,
    GatedFusion,
    LastLayer,
    MapBlock,
    StatisticsBranch,
    WeightedLayers,
    first_token,
    lora,
    make_attention_cnn,
    mean_of_tokens,
)
from alcnet.attention_cnn import LayerConv, SpatialConv, SqueezeExcitation, halve, masked_mean
from tests.alcnet import loops

pytestmark = pytest.mark.usefixtures("quick_compilation")
rng = np.random.default_rng(3)


def normal(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def drawn(module, *inputs):
    """Returns random parameters; factors of norms lie around 1."""

    def init(*arrays):
        return module.init(jax.random.key(0), *arrays)

    shapes = jax.eval_shape(jax.tree_util.Partial(init), *inputs)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0.3 * normal(*leaf.shape) + ("scale" in str(path[-1])), shapes
    )


class Closed:
    """A module that is always called without dropout."""

    def __init__(self, module):
        self.module = module

    def init(self, rng, features):
        return self.module.init(rng, features, True)


def run(module, params, *inputs):
    return jax.jit(module.apply)(params, *inputs)


def test_spatial_convolution_against_loops():
    x = normal(2, 2, 4, 5, 3)
    module = SpatialConv(2)
    params = drawn(module, x)
    found = run(module, params, x)
    kernel, bias = (np.asarray(params["params"][k], np.float64) for k in ("kernel", "bias"))
    for b in range(2):
        for layer in range(2):
            wanted = loops.correlate(np.asarray(x[b, layer], np.float64), kernel) + bias
            np.testing.assert_allclose(found[b, layer], wanted, atol=1e-5)


def test_layer_convolution_joins_three_neighbours():
    x = normal(1, 4, 2, 2, 3)
    module = LayerConv(5)
    params = drawn(module, x)
    kernel = np.asarray(params["params"]["dense"]["kernel"]).reshape(3, 3, 5)
    found = np.asarray(
        run(module, params, x) - params["params"]["dense"]["bias"].reshape(1, 1, 1, 1, 5)
    )
    for layer in range(4):
        near = [(k, layer + k - 1) for k in range(3) if 0 <= layer + k - 1 < 4]
        wanted = sum(np.asarray(x)[:, m] @ kernel[k] for k, m in near)
        np.testing.assert_allclose(found[:, layer], wanted, atol=1e-5)


def test_means_and_halves_are_over_the_mask():
    x = normal(2, 3, 5, 4, 2)
    mask = jnp.asarray(rng.random((2, 5, 4)) < 0.5).at[0, 4].set(False)
    values, inside = np.asarray(x), np.asarray(mask)
    for b in range(2):
        wanted = values[b][:, inside[b]].mean((0, 1))
        np.testing.assert_allclose(masked_mean(x, mask)[b], wanted, atol=1e-6)
    small, seen = halve(x, mask)
    assert small.shape == (2, 3, 3, 2, 2) and not seen[0, 2].any()
    for b in range(2):
        for i in range(3):
            for j in range(2):
                window = (slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
                part = inside[b][window]
                assert bool(seen[b, i, j]) == part.any()
                if part.any():
                    wanted = values[b][:, *window][:, part].mean(1)
                    np.testing.assert_allclose(small[b, :, i, j], wanted, atol=1e-6)


def test_squeeze_excitation_scales_channels_of_each_example():
    x, mask = normal(2, 2, 3, 3, 8), jnp.ones((2, 3, 3), bool)
    module = SqueezeExcitation()
    factors = run(module, drawn(module, x, mask), x, mask) / x
    spread = np.asarray(factors.max((1, 2, 3)) - factors.min((1, 2, 3)))
    assert spread.max() < 1e-5 and 0 < float(factors.min()) and float(factors.max()) < 1


def test_film_is_the_identity_at_initialisation_and_acts_afterwards():
    statistics, maps = normal(3, 21), normal(3, 2, 6, 6, 4)
    mask = jnp.ones((3, 6, 6), bool)
    cnn, generator, branch = make_attention_cnn(8, 2, 5), FilmGenerator((8, 8)), StatisticsBranch(7)
    features = run(branch, drawn(branch, statistics), statistics)
    params = drawn(cnn, maps, mask)
    fresh = jax.jit(generator.init)(jax.random.key(0), features)
    modulations = run(generator, fresh, features)
    assert len(modulations) == 2
    for gamma, beta in modulations:
        assert gamma.shape == (3, 8)
        np.testing.assert_array_equal(gamma, 1)
        np.testing.assert_array_equal(beta, 0)
    plain = run(cnn, params, maps, mask)
    np.testing.assert_allclose(run(cnn, params, maps, mask, modulations), plain, atol=1e-6)
    moved = run(generator, drawn(generator, features), features)
    assert float(jnp.abs(run(cnn, params, maps, mask, moved) - plain).max()) > 1e-3
    with pytest.raises(ValueError, match="1 modulations for 2 blocks"):
        run(cnn, params, maps, mask, moved[:1])


def test_film_scales_the_convolved_maps():
    """With gamma and beta at zero nothing of the convolution is left."""
    x, mask = normal(2, 2, 3, 3, 4), jnp.ones((2, 3, 3), bool)
    block = MapBlock(4)
    params = drawn(block, x, mask)
    zeros = (jnp.zeros((2, 4)), jnp.zeros((2, 4)))
    other = jax.tree.map(lambda p: p, params)
    other["params"]["spatial"]["kernel"] = normal(3, 3, 4, 4)
    np.testing.assert_array_equal(
        run(block, params, x, mask, zeros), run(block, other, x, mask, zeros)
    )
    assert float(jnp.abs(run(block, params, x, mask) - run(block, other, x, mask)).max()) > 0.1


def test_a_block_is_its_formula():
    x, mask = normal(2, 3, 4, 3, 8), jnp.asarray(rng.random((2, 4, 3)) < 0.7).at[:, 0].set(True)
    gamma, beta = normal(2, 8), normal(2, 8)
    block = MapBlock(8)
    params = drawn(block, x, mask)
    found = run(block, params, x, mask, (gamma, beta))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    values = np.asarray(x, np.float64)
    for b in range(2):
        inside = np.asarray(mask)[b][..., None]
        y = loops.normalise(p["norm"], values[b], 1e-6) * inside
        y = np.stack([loops.correlate(layer, p["spatial"]["kernel"]) for layer in y])
        y = (y + p["spatial"]["bias"]) * np.asarray(gamma[b]) + np.asarray(beta[b])
        y = np.asarray(jax.nn.gelu(y)) * inside
        framed = np.pad(y, ((1, 1), (0, 0), (0, 0), (0, 0)))
        wide = np.concatenate([framed[:-2], framed[1:-1], framed[2:]], -1)
        y = loops.linear(p["across_layers"]["dense"], wide)
        means = y[:, inside[..., 0]].mean((0, 1))
        hidden = np.maximum(loops.linear(p["excitation"]["squeeze"], means), 0)
        y = y / (1 + np.exp(-loops.linear(p["excitation"]["excite"], hidden)))
        np.testing.assert_allclose(found[b], (values[b] + y) * inside, atol=1e-4)


def test_the_net_is_its_blocks_and_the_mean_and_maximum_of_every_layer():
    """Behind a mask of one place after halving, so that a maximum may be negative."""
    maps, mask = normal(2, 2, 4, 4, 3), jnp.ones((2, 4, 4), bool).at[0, 2:].set(False)
    mask = mask.at[0, :, 2:].set(False)
    cnn = make_attention_cnn(4, 2, 6)
    params = drawn(cnn, maps, mask)
    sides = [(normal(2, 4), normal(2, 4)) for _ in range(2)]
    found = run(cnn, params, maps, mask, sides)
    parts = jax.tree.map(np.asarray, params["params"])

    def block(number, x, mask):
        return run(MapBlock(4), {"params": parts[f"blocks_{number}"]}, x, mask, sides[number])

    mixed = loops.linear(parts["head_mix"], np.asarray(maps)) * mask[:, None, :, :, None]
    x = np.asarray(block(1, *halve(block(0, mixed, mask), mask)))
    pooled = [[x[0, :, :1, :1], x[1]][b].reshape(2, -1, 4) for b in range(2)]
    both = [np.concatenate([v.mean(1), v.max(1)], 1).reshape(-1) for v in pooled]
    assert both[0].min() < -0.1
    y = loops.linear(parts["project"]["layers_0"], np.stack(both))
    wanted = jax.nn.gelu(loops.normalise(parts["project"]["layers_1"], y, 1e-6))
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_the_cnn_sees_nothing_outside_of_its_mask():
    """The same maps with more padding, and with junk in it."""
    maps, mask = normal(2, 3, 5, 5, 4), jnp.ones((2, 5, 5), bool).at[1, 3:].set(False)
    cnn = make_attention_cnn(8, 2, 6)
    params = drawn(cnn, maps, mask)
    pad = 3
    wide = jnp.pad(maps, ((0, 0), (0, 0), (0, pad), (0, pad), (0, 0)), constant_values=9.0)
    seen = jnp.pad(mask, ((0, 0), (0, pad), (0, pad)))
    found = run(cnn, params, wide, seen)
    np.testing.assert_allclose(found, run(cnn, params, maps, mask), atol=1e-5)
    slope = jax.jit(jax.grad(lambda m: cnn.apply(params, m, seen).sum()))(wide)
    outside = ~np.asarray(seen)[:, None, :, :, None]
    assert np.abs(np.asarray(slope) * outside).max() == 0 and np.abs(slope).max() > 1e-3


def test_an_empty_mask_gives_finite_features_and_gradients():
    maps, mask = normal(1, 2, 4, 4, 3), jnp.zeros((1, 4, 4), bool)
    cnn = make_attention_cnn(4, 2, 3)
    params = drawn(cnn, maps, mask)
    slope = jax.jit(jax.grad(lambda p: cnn.apply(p, maps, mask).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_pooling():
    states = [normal(2, 4, 3) for _ in range(6)]
    mask = jnp.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    last = np.asarray(states[-1])
    np.testing.assert_array_equal(LastLayer(first_token).apply({}, states, mask), last[:, 0])
    means = [last[0, :3].mean(0), last[1, 0]]
    np.testing.assert_allclose(LastLayer().apply({}, states, mask), means, atol=1e-6)
    module = WeightedLayers(4, mean_of_tokens)
    weights = jnp.array([0.0, 1.0, -1.0, 2.0])
    found = module.apply({"params": {"scores": weights}}, states, mask)
    shares = np.exp(weights) / np.exp(weights).sum()
    wanted = sum(w * mean_of_tokens(s, mask) for w, s in zip(shares, states[2:], strict=True))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_fusions():
    features = {"cls": normal(3, 4), "cnn": normal(3, 2), "stats": normal(3, 5)}
    concat = ConcatFusion(2, ("cnn", "cls"))
    params = drawn(Closed(concat), features)
    joined = np.concatenate([features["cnn"], features["cls"]], 1)
    dense = params["params"]["logits"]
    wanted = np.asarray(joined) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    np.testing.assert_allclose(concat.apply(params, features, True), wanted, atol=1e-5)
    gated = GatedFusion(2)
    variables = gated.init(jax.random.key(0), features, True)
    _, sown = gated.apply(variables, features, True, mutable="intermediates")
    gate = np.asarray(sown["intermediates"]["openness"][0])
    assert gate.shape == (3, 1) and (gate < 0.5).all() and abs(gate.mean() - 0.12) < 0.15
    p = drawn(Closed(gated), features)["params"]
    read = np.concatenate([features["cnn"], features["stats"]], 1)
    q = jax.tree.map(np.asarray, p)
    g = 1 / (1 + np.exp(-(read @ q["gate"]["kernel"] + q["gate"]["bias"])))
    v = np.asarray(features["cls"]) @ q["direct"]["kernel"] + q["direct"]["bias"]
    c = read @ q["read"]["kernel"] + q["read"]["bias"]
    found = gated.apply({"params": p}, features, True)
    np.testing.assert_allclose(found, (1 - g) * v + g * c, atol=1e-5)


def test_a_fusion_without_its_branch_is_refused():
    with pytest.raises(ValueError, match="fusion reads cnn, stats; there are: cls"):
        ConcatFusion(2).init(jax.random.key(0), {"cls": normal(1, 2)}, True)


def test_adapters_change_nothing_at_first_and_have_low_rank_later():
    params = {"attention": {"query": {"kernel": normal(6, 5)}, "key": {"kernel": normal(6, 5)}}}
    adapters = lora.init_adapters(jax.random.key(0), params, 2)
    assert list(adapters["attention"]) == ["query"]
    merged = lora.merge(params, adapters)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    pair = adapters["attention"]["query"]["kernel"]
    pair["b"] = normal(2, 5)
    change = lora.merge(params, adapters, 8.0)["attention"]["query"]["kernel"]
    change = change - params["attention"]["query"]["kernel"]
    np.testing.assert_allclose(change, 4.0 * pair["a"] @ pair["b"], atol=1e-5)
    assert np.linalg.matrix_rank(change, 1e-4) == 2
    with pytest.raises(ValueError, match="no kernel has 'nothing' in its path"):
        lora.init_adapters(jax.random.key(0), params, 2, "nothing")
