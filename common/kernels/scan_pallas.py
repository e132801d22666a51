"""Coupled scan as one Pallas kernel each way, for GPUs by way of Triton.

A program takes a tile of places (frequencies, say) with all of their channels and walks through
time with the state in registers: it reads gates and drives once, and writes the states once. The
backward program walks the other way over the stored states, and sums gate cotangents over the
channels of its tile; those of the spectrum leave as one partial sum per batch element.
Complex numbers are pairs of float32 arrays, which Triton wants.

Tested in Pallas' interpreter and lowered for CUDA; not yet run, let alone measured, on a GPU.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from common.array_types import Array, PyTree
from common.kernels.arrays import equally_varying
from common.kernels.scan_sequential import Walk
from common.kernels.transitions import gates_and_drives

TILE = 512
"""Complex numbers of one state in a tile, about."""

Pair = tuple[Array, Array]

_interpret = ContextVar("interpret", default=False)


@contextlib.contextmanager
def interpreted_pallas(interpret: bool = True) -> Iterator[None]:
    """Runs the 'pallas' back end in Pallas' interpreter: on any platform, slowly, for tests.

    It counts where a scan is traced: what was compiled outside stays as it is.
    """
    token = _interpret.set(interpret)
    try:
        yield
    finally:
        _interpret.reset(token)


def why_unavailable(walk: Walk, initial: PyTree) -> str | None:
    """Returns why the kernel cannot take a recurrence here, or None where it can."""
    if not isinstance(initial, tuple):
        return "it takes coupled transitions, not dense matrices"
    if initial[0].dtype != jnp.complex64:
        return f"it computes in complex64, not in {initial[0].dtype}"
    if jax.default_backend() != "gpu" and not _interpret.get():
        return (
            f"it needs a GPU, and the platform is {jax.default_backend()!r} (tests run it within "
            "`common.kernels.scan_pallas.interpreted_pallas()`)"
        )
    return None


def scan_pallas(walk: Walk, shared: PyTree, sliced: PyTree, initial: PyTree) -> PyTree:
    """Iterates a coupled recurrence; arguments and result are those of `scan_states`.

    Raises:
        ValueError: the kernel cannot take the recurrence on this platform.
    """
    if reason := why_unavailable(walk, initial):
        raise ValueError(f"backend 'pallas' is not available: {reason}")
    shared, sliced, initial = equally_varying((shared, sliced, initial))
    spectrum, lanes = shared[0], initial[0].shape
    numbers, gates, drives = gates_and_drives(walk, shared, sliced)
    tiles = Tiles.of(lanes)
    arrays = (
        [tiles.gate(x) for x in gates],
        _pair(tiles.spectrum(spectrum)),
        tuple(_pair(tiles.time(x)) for x in drives),
        tuple(_pair(tiles.fold(x)) for x in initial),
    )
    steps = sliced[0].shape[0]
    plan = Plan(numbers, walk.reverse, walk.last_only, tiles.places, _interpret.get(), steps)
    states: Any = _scan(plan, *arrays)
    return tuple(tiles.unfold(lax.complex(*s)) for s in states)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the kernels know when they are compiled.

    Attributes:
        layout: (local, coupled, gates) with a gate's number in place of the gate, or None.
        reverse: from the last time to the first.
        last_only: write the last state alone.
        places: places in a tile.
        interpret: run in Pallas' interpreter.
        steps: number of time steps.
    """

    layout: Any
    reverse: bool
    last_only: bool
    places: int
    interpret: bool
    steps: int

    def time(self, step: Any) -> Any:
        """Returns the time of a step, counted in the order of the walk."""
        return self.steps - 1 - step if self.reverse else step


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How lanes of any number of axes become (batch, places, channels), filled up for the tiles.

    Attributes:
        lanes: shape of the states.
        places: places in a tile, a power of two as Triton asks for.
    """

    lanes: tuple[int, ...]
    places: int

    @classmethod
    def of(cls, lanes: tuple[int, ...]) -> "Tiles":
        """Chooses tiles for lanes."""
        channels = _power_of_two(lanes[-1] if lanes else 1)
        return cls(lanes, max(1, min(TILE // channels, _power_of_two(math.prod(lanes[1:-1])))))

    def fold(self, x: Array, leading: int = 0) -> Array:
        """Brings lanes after `leading` axes to (batch, places, channels)."""
        head, lanes = x.shape[:leading], x.shape[leading:]
        batch = lanes[0] if len(lanes) > 1 else 1
        channels = lanes[-1] if lanes else 1
        x = x.reshape(*head, batch, math.prod(lanes[1:-1]), channels)
        fill = (-x.shape[-2] % self.places, _power_of_two(channels) - channels)
        return jnp.pad(x, [(0, 0)] * (leading + 1) + [(0, n) for n in fill])

    def time(self, x: Array) -> Array:
        """Folds an array with a time axis that has every lane."""
        return self.fold(jnp.broadcast_to(x, (x.shape[0], *self.lanes)), 1)

    def gate(self, x: Array) -> Array:
        """Folds a gate; one that all channels share stays so."""
        lanes = self.lanes
        if len(lanes) > 1 and x.shape[-1] == 1:
            lanes = (*lanes[:-1], 1)
        return self.fold(jnp.broadcast_to(x, (x.shape[0], *lanes)).astype(jnp.float32), 1)

    def spectrum(self, x: Array) -> Array:
        """Folds the spectrum; one that the batch shares stays so."""
        lanes = self.lanes
        if len(lanes) > 1 and x.shape[0] == 1:
            lanes = (1, *lanes[1:])
        return self.fold(jnp.broadcast_to(x, lanes))

    def unfold(self, x: Array) -> Array:
        """Brings an array, with a time axis or without, back to the lanes."""
        places = math.prod(self.lanes[1:-1])
        channels = self.lanes[-1] if self.lanes else 1
        return x[..., :places, :channels].reshape(*x.shape[:-3], *self.lanes)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _pair(x: Array) -> Pair:
    x = x.astype(jnp.complex64)
    return x.real, x.imag


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(plan, gates, spectrum, drives, initial):
    return _run_forward(plan, gates, spectrum, drives, initial)


def _forward(plan, gates, spectrum, drives, initial):
    states = _run_forward(
        dataclasses.replace(plan, last_only=False), gates, spectrum, drives, initial
    )
    out = states
    if plan.last_only:
        out = jax.tree.map(lambda s: s[plan.time(plan.steps - 1)], states)
    return out, (gates, spectrum, drives, initial, states)


def _step(layout, gates, spectrum: Pair, drives: tuple[Pair, ...], state: tuple[Pair, ...]):
    """Returns (local + spectrum * coupled) state + gates * drives, in pairs of real arrays."""
    local, coupled, input_gates = jax.tree.map(lambda i: gates[i], layout)
    new = []
    for row, coupled_row, gate, (re, im) in zip(local, coupled, input_gates, drives, strict=True):
        re, im = (re, im) if gate is None else (gate * re, gate * im)
        for entry, (x, y) in zip(row, state, strict=True):
            re, im = (re, im) if entry is None else (re + entry * x, im + entry * y)
        terms = [
            (e * x, e * y) for e, (x, y) in zip(coupled_row, state, strict=True) if e is not None
        ]
        if terms:
            x, y = (sum(parts[1:], start=parts[0]) for parts in zip(*terms, strict=True))
            re, im = re + spectrum[0] * x - spectrum[1] * y, im + spectrum[0] * y + spectrum[1] * x
        new.append((re, im))
    return tuple(new)


def _at(refs: PyTree, time: Any) -> PyTree:
    return jax.tree.map(lambda ref: ref[time if ref.shape[0] > 1 else 0], refs)


def _put(refs: PyTree, values: PyTree, time: Any) -> None:
    for ref, value in zip(jax.tree.leaves(refs), jax.tree.leaves(values), strict=True):
        ref[time] = value


def _whole(refs: PyTree) -> PyTree:
    return jax.tree.map(lambda ref: ref[...], refs)


def _forward_kernel(plan, gates, spectrum, drives, initial, states):
    spectrum = _whole(spectrum)

    def body(step, state):
        time = plan.time(step)
        state = _step(plan.layout, _at(gates, time), spectrum, _at(drives, time), state)
        if not plan.last_only:
            _put(states, state, time)
        return state

    last = lax.fori_loop(0, plan.steps, body, _whole(initial))
    if plan.last_only:
        _put(states, last, ...)


def _backward_kernel(plan, gates, spectrum, drives, initial, states, cotangents, end, *out):
    d_gates, d_spectrum, d_drives, d_initial = out
    spectrum, initial = _whole(spectrum), _whole(initial)
    constant = [ref[0].shape[0] == 1 != plan.steps for ref in drives]
    zeros = jax.tree.map(jnp.zeros_like, spectrum)

    def body(i, carry):
        adjoint, spectrum_sum, drive_sums = carry
        step = plan.steps - 1 - i
        time, earlier = plan.time(step), plan.time(jnp.maximum(step - 1, 0))
        before = jax.tree.map(partial(jnp.where, step > 0), _at(states, earlier), initial)
        if cotangents is not None:
            adjoint = jax.tree.map(jnp.add, adjoint, _at(cotangents, time))
        slices = _at(gates, time), spectrum, _at(drives, time), before
        _, pullback = jax.vjp(partial(_step, plan.layout), *slices)
        gate_t, spectrum_t, drive_t, adjoint = pullback(adjoint)
        _put(d_gates, gate_t, time)
        sums = []
        for is_constant, ref, value, total in zip(
            constant, d_drives, drive_t, drive_sums, strict=True
        ):
            if not is_constant:
                _put(ref, value, time)
            sums.append(jax.tree.map(jnp.add, total, value) if is_constant else total)
        return adjoint, jax.tree.map(jnp.add, spectrum_sum, spectrum_t), tuple(sums)

    carry = (_whole(end), zeros, tuple(zeros if c else None for c in constant))
    adjoint, spectrum_sum, drive_sums = lax.fori_loop(0, plan.steps, body, carry)
    _put(d_spectrum, spectrum_sum, ...)
    _put(d_initial, adjoint, ...)
    for ref, total in zip(d_drives, drive_sums, strict=True):
        if total is not None:
            _put(ref, total, 0)


def _call(plan, kernel, inputs, outputs):
    """Runs a kernel with a program for every batch element and tile of places."""
    flat, tree = jax.tree.flatten(inputs)
    shapes, out_tree = jax.tree.flatten(outputs)
    largest = max(flat, key=lambda x: x.size)
    batch, all_places = largest.shape[-3:-1]

    def specification(x):
        *time, x_batch, _, channels = x.shape
        block = (*time, None, plan.places, channels)
        shared = x_batch == 1
        return pl.BlockSpec(block, lambda b, p: (*(0,) * len(time), 0 if shared else b, p, 0))

    def body(*refs):
        kernel(plan, *tree.unflatten(refs[: len(flat)]), *out_tree.unflatten(refs[len(flat) :]))

    results = pl.pallas_call(
        body,
        grid=(batch, all_places // plan.places),
        in_specs=[specification(x) for x in flat],
        out_specs=[specification(x) for x in shapes],
        out_shape=shapes,
        interpret=plan.interpret,
        compiler_params=None if plan.interpret else triton.CompilerParams(num_warps=4),
    )(*flat)
    return out_tree.unflatten(results)


def _like(x: Array, *leading: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*leading, *x.shape), jnp.float32)


def _run_forward(plan, gates, spectrum, drives, initial):
    leading = () if plan.last_only else (plan.steps,)
    out = jax.tree.map(lambda x: _like(x, *leading), initial)
    return _call(plan, _forward_kernel, (gates, spectrum, drives, initial), (out,))[0]


def _backward(plan, residuals, cotangent):
    gates, spectrum, drives, initial, states = residuals
    if plan.last_only:
        end, cotangents = cotangent, None
    else:
        end, cotangents = jax.tree.map(jnp.zeros_like, initial), cotangent
    per_batch = jax.tree.map(lambda x: _like(initial[0][0]), spectrum)
    gates_like, drives_like, initial_like = jax.tree.map(_like, (gates, drives, initial))
    d_gates, d_spectrum, d_drives, d_initial = _call(
        plan,
        _backward_kernel,
        (gates, spectrum, drives, initial, states, cotangents, end),
        (gates_like, per_batch, drives_like, initial_like),
    )
    if spectrum[0].shape[0] == 1:
        d_spectrum = jax.tree.map(lambda x: x.sum(0, keepdims=True), d_spectrum)
    return d_gates, d_spectrum, d_drives, d_initial


_scan.defvjp(_forward, _backward)
