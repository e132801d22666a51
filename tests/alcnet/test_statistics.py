"""The statistics against loops, against known maps, and against the length of the text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alcnet import (
    PERPLEXITY,
    detached,
    head_statistics,
    plain_statistics,
    relative_statistics,
    statistic_names,
)
from tests.alcnet import loops
from tests.alcnet.test_attention_maps import softmax_maps

pytestmark = pytest.mark.usefixtures("quick_compilation")
measure = jax.jit(head_statistics)


def summarised(summary, layers, mask):
    layers = [measure(jnp.asarray(maps), mask) for maps in layers]
    return np.asarray(jax.jit(summary)(layers, mask.sum(1)))


def test_published_statistics_against_loops():
    lengths = (9, 6, 3)
    pairs = [softmax_maps(lengths, 9, heads=3) for _ in range(3)]
    layers, mask = [maps for maps, _ in pairs], pairs[0][1]
    found = summarised(plain_statistics, layers, mask)
    assert found.shape == (3, 21)
    for b, n in enumerate(lengths):
        wanted = loops.statistics(np.stack(layers)[:, b].astype(np.float64), n)
        np.testing.assert_allclose(found[b], wanted, atol=3e-6)


def test_there_is_a_name_for_every_column():
    names = statistic_names((-3, -2, -1))
    assert len(names) == len(set(names)) == 21
    assert names[2] == "layer -3: row entropy" and names[-3] == "layer -1: diagonal share"
    assert statistic_names((-3, -2, -1), (PERPLEXITY,)) == [*names, "log pseudo-perplexity"]


def test_padding_leaves_no_trace_wherever_it_is():
    maps, mask = softmax_maps((6,), 10)
    whole = summarised(plain_statistics, [maps], mask)
    short = summarised(plain_statistics, [maps[..., :6, :6]], mask[:, :6])
    np.testing.assert_allclose(whole, short, atol=1e-6)
    turned = jnp.roll(jnp.asarray(maps), (4, 4), (2, 3))
    left = summarised(plain_statistics, [turned], jnp.roll(mask, 4, 1))
    np.testing.assert_allclose(left, short, atol=1e-6)
    counted = summarised(plain_statistics, [maps], jnp.ones_like(mask))
    assert np.abs(counted - short).max() > 0.05


@pytest.mark.parametrize("n", [2, 6, 20])
def test_uniform_maps_have_the_same_relative_statistics_at_any_length(n):
    mask = jnp.ones((1, n), int)
    found = summarised(relative_statistics, [jnp.full((1, 2, n, n), 1 / n)] * 2, mask)[0]
    far = 1.0 if n > 5 else 0.0
    wanted = [far, 0, 1, 0, 0, 0] * 2 + [0, 1, float(1 - 1 / n > 0.6)]
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_relative_statistics_depend_less_on_the_length():
    """Random maps: R2 of the length on each column, published and relative."""
    lengths = np.arange(8, 40)
    maps, mask = softmax_maps(lengths, 40, heads=4)

    def explained(summary):
        columns = summarised(summary, [maps], mask)[:, [0, 1, 2, 5]]
        return np.array([np.corrcoef(c, lengths)[0, 1] ** 2 for c in columns.T])

    published, relative = explained(plain_statistics), explained(relative_statistics)
    assert published.mean() > 0.7
    assert (relative < published).all() and relative.mean() < 0.6 * published.mean()


def test_known_maps():
    n = 8
    mask = jnp.ones((1, n), int)
    eye = summarised(plain_statistics, [jnp.eye(n)[None, None]], mask)[0]
    np.testing.assert_allclose(eye, [0, 1 / n, 0, 0, 1, 0, 1, 0, 0], atol=2e-6)
    first = jnp.zeros((1, 1, n, n)).at[..., 0].set(1.0)
    stats = summarised(plain_statistics, [first], mask)[0]
    wanted = [3 / n, 1, 0, 0, 1, 2 * (n - 1) / n**2, 1 / n, 1 - 1 / n, 1]
    np.testing.assert_allclose(stats, wanted, atol=2e-6)


@pytest.mark.parametrize("summary", [plain_statistics, relative_statistics])
def test_gradients_pass_or_are_cut_and_are_finite(summary):
    scores = jnp.asarray(np.random.default_rng(1).standard_normal((2, 2, 6, 6)), jnp.float32)
    mask = jnp.array([[1] * 6, [1] * 2 + [0] * 4])

    def total(scores, summary):
        maps = jax.nn.softmax(jnp.where(mask[:, None, None, :] == 1, scores, -1e30), -1)
        return (summary([head_statistics(maps, mask)], mask.sum(1)) ** 2).sum()

    slope_of = jax.jit(jax.grad(total), static_argnums=1)
    slope = slope_of(scores, summary)
    assert np.isfinite(slope).all() and float(jnp.abs(slope).max()) > 1e-3
    assert float(jnp.abs(slope_of(scores, detached(summary))).max()) == 0
    uniform = slope_of(jnp.zeros_like(scores), summary)
    assert np.isfinite(uniform).all()
