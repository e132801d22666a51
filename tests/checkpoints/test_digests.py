"""Digests tell any two arrays apart whose dtype, shape or bits differ, and no others."""

import hashlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from common.checkpoints import digests
from common.checkpoints.digests import combined_digest, leaf_digest, named_leaves, tree_digests


def test_digest_is_of_dtype_shape_and_bytes() -> None:
    array = np.array([[1.0, -0.0], [np.nan, 2.5]], np.float32)
    expected = hashlib.sha256(b"float32 (2, 2)\n" + array.astype("<f4").tobytes()).hexdigest()
    assert leaf_digest(array) == leaf_digest(jnp.asarray(array)) == expected
    assert leaf_digest(array.astype(">f4")) == leaf_digest(np.asfortranarray(array)) == expected


def test_every_difference_is_seen() -> None:
    zeros = np.zeros(4, np.float32)
    flipped = zeros.copy()
    flipped.view(np.uint8)[13] = 1
    others = [zeros.reshape(2, 2), zeros.view(np.int32), -zeros, zeros[:3], flipped, zeros[:0]]
    others.append(zeros[:4].astype(ml_dtypes.bfloat16))
    assert len({leaf_digest(array) for array in (zeros, *others)}) == 8


def test_large_arrays_are_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(1000, dtype=np.int16).reshape(10, 100)
    whole = leaf_digest(array)
    monkeypatch.setattr(digests, "CHUNK", 64)
    assert leaf_digest(array) == leaf_digest(np.asfortranarray(array)) == whole


def test_keys_and_numbers_have_digests() -> None:
    key = jax.random.key(3)
    assert leaf_digest(key) == leaf_digest(jax.random.key(3)) != leaf_digest(jax.random.key(4))
    assert leaf_digest(key) != leaf_digest(jax.random.key_data(key))
    assert leaf_digest(0.5) == leaf_digest(np.float64(0.5))
    with pytest.raises(TypeError, match="not of object"):
        leaf_digest(np.array([None]))


def test_trees_are_named_leaf_by_leaf() -> None:
    tree = {"b": [np.zeros(1), np.ones(1)], "a": {"x/y": np.zeros(2)}, "a/x": {"y": np.zeros(3)}}
    assert list(named_leaves(tree)) == ["a/x~1y", "a~1x/y", "b/0", "b/1"]
    found = tree_digests(tree)
    assert found["b/1"] == leaf_digest(np.ones(1))
    assert combined_digest(found) == combined_digest(dict(reversed(found.items())))
    assert combined_digest(found) != combined_digest(found | {"b/1": found["b/0"]})
