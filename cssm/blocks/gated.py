"""The scalar block with an input-dependent step size."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels import CoupledTransition, GatedInput
from cssm.blocks.spectral import Gates, SpectralBlock
from cssm.spectra import Grid

LEAST_STEP = 1e-8


class GatedBlock(SpectralBlock):
    """One linear state per channel and frequency, discretised as in Mamba.

    With kappa the bounded spectrum of one depthwise kernel and the step delta = softplus(.):

        h_t = kappa exp(-delta_t) h + (delta_t + 1e-8) B_t x_t

    Read out is C_t h_t, back in space. There are no projections, and the gates do not see the time.
    Source: GatedCSSM of drewlinsley/CSSM, January 2026 (later versions are another model).
    """

    kernel_init = staticmethod(nn.initializers.normal(0.02))
    gate_bounds = {
        "delta_gate": jax.nn.softplus,
        "B_gate": jax.nn.sigmoid,
        "C_gate": jax.nn.sigmoid,
    }

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (h,)."""
        (kappa,) = kernels
        return CoupledTransition(((None,),), ((jnp.exp(-gates["delta_gate"]),),), kappa)

    def inputs(self, gates: Gates, frames: Array, grid: Grid) -> tuple[GatedInput, ...]:
        """Returns the frames times step size and input gate."""
        return (GatedInput((gates["delta_gate"] + LEAST_STEP) * gates["B_gate"], frames),)

    def read_out(self, states: list[Array], gates: Gates, grid: Grid) -> Float[Array, "T b h w c"]:
        """Returns the gated state, back in space."""
        out = grid.maps(gates["C_gate"] * states[0])
        self.sow_states(out)
        return out.astype(self.dtype)
