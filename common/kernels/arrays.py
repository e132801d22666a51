"""Small helpers for arrays with a time axis, in loops and under `shard_map`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from common.array_types import Array, PyTree


class Rows(NamedTuple):
    """A part of the lanes.

    Attributes:
        axis: the axis that is cut, as it is numbered in arrays without a time axis.
        start: first index.
        count: number of them.
        total: length of the axis.
    """

    axis: int
    start: Any
    count: int
    total: int

    def axis_beside(self, time_axis: int) -> int:
        """Returns the number of the axis in arrays with a time axis."""
        return self.axis + (self.axis >= time_axis)


def largest_divisor(number: int, at_most: int) -> int:
    """Returns the largest divisor of a number up to a bound, and 1 where the bound is less."""
    return max(n for n in range(1, max(1, min(number, at_most)) + 1) if number % n == 0)


def at_time(tree: PyTree, time: Any, axis: int, rows: Rows | None = None) -> PyTree:
    """Returns every array, or some rows of it, at one time, without the time axis."""

    def at(x: Array) -> Array:
        if rows is None:
            return lax.dynamic_index_in_dim(x, time, axis, keepdims=False)
        sizes = list(x.shape)
        sizes[axis], sizes[rows.axis_beside(axis)] = 1, rows.count
        return lax.dynamic_slice(x, _starts(x, time, axis, rows), sizes).squeeze(axis)

    return jax.tree.map(at, tree)


def _starts(x: Array, time: Any, axis: int, rows: Rows) -> list[Any]:
    starts: list[Any] = [0] * x.ndim
    starts[axis], starts[rows.axis_beside(axis)] = time, rows.start
    return starts


def cut_rows(tree: PyTree, rows: Rows | None) -> PyTree:
    """Returns some rows of every array, or all where `rows` is None."""
    if rows is None:
        return tree
    start, count, axis = rows.start, rows.count, rows.axis
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, count, axis), tree)


def put_rows(tree: PyTree, values: PyTree, rows: Rows | None) -> PyTree:
    """Returns the arrays of `tree` with `values` written into some rows, or into all."""
    return values if rows is None else put_span(tree, values, rows.start, rows.axis)


def span_of_time(tree: PyTree, start: Any, count: int, axis: int) -> PyTree:
    """Returns `count` times of every array."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, count, axis), tree)


def put_time(
    tree: PyTree, values: PyTree, time: Any, axis: int, rows: Rows | None = None
) -> PyTree:
    """Returns the arrays of `tree`, if it is not None, with `values` written at one time."""
    if tree is None:
        return None

    def put(x: Array, value: Array) -> Array:
        value = jnp.expand_dims(value, axis)
        if rows is None:
            return lax.dynamic_update_slice_in_dim(x, value, time, axis)
        return lax.dynamic_update_slice(x, value, _starts(x, time, axis, rows))

    return jax.tree.map(put, tree, values)


def put_span(tree: PyTree, values: PyTree, start: Any, axis: int) -> PyTree:
    """Returns the arrays of `tree` with `values` written from one index of an axis on."""

    def put(x: Array, value: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(x, value, start, axis)

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
