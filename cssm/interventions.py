"""Causal tests: change one part of what a spectral model computes, and see what the answer becomes.

Each intervention is a context manager for calls of `model.apply`, in which it acts on all spectral
blocks or on the one named `block` ('cssm_0'). They may be nested:

    with remove_state(2), keep_frequencies(0.0, 0.1):
        logits = model.apply(variables, images)

JAX keeps compiled functions by the function, not by what they were traced in: jit a function of its
own, such as a lambda, inside of each context. Values, bands and steps may be traced, so that one
compilation serves all of them; what is traced is not checked:

    @jax.jit
    def logits(variables, images, low, high):
        with remove_frequencies(low, high):
            return model.apply(variables, images)
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.core import Tracer

from common.analysis import radial_frequencies
from common.array_types import Array, Float, Int
from common.kernels import CoupledTransition, GatedInput
from common.kernels.transitions import Entries
from cssm.blocks.spectral import SpectralBlock
from cssm.gates import GridGate
from cssm.spectra import Grid

Number = float | Float[Array, ""]
Step = int | Int[Array, ""]
Inputs = tuple[GatedInput, ...]
Change = Callable[[nn.Module, Sequence[Any], Any], Any]
"""change(module, arguments of the call, what it returned) is returned instead."""


def hold_gate(
    name: str, value: Number | None = None, block: str | None = None
) -> contextlib.AbstractContextManager[None]:
    """Holds a gate at one value everywhere: what is in it besides does not reach the answer.

    Args:
        name: of the gate, as in the parameters: 'alpha', 'decay_Q'.
        value: what it is held at; by default its own mean over steps, examples and frequencies.
        block: name of the block, or None for all.

    Raises:
        ValueError: on leaving, where no gate of this name was met.
    """

    def held(gate: nn.Module, arguments: Sequence[Any], values: Array) -> Array:
        del gate, arguments
        return jnp.full_like(values, values.mean() if value is None else value)

    def chosen(module: nn.Module) -> bool:
        of = module.parent.name if isinstance(module.parent, nn.Module) else None
        return isinstance(module, GridGate) and module.name == name and block in (None, of)

    return _changed({"__call__": held}, chosen, f"gate {name!r}")


def remove_state(index: int, block: str | None = None) -> contextlib.AbstractContextManager[None]:
    """Takes one state out of the recurrence: it stays zero, and acts on no other.

    Args:
        index: place of the state, from 0: those of the transformer block are Q, K and A.
        block: name of the block, or None for all.

    Raises:
        ValueError: there are fewer states; on leaving, where no block was met.
    """

    def uncoupled(
        module: nn.Module, arguments: Sequence[Any], transition: CoupledTransition
    ) -> CoupledTransition:
        del arguments
        if not 0 <= index < transition.states:
            raise ValueError(
                f"{module.name} has {transition.states} states and none of index {index}"
            )
        local = _decoupled(transition.local, index)
        coupled = _decoupled(transition.coupled, index)
        return transition._replace(local=local, coupled=coupled)

    def silent(module: nn.Module, arguments: Sequence[Any], inputs: Inputs) -> Inputs:
        del module, arguments
        return tuple(
            GatedInput(drive.gate, jnp.zeros_like(drive.drive)) if i == index else drive
            for i, drive in enumerate(inputs)
        )

    return _changed({"transition": uncoupled, "inputs": silent}, _blocks(block), "spectral block")


def keep_frequencies(
    low: Number, high: Number, block: str | None = None
) -> contextlib.AbstractContextManager[None]:
    """Lets only a band of spatial frequencies into the recurrence.

    Frequencies do not meet in it, so that the states of the others stay zero. The band is that of
    the distance from zero frequency, low <= sqrt(f_y^2 + f_x^2) < high, in cycles for each cell of
    the block's map; the largest is sqrt(1/2). The gates are left as they are.

    Args:
        low: lower end of the band.
        high: upper end, beyond it.
        block: name of the block, or None for all.

    Raises:
        ValueError: the band is empty; on leaving, where no block was met.
    """
    return _changed({"inputs": _filter(low, high, keep=True)}, _blocks(block), "spectral block")


def remove_frequencies(
    low: Number, high: Number, block: str | None = None
) -> contextlib.AbstractContextManager[None]:
    """Keeps a band of spatial frequencies out of the recurrence, and lets in all others.

    Args:
        low: lower end of the band, as in `keep_frequencies`.
        high: upper end, beyond it.
        block: name of the block, or None for all.

    Raises:
        ValueError: the band is empty; on leaving, where no block was met.
    """
    return _changed({"inputs": _filter(low, high, keep=False)}, _blocks(block), "spectral block")


def _filter(low: Number, high: Number, keep: bool) -> Change:
    """Returns the change of a block's inputs that keeps a band, or removes it."""
    traced = isinstance(low, Tracer) or isinstance(high, Tracer)
    if not traced and not 0 <= low < high:
        raise ValueError(f"the band from {low} to {high} is empty")

    def filtered(module: nn.Module, arguments: Sequence[Any], inputs: Inputs) -> Inputs:
        del module
        grid: Grid = arguments[-1]
        radius = jnp.asarray(radial_frequencies(grid.rows, grid.columns), jnp.float32)
        inside = (low <= radius) & (radius < high)
        mask = (inside == keep).astype(jnp.float32)[None, None, ..., None]
        return tuple(GatedInput(drive.gate, drive.drive * mask) for drive in inputs)

    return filtered


def skip_steps(
    steps: Sequence[Step], block: str | None = None
) -> contextlib.AbstractContextManager[None]:
    """Keeps the frames of some time steps out of the recurrence, which goes on without them.

    The gates still see them.

    Args:
        steps: numbers of the steps, from 0.
        block: name of the block, or None for all.

    Raises:
        ValueError: there are fewer steps; on leaving, where no block was met.
    """

    def without(module: nn.Module, arguments: Sequence[Any], inputs: Inputs) -> Inputs:
        del arguments
        gate = inputs[0].gate
        count = len(inputs[0].drive) if gate is None else len(gate)
        known = [step for step in steps if not isinstance(step, Tracer)]
        if outside := [step for step in known if not 0 <= step < count]:
            raise ValueError(f"{module.name} makes {count} steps and none of number {outside[0]}")
        mask = jnp.ones((count, 1, 1, 1, 1)).at[jnp.asarray(steps, int)].set(0.0)
        return tuple(GatedInput(d.gate, d.drive * mask) for d in inputs)

    return _changed({"inputs": without}, _blocks(block), "spectral block")


def _decoupled(entries: Entries, index: int) -> Entries:
    """Puts structural zeros where one state acts on another or another on it."""
    return tuple(
        tuple(entry if (i == index) == (j == index) else None for j, entry in enumerate(row))
        for i, row in enumerate(entries)
    )


def _blocks(name: str | None) -> Callable[[nn.Module], bool]:
    return lambda module: isinstance(module, SpectralBlock) and name in (None, module.name)


@contextlib.contextmanager
def _changed(
    changes: dict[str, Change], chosen: Callable[[nn.Module], bool], what: str
) -> Iterator[None]:
    """Replaces what methods of some modules return, by a function of it."""
    met = False

    def intercept(call: Callable, arguments: Sequence, options: dict, context: Any) -> Any:
        nonlocal met
        result = call(*arguments, **options)
        if context.method_name not in changes or not chosen(context.module):
            return result
        met = True
        return changes[context.method_name](context.module, arguments, result)

    with nn.intercept_methods(intercept):
        yield
    if not met:
        raise ValueError(f"no {what} was met that the intervention is for")
