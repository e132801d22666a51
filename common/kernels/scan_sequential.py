"""Sequential scan that keeps few states for the backward pass.

Autodiff of `lax.scan` stores every intermediate product of a step. Here the backward pass needs
the states alone: it walks back through the adjoint recurrence and takes each step's vector-Jacobian
product again. From `CHECKPOINT_FROM` steps on only every `CHUNK`-th state is stored, and the others
are computed again chunk by chunk (Griewank and Walther 2000, "Algorithm 799: revolve", with one
level). Sums over time are then sums of the chunks' sums, which also rounds less.

Below `CHECKPOINT_FROM` steps the scan can be differentiated twice; above, the second derivative
must be taken in forward mode (`jax.jvp` of `jax.grad`).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from common.array_types import Array, PyTree
from common.kernels.arrays import (
    Rows,
    at_time,
    cut_rows,
    equally_varying,
    filled_like,
    largest_divisor,
    put_rows,
    put_span,
    put_time,
    span_of_time,
    sum_to_shapes,
)

Step = Callable[[PyTree, PyTree, PyTree], PyTree]

CHECKPOINT_FROM = 128
CHUNK = 64
TILE_BYTES = 2**19
CACHE_BYTES = 2**21


@dataclasses.dataclass(frozen=True)
class Walk:
    """How a recurrence walks through its arrays.

    Attributes:
        step: new state = step(shared, slice, state), affine in the state and elementwise over the
            lanes: arrays that have the time axis among their lanes are fine too.
        axis: position of time in the sliced arrays and in the stacked states.
        reverse: from the last time to the first.
        last_only: return the last state that is reached instead of all of them.
        together: take the cotangents of the coefficients in one pass after the adjoint recurrence,
            which pays where they are as large as outer products of states, and not where they are
            summed over lanes.
    """

    step: Step
    axis: int = 0
    reverse: bool = False
    last_only: bool = False
    together: bool = False


def scan_states(walk: Walk, shared: PyTree, sliced: PyTree, initial: PyTree) -> PyTree:
    """Iterates state = step(shared, slice at t, state) from `initial`.

    Args:
        walk: the step and the way.
        shared: arrays that every step reads.
        sliced: arrays with a time axis of at least one step.
        initial: the state before the first step.

    Returns:
        The states after each step, stacked on the time axis, or the last one.
    """
    return _scan(walk, *equally_varying((shared, sliced, initial)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(walk, shared, sliced, initial):
    if not walk.last_only:
        return _all_states(walk, shared, sliced, initial)
    steps = number_of_steps(walk, sliced)

    def run(last, rows):
        coefficients, state = cut_rows((shared, initial), rows)
        state = advance(walk, coefficients, sliced, state, None, 0, steps, rows)[0]
        return put_rows(last, state, rows)

    tile = first_tile(walk, shared, sliced, initial)
    return over_tiles(run, tile, initial if tile is None else filled_like(initial, None, 0))


def _all_states(walk, shared, sliced, initial):
    def run(buffers, rows):
        coefficients, state = cut_rows((shared, initial), rows)
        steps = number_of_steps(walk, sliced)
        return advance(walk, coefficients, sliced, state, buffers, 0, steps, rows)[1]

    tile = first_tile(walk, shared, sliced, initial)
    return over_tiles(run, tile, state_buffers(walk, sliced, initial))


def forward(walk: Walk, shared: PyTree, sliced: PyTree, initial: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the result of `scan_states` and what `pull_back` needs."""
    if number_of_steps(walk, sliced) >= CHECKPOINT_FROM:
        out, marks = _advance_and_mark(walk, shared, sliced, initial)
        return out, (shared, sliced, initial, marks)
    states = _all_states(walk, shared, sliced, initial)
    out = last_time(walk, states) if walk.last_only else states
    return out, (shared, sliced, initial, states)


def pull_back(walk: Walk, residuals: tuple, adjoint: PyTree, cotangents: PyTree | None) -> tuple:
    """Returns the cotangents of shared, sliced and initial.

    Args:
        walk: that of `forward`.
        residuals: from `forward`.
        adjoint: cotangent of the last state that is reached.
        cotangents: of all states, or None.
    """
    shared, sliced, initial, stored = residuals
    many = number_of_steps(walk, sliced) >= CHECKPOINT_FROM
    pull = _pull_by_chunks if many else _pull
    return pull(walk, shared, sliced, initial, stored, adjoint, cotangents)


