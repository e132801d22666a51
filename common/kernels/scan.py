"""Linear recurrences s_t = M_t s_{t-1} + b_t with small n x n matrices: the one entry point."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from common.array_types import Array, Inexact
from common.kernels.scan_associative import scan_associative
from common.kernels.scan_sequential import scan_states
from common.kernels.transitions import (
    CoupledTransition,
    GatedInput,
    dense_matrix,
    multiply_entries,
)

Backend = Literal["auto", "sequential", "associative"]
Output = Literal["all", "last"]
States = tuple[Array, ...]


def linear_scan(
    transition: Inexact[Array, "*b t n n"] | CoupledTransition,
    inputs: Inexact[Array, "*b t n"] | tuple[Array | GatedInput, ...],
    initial: Inexact[Array, "*b n"] | States | None = None,
    *,
    backend: Backend = "auto",
    reverse: bool = False,
    output: Output = "all",
) -> Array | States:
    """Solves s_t = M_t s_{t-1} + b_t.

    Two forms. Dense: `transition` holds the matrices, time is the axis before n, and the result is
    an array. Coupled: `transition` is a `CoupledTransition` of gates and one spectrum, `inputs` a
    tuple of n arrays or `GatedInput`s with time as the leading axis, and so is the result; no
    matrix is built by the sequential back end.

    The states have the arrays' joint dtype, but float32's precision at least.

    Args:
        transition: M_t.
        inputs: b_t.
        initial: the state before the first step; zero where None.
        backend: 'sequential' (one step after the other, backward pass over stored states),
            'associative' (`lax.associative_scan`), or 'auto': sequential on a CPU and up to 32
            steps, associative otherwise.
        reverse: run from the last time to the first.
        output: 'all' states, or the 'last' one that is reached, without the time axis.

    Raises:
        ValueError: unknown back end or output, or shapes that do not fit.
    """
    _check_choice("backend", backend, get_args(Backend))
    _check_choice("output", output, get_args(Output))
    if isinstance(transition, CoupledTransition):
        return _coupled_scan(transition, inputs, initial, backend, reverse, output == "last")
    return _dense_scan(transition, inputs, initial, backend, reverse, output == "last")


def choose_backend(steps: int) -> Backend:
    """Names the back end that 'auto' takes for a number of steps on the default platform."""
    if jax.default_backend() == "cpu" or steps <= 32:
        return "sequential"
    return "associative"


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {choices}")


def _dense_scan(matrices, inputs, initial, backend, reverse, last_only):
    if matrices.shape[:-1] != inputs.shape or matrices.shape[-1:] != inputs.shape[-1:]:
        raise ValueError(
            f"transition {matrices.shape} does not fit inputs {inputs.shape}: "
            "expected (*b, t, n, n) and (*b, t, n)"
        )
    dtype = _accumulation_dtype(matrices, inputs, *([] if initial is None else [initial]))
    lanes = (*inputs.shape[:-2], inputs.shape[-1])
    initial = jnp.zeros(lanes, dtype) if initial is None else _checked_initial(initial, lanes)
    matrices, inputs = jnp.moveaxis(matrices, -3, 0), jnp.moveaxis(inputs, -2, 0)
    matrices, inputs, initial = (x.astype(dtype) for x in (matrices, inputs, initial))
    states = _dense_time_major(matrices, inputs, initial, backend, reverse, last_only)
    return states if last_only else jnp.moveaxis(states, 0, -2)


def _accumulation_dtype(*arrays: Array) -> jnp.dtype:
    """Returns the dtype of the states: that of the arrays, of float32's precision at least."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def _checked_initial(initial: Array, lanes: tuple) -> Array:
    if initial.shape != lanes:
        raise ValueError(f"initial has shape {initial.shape}; expected {lanes}")
    return initial


