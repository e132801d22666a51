"""The X/Y block: excitation against inhibition."""

import jax

from common.array_types import Array
from common.kernels import CoupledTransition
from cssm.blocks.spectral import Gates, ProjectedBlock
from cssm.gates import decay


class OpponentBlock(ProjectedBlock):
    """Two linear states that oppose each other through two kernels, solved by a scan over time.

    With kappa_E and kappa_I the bounded spectra of an excitatory and an inhibitory kernel:

        X_t = lambda_x X - mu kappa_I Y + B x_t
        Y_t = gamma kappa_E X + lambda_y Y + D y_t

    The decays lambda lie in (0.1, 0.99), the other gates in (0, 1). Read out are both states times
    C_gate, back in space. Source: the opponent blocks of drewlinsley/CSSM, January 2026, in the
    form with bounded decays and an input to each state.
    """

    states = ("X", "Y")
    input_gates = ("B_gate", "D_gate")
    kernel_names = ("k_exc", "k_inh")
    gate_bounds = {
        **dict.fromkeys(("decay_x_gate", "decay_y_gate"), decay),
        **dict.fromkeys(("mu_gate", "gamma_gate"), jax.nn.sigmoid),
        **dict.fromkeys(("B_gate", "D_gate", "C_gate"), jax.nn.sigmoid),
    }

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (X, Y)."""
        excitatory, inhibitory = kernels
        local = ((gates["decay_x_gate"], None), (None, gates["decay_y_gate"]))
        coupled = ((None, -gates["mu_gate"]), (gates["gamma_gate"], None))
        return CoupledTransition(local, coupled, (inhibitory, excitatory))