def _backward(walk, residuals, cotangent):
    if walk.last_only:
        return pull_back(walk, residuals, cotangent, None)
    zeros = jax.tree.map(jnp.zeros_like, residuals[2])
    return pull_back(walk, residuals, zeros, cotangent)


_scan.defvjp(forward, _backward)


def number_of_steps(walk: Walk, sliced: PyTree) -> int:
    """Returns the length of the time axis."""
    return jax.tree.leaves(sliced)[0].shape[walk.axis]


def first_tile(walk: Walk, shared: PyTree, sliced: PyTree, state: PyTree) -> Rows | None:
    """Returns the first of the tiles that a CPU takes the lanes in, or None for no tiles.

    Where a step touches more than `TILE_BYTES` (with time outermost: its share of the arrays, else
    all of them), the lanes are cut along the first axis that every array has in full and that is
    long enough for tiles below `CACHE_BYTES`, and each tile goes through all steps: what it touches
    stays in a core's cache, and XLA does not deal its operations out to threads.
    """
    steps = number_of_steps(walk, sliced)
    if jax.default_backend() != "cpu" or steps >= CHECKPOINT_FROM:
        return None
    states = jax.tree.leaves(state)
    one = sum(x.nbytes for x in states)
    arrays = sum(x.nbytes for x in jax.tree.leaves(sliced)) + steps * one
    touched = 2 * one + arrays // (steps if walk.axis == 0 else 1)
    if touched < TILE_BYTES:
        return None
    lanes = states[0].shape if isinstance(state, tuple) else states[0].shape[:-1]
    tiles = [
        Rows(axis, 0, largest_divisor(size, size * TILE_BYTES // touched), size)
        for axis, size in enumerate(lanes)
        if size > 1 and _all_have(size, axis, walk, shared, sliced)
    ]
    fits = (t for t in tiles if t.count * touched <= CACHE_BYTES * t.total)
    return next(fits, min(tiles, key=lambda t: t.count / t.total, default=None))


def _all_have(size: int, axis: int, walk: Walk, shared: PyTree, sliced: PyTree) -> bool:
    """Says whether an axis of the lanes has its full size in every array."""
    beside = axis + (axis >= walk.axis)
    sizes = [x.shape[axis] for x in jax.tree.leaves(shared)]
    return all(n == size for n in sizes + [x.shape[beside] for x in jax.tree.leaves(sliced)])


def over_tiles(run: Callable[[PyTree, Rows | None], PyTree], first: Rows | None, carry: PyTree):
    """Returns run(... run(run(carry, first tile), second tile) ..., last tile)."""
    if first is None:
        return run(carry, None)

    def body(i, carry):
        return run(carry, first._replace(start=i * first.count))

    return lax.fori_loop(0, first.total // first.count, body, carry)


def last_time(walk: Walk, states: PyTree) -> PyTree:
    """Returns the last state that is reached."""
    time = 0 if walk.reverse else -1
    return jax.tree.map(lambda x: lax.index_in_dim(x, time, walk.axis, keepdims=False), states)


def _time(walk: Walk, steps: int, step: Any) -> Any:
    """Returns the time of a step, counted in the order of the walk."""
    return steps - 1 - step if walk.reverse else step


def _start(walk: Walk, steps: int, step: Any, count: int) -> Any:
    """Returns the earliest time of `count` steps from `step` on."""
    return steps - count - step if walk.reverse else step


def _hosts(inputs: list[Array], buffers: PyTree) -> list[int | None]:
    """Finds for every buffer of states an input of its shape and dtype, read before it is written.

    The states take the place of such an input in its buffer. Where that input is used later too,
    the compiler copies it first, which costs no more than clearing a buffer.
    """
    hosts: list[int | None] = []
    for buffer in jax.tree.leaves(buffers):
        fits = (
            i
            for i, x in enumerate(inputs)
            if i not in hosts and x.shape == buffer.shape and x.dtype == buffer.dtype
        )
        hosts.append(next(fits, None))
    return hosts


def state_buffers(walk: Walk, sliced: PyTree, initial: PyTree) -> PyTree:
    """Returns arrays for `advance` to store the states in; see `_hosts`."""
    leaves, (states, tree) = jax.tree.leaves(sliced), jax.tree.flatten(initial)
    empty = filled_like(states, number_of_steps(walk, sliced), walk.axis)
    hosts = _hosts(leaves, empty)
    return tree.unflatten(e if h is None else leaves[h] for h, e in zip(hosts, empty, strict=True))


def advance(walk, shared, sliced, state, buffers, first, count, rows=None):
    """Takes `count` steps from step `first` on, and stores the states unless buffers is None.

    With `rows`, `shared` and `state` are those of the rows, the others are whole.
    """
    leaves, tree = jax.tree.flatten(sliced)
    steps, hosts = number_of_steps(walk, sliced), _hosts(leaves, buffers)

    def body(step, carry):
        state, buffers = carry
        time = _time(walk, steps, first + step)
        current = list(leaves)
        if buffers is not None:
            for host, buffer in zip(hosts, jax.tree.leaves(buffers), strict=True):
                if host is not None:
                    current[host] = buffer
        state = walk.step(shared, at_time(tree.unflatten(current), time, walk.axis, rows), state)
        return state, put_time(buffers, state, time, walk.axis, rows)

    return lax.fori_loop(0, count, body, (state, buffers))


def _advance_and_mark(walk, shared, sliced, initial):
    """Runs over all steps and keeps the states before every chunk, without the shorter first."""
    chunks, head = divmod(number_of_steps(walk, sliced), CHUNK)
    buffers = None if walk.last_only else state_buffers(walk, sliced, initial)
    state, buffers = advance(walk, shared, sliced, initial, buffers, 0, head)
    marks = filled_like(state, chunks, 0)

    def body(chunk, carry):
        state, buffers, marks = carry
        marks = put_time(marks, state, chunk, 0)
        first = head + chunk * CHUNK
        return *advance(walk, shared, sliced, state, buffers, first, CHUNK), marks

    state, buffers, marks = lax.fori_loop(0, chunks, body, (state, buffers, marks))
    return state if walk.last_only else buffers, marks


def _pull_by_chunks(walk, shared, sliced, initial, marks, adjoint, cotangents):
    """Walks back chunk by chunk, computing the states of each again from the one before it."""
    steps = number_of_steps(walk, sliced)
    chunks, head = divmod(steps, CHUNK)

    def pull(first, count, state, carry):
        adjoint, d_shared, d_sliced = carry
        start = _start(walk, steps, first, count)
        piece, cotangent = span_of_time((sliced, cotangents), start, count, walk.axis)
        buffers = state_buffers(walk, piece, state)
        _, states = advance(walk, shared, piece, state, buffers, 0, count)
        more, d_piece, adjoint = _pull(walk, shared, piece, state, states, adjoint, cotangent)
        d_shared = jax.tree.map(jnp.add, d_shared, more)
        return adjoint, d_shared, put_span(d_sliced, d_piece, start, walk.axis)

    def body(i, carry):
        chunk = chunks - 1 - i
        return pull(head + chunk * CHUNK, CHUNK, at_time(marks, chunk, 0), carry)

    empty = filled_like(sliced, None, walk.axis)
    carry = (adjoint, jax.tree.map(jnp.zeros_like, shared), empty)
    carry = lax.fori_loop(0, chunks, body, carry)
    adjoint, d_shared, d_sliced = pull(0, head, initial, carry) if head else carry
    return d_shared, d_sliced, adjoint


def _pull(walk, shared, sliced, initial, states, adjoint, cotangents):
    """Returns the cotangents of shared, sliced and of the state before the first step."""
    if not walk.together:
        return _pull_step_by_step(walk, shared, sliced, initial, states, adjoint, cotangents)
    adjoint, adjoints = walk_back(walk, shared, sliced, adjoint, cotangents)
    before = jax.tree.map(partial(shifted, walk), initial, states)
    shared_too = jax.tree.map(lambda x: jnp.expand_dims(x, walk.axis), shared)
    _, pullback = jax.vjp(partial(walk.step, state=before), shared_too, sliced)
    d_shared, d_sliced = pullback(adjoints)
    return jax.tree.map(lambda x: x.squeeze(walk.axis), d_shared), d_sliced, adjoint


def _pull_step_by_step(walk, shared, sliced, initial, states, adjoint, cotangents):
    def run(carry, rows):
        d_shared, d_sliced, d_initial = carry
        piece, start, end = cut_rows((shared, initial, adjoint), rows)
        d_piece, d_sliced, d_start = _pull_rows(
            walk, piece, sliced, start, states, end, cotangents, d_sliced, rows
        )
        return put_rows(d_shared, d_piece, rows), d_sliced, put_rows(d_initial, d_start, rows)

    tile = first_tile(walk, shared, sliced, initial)
    return over_tiles(run, tile, filled_like((shared, sliced, initial), None, 0))


def _pull_rows(walk, shared, sliced, initial, states, adjoint, cotangents, d_sliced, rows):
    steps = number_of_steps(walk, sliced)

    def body(i, carry):
        adjoint, d_shared, d_sliced = carry
        step = steps - 1 - i
        time = _time(walk, steps, step)
        earlier = at_time(states, _time(walk, steps, jnp.maximum(step - 1, 0)), walk.axis, rows)
        before = jax.tree.map(partial(jnp.where, step > 0), earlier, initial)
        if cotangents is not None:
            adjoint = jax.tree.map(jnp.add, adjoint, at_time(cotangents, time, walk.axis, rows))
        slice_t = at_time(sliced, time, walk.axis, rows)
        more, d_slice, adjoint = _pull_step(walk, shared, slice_t, before, adjoint)
        d_sliced = put_time(d_sliced, d_slice, time, walk.axis, rows)
        return adjoint, jax.tree.map(jnp.add, d_shared, more), d_sliced

    carry = (adjoint, jax.tree.map(jnp.zeros_like, shared), d_sliced)
    adjoint, d_shared, d_sliced = lax.fori_loop(0, steps, body, carry)
    return d_shared, d_sliced, adjoint


def _pull_step(walk, shared, slice_t, state, adjoint):
    """Takes one step's vector-Jacobian product.

    Coefficients that lanes share are spread out, and their cotangents summed up together: a single
    pass over states and adjoints instead of one for each.
    """
    lanes = jax.tree.leaves(state)[0].shape
    leaves, tree = jax.tree.flatten((shared, slice_t))
    spread = [jnp.broadcast_to(x, lanes) if x.ndim == len(lanes) else x for x in leaves]
    _, pullback = jax.vjp(walk.step, *tree.unflatten(spread), state)
    *d_coefficients, adjoint = pullback(adjoint)
    sums = sum_to_shapes(jax.tree.leaves(d_coefficients), [x.shape for x in leaves])
    return *tree.unflatten(sums), adjoint


def walk_back(walk, shared, sliced, adjoint, cotangents):
    """Solves the adjoint recurrence; returns its end and the adjoints of each step's result."""
    steps = number_of_steps(walk, sliced)

    def run(carry, rows):
        def body(i, carry):
            adjoint, adjoints = carry
            time = _time(walk, steps, steps - 1 - i)
            if cotangents is not None:
                more = at_time(cotangents, time, walk.axis, rows)
                adjoint = jax.tree.map(jnp.add, adjoint, more)
            adjoints = put_time(adjoints, adjoint, time, walk.axis, rows)
            step = partial(walk.step, coefficients, at_time(sliced, time, walk.axis, rows))
            _, pullback = jax.vjp(step, jax.tree.map(jnp.zeros_like, adjoint))
            return pullback(adjoint)[0], adjoints

        coefficients, start = cut_rows((shared, adjoint), rows)
        end, adjoints = lax.fori_loop(0, steps, body, (start, carry[1]))
        return put_rows(carry[0], end, rows), adjoints

    tile = first_tile(walk, shared, sliced, adjoint)
    empty = filled_like(adjoint, steps, walk.axis)
    return over_tiles(run, tile, (filled_like(adjoint, None, 0), empty))


def shifted(walk: Walk, initial: Array, states: Array) -> Array:
    """Returns the states before each step."""
    initial = jnp.expand_dims(initial, walk.axis)
    kept = states.shape[walk.axis] - 1
    kept = lax.slice_in_dim(states, int(walk.reverse), kept + int(walk.reverse), axis=walk.axis)
    parts = (kept, initial) if walk.reverse else (initial, kept)
    return jnp.concatenate(parts, walk.axis)
