"""Linear recurrences s_t = M_t s_{t-1} + b_t with small n x n matrices: the one entry point."""

import dataclasses
from typing import Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp

from common.array_types import Array, Inexact, PyTree
from common.kernels.arrays import filled_like
from common.kernels.scan_associative import scan_associative
from common.kernels.scan_choice import choose_backend
from common.kernels.scan_chunked import scan_chunked
from common.kernels.scan_native import scan_native, suits
from common.kernels.scan_pallas import scan_pallas
from common.kernels.scan_sequential import Walk, scan_states
from common.kernels.transitions import (
    CoupledTransition,
    GatedInput,
    coupled_walk,
    dense_matrix,
    dense_step,
)

Backend = Literal["auto", "sequential", "associative", "chunked", "native", "pallas"]
Output = Literal["all", "last"]
States = tuple[Array, ...]

SCANS = {
    "sequential": scan_states,
    "chunked": scan_chunked,
    "native": scan_native,
    "pallas": scan_pallas,
}


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
    an array. Coupled: `transition` is a `CoupledTransition` of gates and spectra, `inputs` a
    tuple of n arrays or `GatedInput`s with time as the leading axis, and so is the result; only
    the associative back end builds its matrices.

    The states have the arrays' joint dtype, but float32's precision at least. No steps at all are
    fine: the last state is then the initial one. A sequence may be cut anywhere: the last state of
    one part is the initial one of the next.

    Args:
        transition: M_t.
        inputs: b_t.
        initial: the state before the first step; zero where None.
        backend: 'sequential' (one step after the other), 'associative' (`lax.associative_scan`
            over dense matrices), 'chunked' (sequential in chunks, associative across them),
            'native' (generated code for the CPU; coupled form with real gates), 'pallas' (one GPU
            kernel each way; coupled form with one spectrum, complex64), or 'auto', see
            `choose_backend`. One that is asked for by name is taken, or raises.
        reverse: run from the last time to the first.
        output: 'all' states, or the 'last' one that is reached, without the time axis.

    Raises:
        ValueError: unknown back end or output, shapes that do not fit, or a back end that cannot
            take these arguments on this platform.
    """
    _check_choice("backend", backend, get_args(Backend))
    _check_choice("output", output, get_args(Output))
    with jax.named_scope("scan"):
        return _solve(transition, inputs, initial, backend, reverse, output)


def _solve(transition, inputs, initial, backend: Backend, reverse: bool, output: Output) -> PyTree:
    problem = make_recurrence(transition, inputs, initial, reverse, output == "last")
    if problem.steps == 0:
        return problem.without_steps()
    if backend == "auto":
        shared = suits(problem.walk, problem.shared, problem.sliced, problem.initial)
        choice = choose_backend(problem.steps, problem.lanes, shared_gates=shared)
        backend = cast(Backend, choice.backend)
    if backend == "associative":
        return _associative(transition, inputs, problem)
    several = isinstance(transition, CoupledTransition) and isinstance(transition.spectrum, tuple)
    if backend == "pallas" and several:
        raise ValueError("backend 'pallas' is not available: it takes one spectrum for all rows")
    return SCANS[backend](problem.walk, problem.shared, problem.sliced, problem.initial)


class Recurrence(NamedTuple):
    """A recurrence whose arguments were checked, in the form that the back ends take.

    Attributes:
        walk: its step and direction.
        shared: arrays that every step reads.
        sliced: arrays with a time axis.
        initial: the state before the first step.
        steps: length of the time axis.
    """

    walk: Walk
    shared: PyTree
    sliced: PyTree
    initial: PyTree
    steps: int

    @property
    def lanes(self) -> int:
        """Number of recurrences side by side."""
        first = jax.tree.leaves(self.initial)[0]
        return first.size if isinstance(self.initial, tuple) else first.size // first.shape[-1]

    def without_steps(self) -> PyTree:
        """Returns the result for no steps."""
        if self.walk.last_only:
            return self.initial
        return filled_like(self.initial, 0, self.walk.axis)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {choices}")


def make_recurrence(
    transition: Array | CoupledTransition,
    inputs: Array | tuple[Array | GatedInput, ...],
    initial: Array | States | None,
    reverse: bool,
    last_only: bool,
) -> Recurrence:
    """Checks the arguments of `linear_scan` and brings them into the back ends' form."""
    make = _coupled if isinstance(transition, CoupledTransition) else _dense
    problem = make(transition, inputs, initial)
    walk = dataclasses.replace(problem.walk, reverse=reverse, last_only=last_only)
    return problem._replace(walk=walk)


