"""The plainest block: one fixed kernel, applied at every step."""

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels import CoupledTransition, GatedInput
from cssm.blocks.spectral import Gates, SpectralBlock
from cssm.spectra import Grid


class StandardBlock(SpectralBlock):
    """h_t = kappa h + x_t, with kappa the bounded spectrum of one depthwise kernel.

    Read out is h_t, back in space. No gates, no projections. Source: StandardCSSM of
    drewlinsley/CSSM, January 2026.
    """

    kernel_init = staticmethod(nn.initializers.normal(0.02))

    def gates(self, context: Float[Array, "T b c"], grid: Grid) -> Gates:
        """Returns an open gate, which carries the number of steps."""
        del grid
        return {"open": jnp.ones((context.shape[0], 1, 1, 1, 1))}

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (h,)."""
        (kappa,) = kernels
        return CoupledTransition(((None,),), ((gates["open"],),), kappa)

    def inputs(self, gates: Gates, frames: Array, grid: Grid) -> tuple[GatedInput, ...]:
        """Returns the frames."""
        return (GatedInput(None, frames),)

    def read_out(self, states: list[Array], gates: Gates, grid: Grid) -> Float[Array, "T b h w c"]:
        """Returns the state, back in space."""
        out = grid.maps(states[0])
        self.sow_states(out)
        return out.astype(self.dtype)
