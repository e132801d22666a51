"""What the recurrence of a spectral model does for given inputs: states, transitions, impulses.

Given its gates a spectral block is linear in its states, s_t = M_t s_{t-1} + b_t, with one small
matrix M_t for each frequency and channel. All functions run one forward pass, may run inside
`jax.jit`, and give their results by the name of the block. Blocks that are not spectral are left
out; what those let one see, `common.analysis.capture` gives.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Complex, Float, PyTree
from common.kernels import CoupledTransition, linear_scan
from common.kernels.transitions import dense_matrix
from cssm.blocks.spectral import SpectralBlock
from cssm.model import SpectralClassifier
from cssm.spectra import Grid

States = list[Complex[Array, "T b h f c"]]
Look = Callable[[CoupledTransition, States, Grid], Array]


def state_names(model: SpectralClassifier) -> dict[str, tuple[str, ...]]:
    """Returns the names of each spectral block's states: ('Q', 'K', 'A') of the Q/K/A block."""
    return {
        str(block.name): tuple(getattr(block, "states", ("h",)))
        for block in model.blocks
        if isinstance(block, SpectralBlock)
    }


def state_histories(
    model: SpectralClassifier, variables: Mapping[str, PyTree], x: Array
) -> dict[str, Float[Array, "T b h w c n"]]:
    """Returns the states of every recurrent block in space, after each step.

    Of spectral blocks they are the states themselves, also those that are not read out; what
    `capture` calls 'states' is what is read of them, times the gate of the read-out. Of other
    recurrent blocks (the delta rule's memories, the pixels of `no_fft`) it is that: what is read.

    Gates differ between frequencies that a real map would have conjugate (those without a
    horizontal part), so that a state's spectrum is not quite that of a real map; as in the
    read-out, `real_inverse_fft2` leaves out the rest.

    Args:
        model: the classifier.
        variables: its collections, e.g. {'params': params}.
        x: images or videos as it takes them.
    """

    def in_space(transition: CoupledTransition, states: States, grid: Grid) -> Array:
        del transition
        return jnp.stack([grid.maps(state) for state in states], -1)

    found, sown = _run(model, variables, x, in_space)
    read = {name: parts["states"][0] for name, parts in sown.items() if "states" in parts}
    return read | found


def transition_matrices(
    model: SpectralClassifier, variables: Mapping[str, PyTree], x: Array
) -> dict[str, Complex[Array, "T b h f c n n"]]:
    """Returns M_t for each frequency and channel: row i is what state i takes from each state.

    Args:
        model: the classifier.
        variables: its collections.
        x: images or videos; the gates in M_t depend on them.
    """

    def matrices(transition: CoupledTransition, states: States, grid: Grid) -> Array:
        del grid
        return dense_matrix(transition.with_lanes(states[0].ndim - 1))

    return _run(model, variables, x, matrices)[0]


def impulse_responses(
    model: SpectralClassifier, variables: Mapping[str, PyTree], x: Array, source: int
) -> dict[str, Float[Array, "T b h w c n"]]:
    """Returns what one cell of one state becomes: M_t ... M_1 applied to a one at the map's middle.

    The gates are those of `x`; no input enters. Every channel gets its own impulse, and the blocks
    do not hear each other.

    Args:
        model: the classifier.
        variables: its collections.
        x: images or videos, for the gates.
        source: number of the state that the impulse is given to.
    """

    def response(transition: CoupledTransition, states: States, grid: Grid) -> Array:
        middle = jnp.zeros((grid.height, grid.width)).at[grid.height // 2, grid.width // 2].set(1.0)
        lanes = states[0].shape[1:]
        impulse = jnp.broadcast_to(grid.spectra(middle, "h w")[None, ..., None], lanes)
        silence = jnp.zeros((1, *lanes), states[0].dtype)
        initial = tuple(
            impulse if i == source else jnp.zeros_like(impulse) for i in range(len(states))
        )
        found = linear_scan(transition, (silence,) * len(states), initial)
        return jnp.stack([grid.maps(state) for state in found], -1)

    return _run(model, variables, x, response)[0]


def _run(
    model: SpectralClassifier, variables: Mapping[str, PyTree], x: Array, look: Look
) -> tuple[dict[str, Array], Mapping[str, Any]]:
    """Runs the model; returns what `look` makes of each spectral block, and the intermediates."""
    transitions: dict[str, CoupledTransition] = {}
    found: dict[str, Array] = {}

    def watch(call: Callable, arguments: Sequence, options: dict, context: Any) -> Any:
        block, result = context.module, call(*arguments, **options)
        if isinstance(block, SpectralBlock):
            name = str(block.name)
            if context.method_name == "transition":
                transitions[name] = result
            elif context.method_name == "read_out":
                found[name] = look(transitions[name], arguments[0], arguments[-1])
        return result

    with nn.intercept_methods(watch):
        # All steps are kept where intermediates are.
        _, sown = model.apply(dict(variables), x, mutable=["intermediates"])
    return found, {k: v for k, v in sown["intermediates"].items() if isinstance(v, Mapping)}