def _dense(matrices, inputs, initial) -> Recurrence:
    if matrices.shape[:-1] != inputs.shape or matrices.shape[-1:] != inputs.shape[-1:]:
        raise ValueError(
            f"transition {matrices.shape} does not fit inputs {inputs.shape}: "
            "expected (*b, t, n, n) and (*b, t, n)"
        )
    dtype = _accumulation_dtype(matrices, inputs, *([] if initial is None else [initial]))
    lanes, steps = (*inputs.shape[:-2], inputs.shape[-1]), inputs.shape[-2]
    initial = jnp.zeros(lanes, dtype) if initial is None else _checked_initial(initial, lanes)
    walk = Walk(dense_step, inputs.ndim - 2, together=True)
    return Recurrence(walk, (), (matrices, inputs), initial.astype(dtype), steps)


def _accumulation_dtype(*arrays: Array) -> jnp.dtype:
    """Returns the dtype of the states: that of the arrays, of float32's precision at least."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def _checked_initial(initial: Array, lanes: tuple) -> Array:
    if initial.shape != lanes:
        raise ValueError(f"initial has shape {initial.shape}; expected {lanes}")
    return initial


def _coupled(transition, inputs, initial) -> Recurrence:
    inputs = _gated(inputs)
    if len(inputs) != transition.states:
        raise ValueError(f"{transition.states} states need as many inputs; got {len(inputs)}")
    transition.check_spectra()
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
    return Recurrence(*coupled_walk(transition, inputs, steps), initial, steps)


def _gated(inputs: tuple[Array | GatedInput, ...]) -> tuple[GatedInput, ...]:
    return tuple(x if isinstance(x, GatedInput) else GatedInput(None, x) for x in inputs)


def _coupled_shape(transition, inputs):
    """Returns the number of steps and the shape of the lanes."""
    gates = jax.tree.leaves((transition.local, transition.coupled))
    arrays = gates + jax.tree.leaves(inputs)
    steps = max((x.shape[0] for x in gates or arrays), default=0)
    wrong = [x.shape for x in gates if x.shape[0] != steps]
    wrong += [x.gate.shape for x in inputs if x.gate is not None and x.gate.shape[0] != steps]
    wrong += [x.drive.shape for x in inputs if x.drive.shape[0] not in (1, steps)]
    if wrong:
        raise ValueError(f"every gate and input needs {steps} leading time steps; got {wrong}")
    spectra = (x.shape for x in jax.tree.leaves(transition.spectrum))
    lanes = jnp.broadcast_shapes(*spectra, *(x.shape[1:] for x in arrays))
    return steps, lanes


def _associative(transition, inputs, problem: Recurrence):
    walk, initial = problem.walk, problem.initial
    if isinstance(transition, CoupledTransition):
        lanes = initial[0].shape
        matrices = dense_matrix(transition.with_lanes(len(lanes)))
        drives = [x.drive if x.gate is None else x.gate * x.drive for x in _gated(inputs)]
        offsets = [jnp.broadcast_to(x, (problem.steps, *lanes)) for x in drives]
        states = _time_major(walk, matrices, jnp.stack(offsets, -1), jnp.stack(initial, -1))
        return tuple(jnp.moveaxis(states, -1, 0))
    matrices, offsets = jnp.moveaxis(transition, -3, 0), jnp.moveaxis(inputs, -2, 0)
    matrices, offsets = matrices.astype(initial.dtype), offsets.astype(initial.dtype)
    states = _time_major(walk, matrices, offsets, initial)
    return states if walk.last_only else jnp.moveaxis(states, 0, -2)


def _time_major(walk, matrices, offsets, initial):
    if walk.reverse:
        matrices, offsets = matrices[::-1], offsets[::-1]
    states = scan_associative(matrices, offsets, initial)
    if walk.last_only:
        return states[-1]
    return states[::-1] if walk.reverse else states