def _dense_time_major(matrices, inputs, initial, backend, reverse, last_only):
    if backend == "auto":
        backend = choose_backend(inputs.shape[0])
    if reverse:
        matrices, inputs = matrices[::-1], inputs[::-1]
    if backend == "sequential":
        states = scan_states(_dense_step, last_only, None, (matrices, inputs), initial)
    else:
        states = scan_associative(matrices, inputs, initial)
        states = states[-1] if last_only else states
    return states[::-1] if reverse and not last_only else states


def _dense_step(_, slice_t, state):
    matrix, offset = slice_t
    return jnp.einsum("...ij,...j->...i", matrix, state) + offset


def _coupled_scan(transition, inputs, initial, backend, reverse, last_only):
    inputs = tuple(GatedInput(None, x) if not isinstance(x, GatedInput) else x for x in inputs)
    if len(inputs) != transition.states:
        raise ValueError(f"{transition.states} states need as many inputs; got {len(inputs)}")
    steps, lanes = _coupled_shape(transition, inputs)
    transition = transition.with_lanes(len(lanes))
    dtype = _accumulation_dtype(*jax.tree.leaves((transition, inputs, initial)))
    if initial is None:
        initial = tuple(jnp.zeros(lanes, dtype) for _ in inputs)
    elif len(initial) != transition.states:
        raise ValueError(
            f"{transition.states} states need as many initial ones; got {len(initial)}"
        )
    initial = tuple(_checked_initial(x, lanes).astype(dtype) for x in initial)
    if backend == "auto":
        backend = choose_backend(steps)
    if backend == "associative":
        offsets = jnp.stack([jnp.broadcast_to(_offset(x), (steps, *lanes)) for x in inputs], -1)
        states = _dense_time_major(
            dense_matrix(transition), offsets, jnp.stack(initial, -1), backend, reverse, last_only
        )
        return tuple(jnp.moveaxis(states, -1, 0))
    return _coupled_sequential(transition, inputs, initial, reverse, last_only, steps)


def _coupled_sequential(transition, inputs, initial, reverse, last_only, steps):
    constant = tuple(x.drive[0] if x.drive.shape[0] == 1 != steps else None for x in inputs)
    varying = tuple(x.drive if c is None else None for x, c in zip(inputs, constant, strict=True))
    shared = (transition.spectrum, constant)
    sliced = (transition.local, transition.coupled, tuple(x.gate for x in inputs), varying)
    if reverse:
        sliced = jax.tree.map(lambda x: x[::-1], sliced)
    states = scan_states(_coupled_step, last_only, shared, sliced, initial)
    return jax.tree.map(lambda x: x[::-1], states) if reverse and not last_only else states


def _coupled_step(shared, slice_t, state):
    spectrum, constant = shared
    local, coupled, gates, varying = slice_t
    moved = multiply_entries(local, coupled, spectrum, state)
    drives = (v if c is None else c for c, v in zip(constant, varying, strict=True))
    return tuple(
        m + (d if g is None else g * d) for m, d, g in zip(moved, drives, gates, strict=True)
    )


def _offset(x: GatedInput) -> Array:
    return x.drive if x.gate is None else x.gate * x.drive


def _coupled_shape(transition, inputs):
    """Returns the number of steps and the shape of the lanes."""
    gates = jax.tree.leaves((transition.local, transition.coupled))
    arrays = gates + jax.tree.leaves(inputs)
    steps = max(x.shape[0] for x in arrays)
    wrong = [x.shape for x in gates if x.shape[0] != steps]
    wrong += [x.gate.shape for x in inputs if x.gate is not None and x.gate.shape[0] != steps]
    wrong += [x.drive.shape for x in inputs if x.drive.shape[0] not in (1, steps)]
    if wrong:
        raise ValueError(f"every gate and input needs {steps} leading time steps; got {wrong}")
    lanes = jnp.broadcast_shapes(transition.spectrum.shape, *(x.shape[1:] for x in arrays))
    return steps, lanes
