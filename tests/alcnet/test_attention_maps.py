"""Maps of regions, masks and views against loops and known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alcnet import (
    EqualRegions,
    SentenceRegions,
    TopLeft,
    pair_mask,
    pool_maps,
    standardise,
    token_regions,
)
from tests.alcnet import loops

rng = np.random.default_rng(0)
pool = jax.jit(pool_maps)


def softmax_maps(lengths, size, heads=2):
    """Maps (b, heads, size, size) with no mass on padding, and the mask (b, size)."""
    mask = (np.arange(size) < np.array(lengths)[:, None]).astype(np.int32)
    scores = rng.standard_normal((len(lengths), heads, size, size)) * 2
    scores = np.where(mask[:, None, None, :] == 1, scores, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    maps = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    return maps, jnp.asarray(mask)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_regions_against_loops(count):
    lengths = (7, 4, 1)
    maps, mask = softmax_maps(lengths, 7)
    found = pool(maps, EqualRegions(count)(mask, mask))
    for b, n in enumerate(lengths):
        for head in range(2):
            wanted = loops.region_map(maps[b, head], n, count)
            np.testing.assert_allclose(found[b, :, :, head], wanted, atol=2e-6)


def test_a_map_of_regions_is_an_attention_map():
    maps, mask = softmax_maps((12, 5), 12)
    types = (jnp.arange(12) >= 3).astype(int)[None] * mask
    for regions in (EqualRegions(5)(mask, types), SentenceRegions(3, 2)(mask, types)):
        found = pool(maps, regions)
        assert found.shape == (2, 5, 5, 2)
        np.testing.assert_allclose(found.sum(2), 1, atol=1e-5)


def test_regions_of_sentences_see_their_sentence():
    """Sentence 1 looks at sentence 2 alone, and the picture shows it in its upper right."""
    types = jnp.array([[0, 0, 0, 1, 1, 0]])
    mask = jnp.array([[1, 1, 1, 1, 1, 0]])
    maps = jnp.zeros((1, 1, 6, 6)).at[0, 0, :3, 3:5].set(0.5).at[0, 0, 3:5, 0].set(1.0)
    found = pool(maps, SentenceRegions(2, 1)(mask, types))[0, :, :, 0]
    np.testing.assert_allclose(found, [[0, 0, 1], [0, 0, 1], [1, 0, 0]], atol=1e-6)


def test_a_sentence_without_tokens_has_no_regions():
    mask = jnp.array([[1, 1, 0]])
    regions = SentenceRegions(2, 1)(mask, jnp.zeros_like(mask))
    assert regions.exist.tolist() == [[True, True, False]]
    found = pool(jnp.full((1, 1, 3, 3), 1 / 3), regions)
    assert np.isfinite(found).all() and float(jnp.abs(found[0, 2]).max()) == 0


def test_one_region_for_each_token_is_the_map_itself():
    maps, mask = softmax_maps((4, 2), 4)
    found = pool(maps, token_regions(mask, mask))
    real = np.asarray(pair_mask(mask != 0))[:, None]
    np.testing.assert_allclose(np.moveaxis(found, 3, 1), maps * real, atol=1e-6)


@pytest.mark.parametrize("regions", [EqualRegions(4), SentenceRegions(3, 2)])
def test_padding_leaves_no_trace(regions):
    maps, mask = softmax_maps((6,), 11)
    types = (jnp.arange(11) >= 4).astype(int)[None] * mask
    junk = maps.copy()
    junk[:, :, 6:] = rng.random((1, 2, 5, 11))  # rows of padded queries hold anything
    short = pool(maps[..., :6, :6], regions(mask[:, :6], types[:, :6]))
    np.testing.assert_allclose(pool(junk, regions(mask, types)), short, atol=1e-6)


def test_top_left_hides_all_but_the_patch():
    mask = jnp.ones((1, 8, 4), bool).at[0, 1].set(False)
    seen = np.asarray(TopLeft(0.25)(mask))[0]
    assert seen.sum() == 1 and seen[0, 0]
    assert np.asarray(TopLeft(1.0)(mask)).sum() == mask.sum()


def test_standardised_maps_have_mean_zero_and_variance_one_inside_the_mask():
    mask = jnp.asarray(rng.random((2, 5, 5)) < 0.6)
    maps = jnp.asarray(rng.random((2, 3, 5, 5, 2)) + 4, jnp.float32).at[0, 1, :, :, 1].set(7.0)
    found = np.asarray(standardise(maps, mask))
    for b in range(2):
        inside = np.asarray(mask)[b]
        assert np.abs(found[b][:, ~inside]).max() == 0
        values = found[b][:, inside]  # (layers, places, heads)
        np.testing.assert_allclose(values.mean(1), 0, atol=1e-4)
        wanted = np.ones((3, 2))
        wanted[1, 1] = 0 if b == 0 else 1  # does not vary
        np.testing.assert_allclose(values.var(1), wanted, atol=1e-3)
