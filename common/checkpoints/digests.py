"""Digests by which a damaged array is known.

A leaf's digest is the SHA-256 of its dtype, its shape and its numbers, row by row and
little-endian, so that it does not depend on how or where the array lies in memory or on disk.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from common.array_types import PyTree

CHUNK = 1 << 24
"""Bytes that are hashed at a time, where the array's own memory cannot be hashed as it lies."""


def leaf_digest(array: Any) -> str:
    """Returns the SHA-256 of an array as 64 hexadecimal digits.

    Equal digests mean equal bits: -0.0 differs from 0.0, and one NaN from another.

    Args:
        array: A NumPy or JAX array of any shape, a number, or an array of PRNG keys, which counts
            as the integers beneath it and the name of its generator. If parts of it lie in other
            processes, all of them have to ask.

    Raises:
        TypeError: The array holds anything but numbers.
    """
    name = None
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        array = multihost_utils.process_allgather(array, tiled=True)
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        name, array = str(array.dtype), jax.random.key_data(array)
    numbers = np.asarray(array)
    if numbers.dtype.hasobject or numbers.dtype.kind in "SUMm":
        raise TypeError(f"a digest is of numbers, not of {numbers.dtype}")
    little = numbers.dtype.newbyteorder("<")
    found = hashlib.sha256(f"{name or little.name} {numbers.shape}\n".encode())
    for piece in _pieces(numbers):
        found.update(np.ascontiguousarray(piece, little).view(np.uint8).data)
    return found.hexdigest()


def tree_digests(tree: PyTree) -> dict[str, str]:
    """Returns the digest of each leaf by the leaf's name, sorted by name.

    Raises:
        TypeError: A leaf holds anything but numbers.
    """
    return {name: leaf_digest(leaf) for name, leaf in sorted(named_leaves(tree).items())}


def combined_digest(digests: dict[str, str]) -> str:
    """Returns one digest of a whole tree from those of its leaves, in any order."""
    lines = "".join(f"{name}\t{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves by their places, such as 'params/head/bias', in the tree's order.

    A key that itself holds '/' or '~' has '~1' and '~0' for them, as in a JSON pointer, so that no
    two leaves share a name.
    """
    return {
        "/".join(_escaped(jax.tree_util.keystr((key,), simple=True)) for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _pieces(numbers: np.ndarray) -> list[np.ndarray]:
    """Cuts an array of C order into flat pieces, so that no copy of the whole is ever needed."""
    if not numbers.flags.c_contiguous:
        numbers = np.ascontiguousarray(numbers)
    flat = numbers.reshape(-1)
    step = max(1, CHUNK // max(1, numbers.itemsize))
    return [flat[start : start + step] for start in range(0, flat.size, step)]
