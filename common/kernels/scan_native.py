"""Coupled scan as loops of generated code for the CPU, one call each way.

XLA runs a loop on a CPU as one operation after the other, each over all of its arrays. Here a few
rows of the lanes go through all times while they are in the L1 cache, in vector registers: the
states are written once and nothing else is. The backward pass reads the states again where they
are all a result, and else computes them again, a chunk of time after the other. One thread does
the work.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from common.array_types import Array, PyTree
from common.kernels.arrays import equally_varying
from common.kernels.native import Plan, call_native, emit_backward, emit_forward
from common.kernels.native import why_unavailable as why_no_code
from common.kernels.scan_sequential import Walk, forward, scan_states
from common.kernels.transitions import (
    CoupledTransition,
    GatedInput,
    coupled_walk,
    gates_and_drives,
    row_spectra,
)

REALS = {"float32": "float32", "float64": "float64"}
REALS |= {"complex64": "float32", "complex128": "float64"}
"""Dtypes of the states, and of the gates that go with them."""


class Operands(NamedTuple):
    """Arrays of a recurrence whose lanes are r rows of c channels; some have fewer, that repeat.

    Attributes:
        gates: each (t, r), real.
        spectra: each (r, c).
        drives: each (t, r, c), or (1, r, c) where the same one enters at every step.
        initial: each (r, c).
    """

    gates: tuple[Array, ...]
    spectra: tuple[Array, ...]
    drives: tuple[Array, ...]
    initial: tuple[Array, ...]


def why_unavailable(walk: Walk, shared: PyTree, sliced: PyTree, initial: PyTree) -> str | None:
    """Returns why the loops cannot take a recurrence here, or None where they can."""
    if reason := why_no_code():
        return reason
    if not isinstance(initial, tuple):
        return "it takes coupled transitions, not dense matrices"
    if any(jnp.iscomplexobj(gate) for gate in gates_and_drives(walk, shared, sliced)[1]):
        return "it takes real gates"
    return None


def suits(walk: Walk, shared: PyTree, sliced: PyTree, initial: PyTree) -> bool:
    """Says whether the loops can take a recurrence here, with vectors along the channels."""
    if why_unavailable(walk, shared, sliced, initial):
        return False
    return not _each_lane_is_a_row(gates_and_drives(walk, shared, sliced)[1], initial[0].shape)


def scan_native(walk: Walk, shared: PyTree, sliced: PyTree, initial: PyTree) -> PyTree:
    """Iterates a coupled recurrence; arguments and result are those of `scan_states`.

    Raises:
        ValueError: the loops cannot take the recurrence on this platform.
    """
    if reason := why_unavailable(walk, shared, sliced, initial):
        raise ValueError(f"backend 'native' is not available: {reason}")
    if initial[0].size == 0:
        return scan_states(walk, shared, sliced, initial)
    shared, sliced, initial = equally_varying((shared, sliced, initial))
    lanes, dtype = initial[0].shape, initial[0].dtype
    (local, coupled, input_gates), gates, drives = gates_and_drives(walk, shared, sliced)
    own = row_spectra(shared[0], len(initial))
    used = list({id(x): x for x in own if x is not None}.values())
    numbers = tuple(next((i for i, x in enumerate(used) if x is own_x), None) for own_x in own)
    fold = Fold.of(gates, lanes)
    operands = Operands(
        tuple(fold.gate(x).astype(REALS[dtype.name]) for x in gates),
        tuple(fold.spectrum(x).astype(dtype) for x in used),
        tuple(fold.whole(x, 1).astype(dtype) for x in drives),
        tuple(fold.whole(x, 0) for x in initial),
    )
    states: Any = _scan(
        Form(local, coupled, input_gates, numbers, walk.reverse, walk.last_only), operands
    )
    return tuple(fold.unfold(s) for s in states)


def _each_lane_is_a_row(gates: Sequence[Array], lanes: tuple[int, ...]) -> bool:
    return bool(lanes) and lanes[-1] > 1 and any(x.shape[-1] != 1 for x in gates)


class Fold(NamedTuple):
    """How lanes of any number of axes become rows of channels.

    Attributes:
        lanes: shape of the states.
        split: whether each lane is a row of one channel, or the last axis is that of the channels.
    """

    lanes: tuple[int, ...]
    split: bool

    @classmethod
    def of(cls, gates: Sequence[Array], lanes: tuple[int, ...]) -> "Fold":
        """Takes the last axis as channels, unless there is none or a gate differs along it."""
        return cls(lanes, not lanes or _each_lane_is_a_row(gates, lanes))

    @property
    def _full(self) -> tuple[int, ...]:
        return (*self.lanes, 1) if self.split else self.lanes

    @property
    def channels(self) -> int:
        """Numbers in a row."""
        return self._full[-1]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self._full[:-1])

    def gate(self, x: Array) -> Array:
        """Folds a gate (t, ...)."""
        return self._cycle(self._widened(x, 1)[..., 0], 1)

    def spectrum(self, x: Array) -> Array:
        """Folds a spectrum (...)."""
        x = self._widened(x, 0)
        x = jnp.broadcast_to(x, (*x.shape[:-1], self.channels))
        return jnp.moveaxis(self._cycle(jnp.moveaxis(x, -1, 0), 1), 0, -1)

    def whole(self, x: Array, leading: int) -> Array:
        """Folds an array that needs every lane behind its leading axes."""
        x = self._widened(x, leading)
        x = jnp.broadcast_to(x, (*x.shape[:leading], *self._full))
        return x.reshape(*x.shape[:leading], self.rows, self.channels)

    def unfold(self, x: Array) -> Array:
        """Brings an array of rows of channels back to the lanes."""
        return x.reshape(*x.shape[:-2], *self.lanes)

    def _widened(self, x: Array, leading: int) -> Array:
        """Gives an array all of the axes, of length 1 where it lacks them."""
        own = (*x.shape[leading:], 1) if self.split else x.shape[leading:]
        lacking = (1,) * (len(self._full) - len(own))
        return x.reshape(*x.shape[:leading], *lacking, *own)

    def _cycle(self, x: Array, leading: int) -> Array:
        """Flattens the axes of the rows. Those in front may be of length 1: the rows repeat."""
        axes, own = self._full[:-1], x.shape[leading:]
        front = next(i for i in range(len(axes) + 1) if own[i:] == axes[i:])
        shape = own if all(n == 1 for n in own[:front]) else axes
        return jnp.broadcast_to(x, (*x.shape[:leading], *shape)).reshape(*x.shape[:leading], -1)


class Form(NamedTuple):
    """Structure of a recurrence, apart from its sizes; see `Plan`."""

    local: Any
    coupled: Any
    input_gates: tuple[int | None, ...]
    spectra: tuple[int | None, ...]
    reverse: bool
    last_only: bool

    def plan(self, operands: Operands) -> Plan:
        """Returns the plan for some operands."""
        steps = max(len(x) for x in (*operands.gates, *operands.drives))
        rows, channels = operands.initial[0].shape
        dtype = operands.initial[0].dtype.name
        return Plan(
            *self[:4],
            gate_rows=tuple(x.shape[-1] for x in operands.gates),
            spectrum_rows=tuple(x.shape[0] for x in operands.spectra),
            constant=tuple(len(x) == 1 != steps for x in operands.drives),
            steps=steps,
            rows=rows,
            channels=channels,
            double=REALS[dtype] == "float64",
            is_complex=dtype.startswith("complex"),
            reverse=self.reverse,
            last_only=self.last_only,
        )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(form: Form, operands: Operands) -> tuple[Array, ...]:
    return _solve(form, operands)


def _forward(form: Form, operands: Operands) -> tuple[tuple, tuple]:
    states = _solve(form, operands)
    return states, (operands, () if form.last_only else states)


def _backward(form: Form, residuals: tuple, cotangents: tuple[Array, ...]) -> tuple[Operands]:
    return (_pull_back(form, *residuals, cotangents),)


_scan.defvjp(_forward, _backward)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(form: Form, operands: Operands) -> tuple[Array, ...]:
    """Returns the states, each (t, r, c), or (r, c) where the last is wanted."""
    plan, like = form.plan(operands), operands.initial[0]
    shape = like.shape if plan.last_only else (plan.steps, *like.shape)
    results = [jax.ShapeDtypeStruct(shape, like.dtype)] * plan.states
    return tuple(call_native(emit_forward, plan, jax.tree.leaves(operands), results))


@_solve.defjvp
def _solve_jvp(form: Form, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """Takes derivatives of the states in forward mode by way of XLA's loops."""
    return jax.jvp(lambda operands: forward(*_by_steps(form, operands))[0], primals, tangents)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pull_back(
    form: Form, operands: Operands, states: tuple[Array, ...], cotangents: tuple[Array, ...]
) -> Operands:
    """Returns the cotangents of the operands."""
    plan = form.plan(operands)
    leaves, tree = jax.tree.flatten(operands)
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    scratch = jax.ShapeDtypeStruct((plan.scratch["size"],), operands.initial[0].dtype)
    arguments = [*leaves, *states, *cotangents]
    return tree.unflatten(call_native(emit_backward, plan, arguments, [*results, scratch])[:-1])


