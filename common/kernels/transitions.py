"""Transition matrices of a linear recurrence: dense, or gates coupled through one spectrum."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from common.array_types import Array, Complex, Inexact, PyTree
from common.kernels.scan_sequential import Walk

Entries = tuple[tuple[Array | None, ...], ...]
Spectrum = Complex[Array, "..."] | tuple[Complex[Array, "..."] | None, ...]


class CoupledTransition(NamedTuple):
    """Transition M_t = local_t + spectrum * coupled_t of n states, never built as a matrix.

    Attributes:
        local: n x n entries, each an array (t, ...) or None for a structural zero.
        coupled: n x n entries that the spectrum multiplies, likewise.
        spectrum: complex array without time axis, broadcast against the lanes of the states; or a
            tuple of n such arrays, one for each row, with None for rows that nothing multiplies.
    """

    local: Entries
    coupled: Entries
    spectrum: Spectrum

    @property
    def states(self) -> int:
        """Number n of states."""
        return len(self.local)

    def with_lanes(self, rank: int) -> "CoupledTransition":
        """Returns the same transition with the spectra broadcast to lanes of `rank` axes."""

        def widened(spectrum: Array) -> Array:
            return jnp.expand_dims(spectrum, tuple(range(rank - spectrum.ndim)))

        return self._replace(spectrum=jax.tree.map(widened, self.spectrum))

    def check_spectra(self) -> None:
        """Checks that every row with coupled entries has a spectrum.

        Raises:
            ValueError: one has none, or there are more or fewer spectra than rows.
        """
        spectra = row_spectra(self.spectrum, self.states)
        if len(spectra) != self.states:
            raise ValueError(f"{self.states} rows need as many spectra; got {len(spectra)}")
        for i, (row, spectrum) in enumerate(zip(self.coupled, spectra, strict=True)):
            if spectrum is None and any(entry is not None for entry in row):
                raise ValueError(f"row {i} has coupled entries but no spectrum")


class GatedInput(NamedTuple):
    """Input b_t = gate_t * drive of one state.

    Attributes:
        gate: array (t, ...), or None for 1.
        drive: array (t, ...), or (1, ...) where the same drive enters at every step.
    """

    gate: Array | None
    drive: Array


def row_spectra(spectrum: Spectrum, states: int) -> tuple[Array | None, ...]:
    """Returns the spectrum of each row."""
    return spectrum if isinstance(spectrum, tuple) else (spectrum,) * states


def multiply_entries(
    local: Entries, coupled: Entries, spectrum: Spectrum, state: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Returns (local + spectrum * coupled) state, leaving out the structural zeros."""
    spectra = row_spectra(spectrum, len(state))
    return tuple(
        _row(local_row, state)
        if kappa is None or all(entry is None for entry in coupled_row)
        else _row(local_row, state) + kappa * _row(coupled_row, state)
        for local_row, coupled_row, kappa in zip(local, coupled, spectra, strict=True)
    )


def _row(entries: tuple[Array | None, ...], state: tuple[Array, ...]) -> Array:
    terms = [e * s for e, s in zip(entries, state, strict=True) if e is not None]
    return sum(terms[1:], start=terms[0]) if terms else jnp.zeros_like(state[0])


def dense_matrix(transition: CoupledTransition) -> Inexact[Array, "t ... n n"]:
    """Returns the matrices of a coupled transition `with_lanes`, for back ends that need them."""
    leaves = jax.tree.leaves((transition.local, transition.coupled))
    spectra = jax.tree.map(lambda x: x[None], transition.spectrum)
    dtype = jnp.result_type(*leaves, *jax.tree.leaves(spectra))
    shape = jnp.broadcast_shapes(*(x.shape for x in (*leaves, *jax.tree.leaves(spectra))))

    def entry(local: Array | None, coupled: Array | None, spectrum: Array | None) -> Array:
        value = jnp.zeros(shape, dtype)
        if local is not None:
            value = value + local
        if coupled is not None and spectrum is not None:
            value = value + spectrum * coupled
        return value

    rows = [
        jnp.stack([entry(*pair, spectrum) for pair in zip(local_row, coupled_row, strict=True)], -1)
        for local_row, coupled_row, spectrum in zip(
            transition.local,
            transition.coupled,
            row_spectra(spectra, transition.states),
            strict=True,
        )
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


def gates_and_drives(
    walk: Walk, shared: PyTree, sliced: list[Array]
) -> tuple[Any, list[Array], tuple[Array, ...]]:
    """Takes the arrays of a coupled recurrence apart, for back ends with a step of their own.

    Returns:
        (local, coupled, input gates) with the number of a gate in place of the gate, or None; the
        gates; and the drives, each (t, ...) or (1, ...).
    """
    step, (_, constant) = walk.step, shared
    assert isinstance(step, CoupledStep)
    *places, drives = step.layout
    used = sorted(set(jax.tree.leaves(places)))
    numbers = jax.tree.map(used.index, tuple(places))
    whole = (sliced[i] if c is None else c[None] for i, c in zip(drives, constant, strict=True))
    return numbers, [sliced[i] for i in used], tuple(whole)


def without_repeats(tree: PyTree) -> tuple[PyTree, list[Array]]:
    """Returns the tree with numbers for arrays, and the arrays: one in two places comes once."""
    numbers: dict[int, int] = {}
    layout = jax.tree.map(lambda x: numbers.setdefault(id(x), len(numbers)), tree)
    leaves = {id(x): x for x in jax.tree.leaves(tree)}
    return layout, list(leaves.values())
