"""Sequential scan that keeps the states alone for the backward pass.

Autodiff of `lax.scan` stores every intermediate product of a step. Here the backward pass walks
back over the stored states and takes each step's own vector-Jacobian product again, which costs
less memory traffic than it saves in arithmetic.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from common.array_types import PyTree

Step = Callable[[PyTree, PyTree, PyTree], PyTree]


def scan_states(
    step: Step, last_only: bool, shared: PyTree, sliced: PyTree, initial: PyTree
) -> PyTree:
    """Iterates state = step(shared, sliced[t], state) from `initial`.

    Args:
        step: the recurrence; pure, of the state's own shape and dtype.
        last_only: return the last state instead of all of them.
        shared: arrays that every step reads.
        sliced: arrays with a leading time axis.
        initial: the state before the first step.

    Returns:
        The states after each step, stacked on a leading time axis, or the last one.
    """
    return _scan(step, last_only, shared, sliced, initial)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(step, last_only, shared, sliced, initial):
    def body(state, slice_t):
        state = step(shared, slice_t, state)
        return state, None if last_only else state

    last, states = lax.scan(body, initial, sliced)
    return last if last_only else states


def _forward(step, last_only, shared, sliced, initial):
    states = _scan(step, False, shared, sliced, initial)
    out = jax.tree.map(lambda s: s[-1], states) if last_only else states
    return out, (shared, sliced, initial, states)


def _backward(step, last_only, residuals, cotangent):
    shared, sliced, initial, states = residuals
    before = jax.tree.map(lambda i, s: jnp.concatenate([i[None], s[:-1]]), initial, states)
    zero_shared = jax.tree.map(jnp.zeros_like, shared)
    if last_only:
        carry, cotangents = cotangent, None
    else:
        carry, cotangents = jax.tree.map(jnp.zeros_like, initial), cotangent

    def body(carry, slices):
        adjoint, shared_sum = carry
        slice_t, state, cotangent_t = slices
        if cotangent_t is not None:
            adjoint = jax.tree.map(jnp.add, adjoint, cotangent_t)
        _, pullback = jax.vjp(step, shared, slice_t, state)
        d_shared, d_slice, adjoint = pullback(adjoint)
        return (adjoint, jax.tree.map(jnp.add, shared_sum, d_shared)), d_slice

    (d_initial, d_shared), d_sliced = lax.scan(
        body, (carry, zero_shared), (sliced, before, cotangents), reverse=True
    )
    return d_shared, d_sliced, d_initial


_scan.defvjp(_forward, _backward)