@_pull_back.defjvp
def _pull_back_jvp(form: Form, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """Takes second derivatives likewise."""

    def pull(operands, states, cotangents):
        del states
        _, pullback = jax.vjp(lambda operands: scan_states(*_by_steps(form, operands)), operands)
        return pullback(cotangents)[0]

    return jax.jvp(pull, primals, tangents)


def _by_steps(form: Form, operands: Operands) -> tuple[Walk, PyTree, PyTree, tuple[Array, ...]]:
    """Returns the recurrence as `scan_states` takes it."""
    rows = operands.initial[0].shape[0]
    gates = [_repeated(x, 1, rows)[..., None] for x in operands.gates]
    spectra = [_repeated(x, 0, rows) for x in operands.spectra]
    local, coupled, input_gates = jax.tree.map(lambda i: gates[i], form[:3])
    spectrum = jax.tree.map(lambda i: spectra[i], form.spectra)
    inputs = tuple(map(GatedInput, input_gates, operands.drives))
    transition = CoupledTransition(local, coupled, spectrum)
    walk, shared, sliced = coupled_walk(transition, inputs, form.plan(operands).steps)
    walk = dataclasses.replace(walk, reverse=form.reverse, last_only=form.last_only)
    return walk, shared, sliced, operands.initial


def _repeated(x: Array, axis: int, rows: int) -> Array:
    return jnp.concatenate([x] * (rows // x.shape[axis]), axis)
