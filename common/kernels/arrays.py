"""Small helpers for arrays with a time axis, in loops and under `shard_map`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from common.array_types import Array, PyTree


def at_time(tree: PyTree, time: Any, axis: int) -> PyTree:
    """Returns every array at one time, without the time axis."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, time, axis, keepdims=False), tree)


def span_of_time(tree: PyTree, start: Any, count: int, axis: int) -> PyTree:
    """Returns `count` times of every array."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, count, axis), tree)


def put_time(tree: PyTree, values: PyTree, time: Any, axis: int, keep: bool = False) -> PyTree:
    """Returns the arrays of `tree`, if it is not None, with `values` written at a time.

    Args:
        tree: arrays with a time axis, or None.
        values: what to write, without the time axis unless `keep` is set.
        time: where to begin.
        axis: position of the time axis.
        keep: whether the values have a time axis.
    """
    if tree is None:
        return None

    def put(x: Array, value: Array) -> Array:
        value = value if keep else jnp.expand_dims(value, axis)
        return lax.dynamic_update_slice_in_dim(x, value, time, axis)

    return jax.tree.map(put, tree, values)


def filled_like(tree: PyTree, count: int | None, axis: int) -> PyTree:
    """Returns buffers like the arrays of `tree`, with a new axis of `count` unless it is None.

    Each is filled with another number: equal ones the compiler would share, and then copy.
    """
    leaves, structure = jax.tree.flatten(tree)

    def fill(number: int, x: Array) -> Array:
        new = () if count is None else (count,)
        shape = (*x.shape[:axis], *new, *x.shape[axis:])
        return like_varying(jnp.full(shape, number, x.dtype), x)

    return structure.unflatten(fill(i, x) for i, x in enumerate(leaves))


def sum_to_shapes(arrays: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Sums arrays over the axes that have length 1 in their shapes; equal ones in one reduction."""
    groups: dict[tuple, list[int]] = {}
    for i, (x, shape) in enumerate(zip(arrays, shapes, strict=True)):
        groups.setdefault((x.shape, shape, x.dtype), []).append(i)
    sums = list(arrays)
    for (wide, shape, dtype), members in groups.items():
        axes = tuple(i for i, (a, b) in enumerate(zip(wide, shape, strict=True)) if a != b)
        if axes:
            zeros = [like_varying(jnp.zeros((), dtype), arrays[i]) for i in members]
            totals = lax.reduce([arrays[i] for i in members], zeros, _add_all, axes)
            for i, total in zip(members, totals, strict=True):
                sums[i] = total.reshape(shape)
    return sums


def _add_all(left: Sequence[Array], right: Sequence[Array]) -> list[Array]:
    return [x + y for x, y in zip(left, right, strict=True)]


def varying_axes(x: Array) -> frozenset[str]:
    """Returns the mesh axes over which an array varies; there are some under `shard_map` alone."""
    kind: Any = jax.typeof(x)  # `vma` before JAX 0.10, `mat.varying` since
    return frozenset(kind.mat.varying if hasattr(kind, "mat") else kind.vma)


def like_varying(x: Array, reference: Array) -> Array:
    """Marks an array as varying over the mesh axes over which `reference` varies."""
    return _mark(x, varying_axes(reference))


def equally_varying(tree: PyTree) -> PyTree:
    """Marks all arrays as varying over every mesh axis over which one of them varies."""
    axes = frozenset().union(*(varying_axes(x) for x in jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: _mark(x, axes), tree)


def _mark(x: Array, axes: frozenset[str]) -> Array:
    missing = tuple(axes - varying_axes(x))
    return lax.pcast(x, missing, to="varying") if missing else x
