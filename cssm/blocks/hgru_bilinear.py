"""The X/Y/Z block: excitation, inhibition and a fast interaction state."""

import jax

from common.array_types import Array
from common.kernels import CoupledTransition
from cssm.blocks.spectral import Gates, ProjectedBlock
from cssm.gates import decay


class HGRUBilinearBlock(ProjectedBlock):
    """Three linear states with an excitatory and an inhibitory kernel, solved by a scan over time.

    With kappa_E and kappa_I the bounded spectra of the two depthwise kernels:

        X_t = lambda_x X - mu_I kappa_I Y - alpha_I kappa_I Z + B x_t
        Y_t = mu_E kappa_E X + lambda_y Y + alpha_E kappa_E Z + D y_t
        Z_t = gamma X + delta Y + lambda_z Z + E z_t

    The decays lambda lie in (0.1, 0.99), the other gates in (0, 1). Read out are the three states
    times C_gate, back in space. In spite of its name it has no product of states. Source:
    HGRUBilinearCSSM of drewlinsley/CSSM, January 2026.
    """

    states = ("X", "Y", "Z")
    input_gates = ("B_gate", "D_gate", "E_gate")
    kernel_names = ("k_exc", "k_inh")
    gate_bounds = {
        **dict.fromkeys(("decay_x_gate", "decay_y_gate", "decay_z_gate"), decay),
        **dict.fromkeys(("mu_inhib_gate", "mu_excit_gate"), jax.nn.sigmoid),
        **dict.fromkeys(("alpha_inhib_gate", "alpha_excit_gate"), jax.nn.sigmoid),
        **dict.fromkeys(("gamma_gate", "delta_gate"), jax.nn.sigmoid),
        **dict.fromkeys(("B_gate", "D_gate", "E_gate", "C_gate"), jax.nn.sigmoid),
    }

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (X, Y, Z)."""
        excitatory, inhibitory = kernels
        local = (
            (gates["decay_x_gate"], None, None),
            (None, gates["decay_y_gate"], None),
            (gates["gamma_gate"], gates["delta_gate"], gates["decay_z_gate"]),
        )
        coupled = (
            (None, -gates["mu_inhib_gate"], -gates["alpha_inhib_gate"]),
            (gates["mu_excit_gate"], None, gates["alpha_excit_gate"]),
            (None, None, None),
        )
        return CoupledTransition(local, coupled, (inhibitory, excitatory, None))
