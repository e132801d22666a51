"""The Q/K/A block: attention-like states that iterate through one spatial kernel."""

import jax

from common.array_types import Array
from common.kernels import CoupledTransition
from common.kernels.transitions import Entries
from cssm.blocks.spectral import Gates, ProjectedBlock
from cssm.gates import decay


class TransformerBlock(ProjectedBlock):
    """Three linear states per channel and frequency, solved by a scan over time.

    With kappa the bounded spectrum of one depthwise kernel and all gates numbers per time and
    frequency:

        Q_t = lambda_Q Q + w kappa K + alpha kappa A + B_Q q_t
        K_t = w kappa Q + lambda_K K + B_K k_t
        A_t = gamma (Q + K) + lambda_A A + B_A a_t

    The decays lambda lie in (0.1, 0.99), the other gates in (0, 1). Read out are the three states
    times C_gate, back in space. Source: TransformerCSSM of drewlinsley/CSSM, January 2026.
    """

    states = ("Q", "K", "A")
    input_gates = ("B_Q", "B_K", "B_A")
    gate_bounds = {
        **dict.fromkeys(("decay_Q", "decay_K", "decay_A"), decay),
        **dict.fromkeys(("w_qk", "alpha", "gamma"), jax.nn.sigmoid),
        **dict.fromkeys(("B_Q", "B_K", "B_A", "C_gate"), jax.nn.sigmoid),
    }

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (Q, K, A)."""
        (kappa,), w = kernels, gates["w_qk"]
        coupled = ((None, w, gates["alpha"]), (w, None, None), (None, None, None))
        return CoupledTransition(local_entries(gates), coupled, kappa)


def local_entries(gates: Gates) -> Entries:
    """Returns what is in M_t of (Q, K, A) besides the kernel's part."""
    gamma = gates["gamma"]
    return (
        (gates["decay_Q"], None, None),
        (None, gates["decay_K"], None),
        (gamma, gamma, gates["decay_A"]),
    )
