"""Scan in chunks: sequential inside each, all chunks side by side, associative across them.

A chunk of L steps is one affine map, s -> P s + v. Three passes: the maps of all chunks at once
(L steps of n + 1 columns), the states at their borders by `lax.associative_scan` over T / L maps,
and all states from there (L steps). Depth L + log(T / L) instead of T, for n + 2 times the work.
For accelerators, which one short step leaves idle; on a CPU the sequential scan is faster.

The backward pass is the same scan over the adjoint recurrence, which runs the other way:
mu_t = M_t^T (mu_{t+1} + c_t) with the cotangents c_t. The gradients of all coefficients come in one
pass over states and adjoints after that. Lengths that the chunk does not divide are filled up with
steps that leave the state as it is.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp

from common.array_types import Array, Inexact, PyTree
from common.kernels.arrays import equally_varying, like_varying, sum_to_shapes
from common.kernels.scan_associative import scan_associative
from common.kernels.scan_sequential import (
    Step,
    Walk,
    advance,
    last_time,
    number_of_steps,
    shifted,
    state_buffers,
)


def scan_chunked(walk: Walk, shared: PyTree, sliced: PyTree, initial: PyTree) -> PyTree:
    """Iterates a recurrence; arguments and result are those of `scan_states`."""
    return _scan(walk, *equally_varying((shared, sliced, initial)))


def chunk_length(steps: int) -> int:
    """Returns the power of two that is nearest to the root of the number of steps."""
    return 2 ** round(math.log2(steps) / 2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(walk, shared, sliced, initial):
    return _solve(walk, shared, sliced, initial)


def _forward(walk, shared, sliced, initial):
    out = _solve(walk, shared, sliced, initial)
    return out, (shared, sliced, initial, None if walk.last_only else out)


def _backward(walk, residuals, cotangent):
    shared, sliced, initial, states = residuals
    if walk.last_only:
        states = _solve(dataclasses.replace(walk, last_only=False), shared, sliced, initial)
        end, cotangents = cotangent, None
    else:
        end, cotangents = jax.tree.map(jnp.zeros_like, initial), cotangent
    back = Walk(AdjointStep(walk.step), walk.axis, not walk.reverse)
    adjoints = _solve(back, shared, (sliced, cotangents), end)
    d_initial = last_time(back, adjoints)
    adjoints = jax.tree.map(partial(shifted, back), end, adjoints)
    if cotangents is not None:
        adjoints = jax.tree.map(jnp.add, adjoints, cotangents)
    before = jax.tree.map(partial(shifted, walk), initial, states)
    return *_coefficient_cotangents(walk, shared, sliced, before, adjoints), d_initial


_scan.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class AdjointStep:
    """Step of the adjoint recurrence of `step`: mu -> M^T (mu + cotangent)."""

    step: Step

    def __call__(self, shared: PyTree, slice_t: PyTree, state: PyTree) -> PyTree:
        """Returns the adjoint of the state before a step from that of the state after it."""
        slice_t, cotangent = slice_t
        if cotangent is not None:
            state = jax.tree.map(jnp.add, state, cotangent)
        zeros = jax.tree.map(jnp.zeros_like, state)
        return jax.vjp(partial(self.step, shared, slice_t), zeros)[1](state)[0]


@dataclasses.dataclass(frozen=True)
class MaskedStep:
    """Step that leaves the state as it is where its slice says so."""

    step: Step

    def __call__(self, shared: PyTree, slice_t: PyTree, state: PyTree) -> PyTree:
        """Returns the new state where the step is one, the old one where it fills up."""
        is_step, slice_t = slice_t
        new = self.step(shared, slice_t, state)
        return jax.tree.map(lambda x, y: jnp.where(_to_rank(is_step, x), x, y), new, state)


@dataclasses.dataclass(frozen=True)
class SummaryStep:
    """Step of the affine map so far: its offset, and the images of the n unit vectors."""

    step: Step

    def __call__(self, shared: PyTree, slice_t: PyTree, state: PyTree) -> PyTree:
        """Returns the map after one more step."""
        offset, columns = state
        step = partial(self.step, shared, slice_t)
        new, move = jax.linearize(step, offset)
        return new, jax.vmap(move)(columns)


def _solve(walk, shared, sliced, initial):
    steps = number_of_steps(walk, sliced)
    length = chunk_length(steps)
    walk, sliced = _in_chunks(walk, sliced, steps, length)
    shared = jax.tree.map(lambda x: jnp.expand_dims(x, walk.axis - 1), shared)
    starts, end = _borders(walk, shared, sliced, initial)
    if walk.last_only:
        return end
    buffers = state_buffers(walk, sliced, starts)
    states = advance(walk, shared, sliced, starts, buffers, 0, length)[1]
    return jax.tree.map(partial(_flatten, walk.axis - 1, steps), states)


def _in_chunks(walk, sliced, steps, length):
    """Splits time into (chunk, time in the chunk), so that chunks become lanes."""
    chunks, axis = -(-steps // length), walk.axis

    def split(x):
        rest = chunks * length - steps
        widths = [(0, rest if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(x, widths).reshape(*x.shape[:axis], chunks, length, *x.shape[axis + 1 :])

    step, pieces = walk.step, jax.tree.map(split, sliced)
    if chunks * length != steps:
        is_step = split(jnp.ones((1,) * axis + (steps,), bool))
        step, pieces = MaskedStep(step), (is_step, pieces)
    return dataclasses.replace(walk, step=step, axis=axis + 1), pieces


def _flatten(axis: int, steps: int, x: Array) -> Array:
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return x[(slice(None),) * axis + (slice(steps),)]


def _to_rank(mask: Array, x: Array) -> Array:
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


def _borders(walk, shared, sliced, initial):
    """Returns the states before each chunk, and the one after the last."""
    axis = walk.axis - 1
    chunks = jax.tree.leaves(sliced)[-1].shape[axis]
    spread = jax.tree.map(lambda x: jnp.stack([x] * chunks, axis), initial)
    matrix, offset = (jnp.moveaxis(x, axis, 0) for x in affine_map(walk, shared, sliced, spread))
    if walk.reverse:
        matrix, offset = matrix[::-1], offset[::-1]
    first = to_vector(initial)
    ends = scan_associative(matrix, offset, first)
    starts = jnp.concatenate([first[None], ends[:-1]])
    starts = jnp.moveaxis(starts[::-1] if walk.reverse else starts, 0, axis)
    return from_vector(starts, initial), from_vector(ends[-1], initial)


def affine_map(
    walk: Walk, shared: PyTree, sliced: PyTree, like: PyTree
) -> tuple[Inexact[Array, "*b n n"], Inexact[Array, "*b n"]]:
    """Returns matrix and offset of the affine map that all steps of a walk make together.

    Args:
        walk: the steps.
        shared: arrays that every step reads.
        sliced: arrays with a time axis.
        like: a state, of which shape and dtype matter.
    """
    vector = to_vector(like)
    n = vector.shape[-1]
    eye = jnp.eye(n, dtype=vector.dtype).reshape(n, *(1,) * (vector.ndim - 1), n)
    columns = like_varying(jnp.broadcast_to(eye, (n, *vector.shape)), vector)
    start = (jax.tree.map(jnp.zeros_like, like), from_vector(columns, like))
    walk = dataclasses.replace(walk, step=SummaryStep(walk.step), last_only=True)
    steps = number_of_steps(walk, sliced)
    offset, columns = advance(walk, shared, sliced, start, None, 0, steps)[0]
    return jnp.moveaxis(to_vector(columns), 0, -1), to_vector(offset)


def to_vector(state: PyTree) -> Inexact[Array, "... n"]:
    """Returns a state as one array: a tuple of n arrays, or that array itself."""
    return jnp.stack(state, -1) if isinstance(state, tuple) else state


def from_vector(vector: Inexact[Array, "... n"], like: PyTree) -> PyTree:
    """Returns an array as a state of the same kind as `like`."""
    return tuple(jnp.moveaxis(vector, -1, 0)) if isinstance(like, tuple) else vector


def _coefficient_cotangents(walk, shared, sliced, before, adjoints):
    """Takes the steps' vector-Jacobian products all at once, with time as one more lane."""
    shape = jax.tree.leaves(before)[0].shape
    shared = jax.tree.map(lambda x: jnp.expand_dims(x, walk.axis), shared)
    leaves, tree = jax.tree.flatten((shared, sliced))
    spread = [jnp.broadcast_to(x, shape) if x.ndim == len(shape) else x for x in leaves]
    _, pullback = jax.vjp(partial(walk.step, state=before), *tree.unflatten(spread))
    sums = sum_to_shapes(jax.tree.leaves(pullback(adjoints)), [x.shape for x in leaves])
    d_shared, d_sliced = tree.unflatten(sums)
    return jax.tree.map(lambda x: x.squeeze(walk.axis), d_shared), d_sliced
