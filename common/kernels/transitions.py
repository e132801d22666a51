"""Transition matrices of a linear recurrence: dense, or gates coupled through one spectrum."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from common.array_types import Array, Complex, Inexact, PyTree
from common.kernels.scan_sequential import Walk

Entries = tuple[tuple[Array | None, ...], ...]


class CoupledTransition(NamedTuple):
    """Transition M_t = local_t + spectrum * coupled_t of n states, never built as a matrix.

    Attributes:
        local: n x n entries, each an array (t, ...) or None for a structural zero.
        coupled: n x n entries that the spectrum multiplies, likewise.
        spectrum: complex array without time axis, broadcast against the lanes of the states.
    """

    local: Entries
    coupled: Entries
    spectrum: Complex[Array, "..."]

    @property
    def states(self) -> int:
        """Number n of states."""
        return len(self.local)

    def with_lanes(self, rank: int) -> "CoupledTransition":
        """Returns the same transition with the spectrum broadcast to lanes of `rank` axes."""
        missing = tuple(range(rank - self.spectrum.ndim))
        return self._replace(spectrum=jnp.expand_dims(self.spectrum, missing))


class GatedInput(NamedTuple):
    """Input b_t = gate_t * drive of one state.

    Attributes:
        gate: array (t, ...), or None for 1.
        drive: array (t, ...), or (1, ...) where the same drive enters at every step.
    """

    gate: Array | None
    drive: Array


def multiply_entries(
    local: Entries, coupled: Entries, spectrum: Array, state: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Returns (local + spectrum * coupled) state, leaving out the structural zeros."""
    return tuple(
        _row(local_row, state) + spectrum * _row(coupled_row, state)
        if any(entry is not None for entry in coupled_row)
        else _row(local_row, state)
        for local_row, coupled_row in zip(local, coupled, strict=True)
    )


def _row(entries: tuple[Array | None, ...], state: tuple[Array, ...]) -> Array:
    terms = [e * s for e, s in zip(entries, state, strict=True) if e is not None]
    return sum(terms[1:], start=terms[0]) if terms else jnp.zeros_like(state[0])


def dense_matrix(transition: CoupledTransition) -> Complex[Array, "t ... n n"]:
    """Returns the matrices of a coupled transition `with_lanes`, for back ends that need them."""
    gates = [g for rows in (transition.local, transition.coupled) for r in rows for g in r]
    spectrum = transition.spectrum[None]
    shape = jnp.broadcast_shapes(spectrum.shape, *(g.shape for g in gates if g is not None))

    def entry(local: Array | None, coupled: Array | None) -> Array:
        value = jnp.zeros(shape, spectrum.dtype)
        if local is not None:
            value = value + local
        if coupled is not None:
            value = value + spectrum * coupled
        return value

    rows = [
        jnp.stack([entry(*pair) for pair in zip(local_row, coupled_row, strict=True)], -1)
        for local_row, coupled_row in zip(transition.local, transition.coupled, strict=True)
    ]
    return jnp.stack(rows, -2)


def dense_step(
    _: PyTree, slice_t: tuple[Array, Array], state: Inexact[Array, "*b n"]
) -> Inexact[Array, "*b n"]:
    """Returns M s + b. Elementwise: XLA has no fast product of very small matrices on a CPU."""
    matrix, offset = slice_t
    return (matrix * state[..., None, :]).sum(-1) + offset


@dataclasses.dataclass(frozen=True)
class CoupledStep:
    """Step of a coupled recurrence over arrays of which none comes twice.

    Attributes:
        layout: (local, coupled, gates, drives) with the number of an array in place of the array,
            or None.
    """

    layout: Any

    def __call__(self, shared: PyTree, slice_t: list[Array], state: tuple[Array, ...]) -> PyTree:
        """Returns (local + spectrum * coupled) state + gates * drives."""
        spectrum, constant = shared
        local, coupled, gates, varying = jax.tree.map(lambda i: slice_t[i], self.layout)
        moved = multiply_entries(local, coupled, spectrum, state)
        drives = (v if c is None else c for c, v in zip(constant, varying, strict=True))
        return tuple(
            m + (d if g is None else g * d) for m, d, g in zip(moved, drives, gates, strict=True)
        )


def coupled_walk(
    transition: CoupledTransition, inputs: tuple[GatedInput, ...], steps: int
) -> tuple[Walk, PyTree, list[Array]]:
    """Returns walk, shared and sliced arrays of a coupled recurrence for `scan_states`."""
    constant = tuple(x.drive[0] if x.drive.shape[0] == 1 != steps else None for x in inputs)
    varying = tuple(x.drive if c is None else None for x, c in zip(inputs, constant, strict=True))
    gates = tuple(x.gate for x in inputs)
    layout, sliced = without_repeats((transition.local, transition.coupled, gates, varying))
    return Walk(CoupledStep(layout)), (transition.spectrum, constant), sliced


def without_repeats(tree: PyTree) -> tuple[PyTree, list[Array]]:
    """Returns the tree with numbers for arrays, and the arrays: one in two places comes once."""
    numbers: dict[int, int] = {}
    layout = jax.tree.map(lambda x: numbers.setdefault(id(x), len(numbers)), tree)
    leaves = {id(x): x for x in jax.tree.leaves(tree)}
    return layout, list(leaves.values())
