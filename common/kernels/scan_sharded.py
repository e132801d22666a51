"""A scan whose time axis lies on several devices.

Every device reduces its block of time to one affine map, an n x n matrix and an offset per lane.
One all-gather exchanges the maps, each device folds those of the blocks before its own into the
state it starts from, and scans its block. Backward the matrices are known: one adjoint walk from
zero gives each block's offset, one all-gather exchanges those, and the block's own backward pass
follows. Exact; per device the memory is that of a block and of the maps of all devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from common.array_types import Array, Inexact
from common.kernels.arrays import equally_varying
from common.kernels.scan import Output, States, make_recurrence
from common.kernels.scan_chunked import affine_map, from_vector, to_vector
from common.kernels.scan_sequential import Walk, forward, pull_back, walk_back
from common.kernels.transitions import CoupledTransition, GatedInput


def sharded_linear_scan(
    transition: Inexact[Array, "*b t n n"] | CoupledTransition,
    inputs: Inexact[Array, "*b t n"] | tuple[Array | GatedInput, ...],
    initial: Inexact[Array, "*b n"] | States | None = None,
    *,
    mesh: Mesh,
    axis: str,
    reverse: bool = False,
    output: Output = "all",
) -> Array | States:
    """Solves s_t = M_t s_{t-1} + b_t with time spread over a mesh axis; see `linear_scan`.

    Differentiable in every argument. Other mesh axes stay with the compiler: batch or channels may
    be spread over them.

    Args:
        transition: M_t.
        inputs: b_t.
        initial: the state before the first step; zero where None.
        mesh: the devices.
        axis: the mesh axis that carries time.
        reverse: run from the last time to the first.
        output: 'all' states, spread over the axis as the inputs are, or the 'last' one, which every
            device then has.

    Raises:
        ValueError: shapes that do not fit, or a number of steps that the devices do not divide.
    """
    problem = make_recurrence(transition, inputs, initial, reverse, output == "last")
    devices = mesh.shape[axis]
    if problem.steps % devices:
        raise ValueError(f"{problem.steps} steps do not spread evenly over {devices} devices")
    if problem.steps == 0:
        return problem.without_steps()
    walk = problem.walk
    on_time = P(*(None,) * walk.axis, axis)
    scan = jax.shard_map(
        partial(_scan_block, walk, axis),
        mesh=mesh,
        in_specs=(P(), on_time, P()),
        out_specs=P() if walk.last_only else on_time,
        axis_names={axis},
    )
    return scan(problem.shared, problem.sliced, problem.initial)


def scan_own_block(
    transition: Inexact[Array, "*b t n n"] | CoupledTransition,
    inputs: Inexact[Array, "*b t n"] | tuple[Array | GatedInput, ...],
    initial: Inexact[Array, "*b n"] | States | None = None,
    *,
    axis: str,
    output: Output = "all",
) -> Array | States:
    """Solves what `sharded_linear_scan` does, inside of `jax.shard_map`.

    Args:
        transition: M_t of this device's steps.
        inputs: b_t of these steps.
        initial: the state before the first step of all.
        axis: the mesh axis that carries time.
        output: the states of these steps, or the last one of all.
    """
    problem = make_recurrence(transition, inputs, initial, False, output == "last")
    return _scan_block(problem.walk, axis, problem.shared, problem.sliced, problem.initial)


def _scan_block(walk, name, shared, sliced, initial):
    out = _scan(walk, name, *equally_varying((shared, sliced, initial)))
    if not walk.last_only:
        return out
    last = _position(walk, name) == lax.axis_size(name) - 1
    return jax.tree.map(lambda x: lax.psum(jnp.where(last, x, 0), name), out)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(walk, name, shared, sliced, initial):
    return _forward(walk, name, shared, sliced, initial)[0]


def _forward(walk, name, shared, sliced, initial):
    matrix, offset = affine_map(walk, shared, sliced, initial)
    maps = lax.all_gather(jnp.concatenate([matrix, offset[..., None]], -1), name)
    matrices, offsets = maps[..., :-1], maps[..., -1]
    order = range(len(matrices))
    blocks = list(reversed(order)) if walk.reverse else list(order)
    start = _fold(walk, name, to_vector(initial), blocks, matrices, offsets)
    out, residuals = forward(walk, shared, sliced, from_vector(start, initial))
    return out, (residuals, matrices)


def _backward(walk, name, residuals, cotangent):
    (shared, sliced, start, stored), matrices = residuals
    zeros = jax.tree.map(jnp.zeros_like, start)
    end, cotangents = (cotangent, None) if walk.last_only else (zeros, cotangent)
    offset = to_vector(walk_back(walk, shared, sliced, end, cotangents)[0])
    offsets = lax.all_gather(offset, name)
    order = range(len(matrices))
    blocks = list(order) if walk.reverse else list(reversed(order))
    back = Walk(walk.step, walk.axis, not walk.reverse)
    later = _fold(back, name, jnp.zeros_like(offset), blocks, matrices.mT, offsets)
    end = jax.tree.map(jnp.add, end, from_vector(later, start))
    residuals = (shared, sliced, start, stored)
    d_shared, d_sliced, d_initial = pull_back(walk, residuals, end, cotangents)
    first = _position(walk, name) == 0
    d_initial = jax.tree.map(lambda x: jnp.where(first, x, 0), d_initial)
    return d_shared, d_sliced, d_initial


_scan.defvjp(_forward, _backward)


def _position(walk: Walk, name: str) -> Array:
    """Returns how many blocks the walk passes before it comes to this device's."""
    index = lax.axis_index(name)
    return lax.axis_size(name) - 1 - index if walk.reverse else index


def _fold(walk, name, start, blocks, matrices, offsets) -> Array:
    """Returns the state in which the walk, through the blocks in turn, reaches this device's."""
    here = _position(walk, name)
    state, found = start, start
    for passed, block in enumerate(blocks[:-1], start=1):
        state = (matrices[block] * state[..., None, :]).sum(-1) + offsets[block]
        found = jnp.where(here == passed, state, found)
    return found
