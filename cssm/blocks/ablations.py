"""The Q/K/A block with one thing changed each, to see what it is for.

Source of the list: flags of TransformerCSSM in drewlinsley/CSSM, February to May 2026.
"""

import jax
import jax.numpy as jnp

from common.array_types import Array, Float, Time
from common.kernels import CoupledTransition
from cssm.blocks.spectral import Gates
from cssm.blocks.transformer import TransformerBlock, local_entries


def _without(*names: str) -> dict:
    return {k: bound for k, bound in TransformerBlock.gate_bounds.items() if k not in names}


class AsymmetricBlock(TransformerBlock):
    """Q hears K and K hears Q through gates of their own.

        Q_t = lambda_Q Q + w_k_to_q kappa K + alpha kappa A + B_Q q_t
        K_t = w_q_to_k kappa Q + lambda_K K + B_K k_t
        A_t = gamma (Q + K) + lambda_A A + B_A a_t

    All else is as in the Q/K/A block.
    """

    gate_bounds = _without("w_qk") | dict.fromkeys(("w_k_to_q", "w_q_to_k"), jax.nn.sigmoid)

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (Q, K, A)."""
        (kappa,) = kernels
        coupled = (
            (None, gates["w_k_to_q"], gates["alpha"]),
            (gates["w_q_to_k"], None, None),
            (None, None, None),
        )
        return CoupledTransition(local_entries(gates), coupled, kappa)


class NoFeedbackBlock(TransformerBlock):
    """A listens and does not speak.

        Q_t = lambda_Q Q + w kappa K + B_Q q_t
        K_t = w kappa Q + lambda_K K + B_K k_t
        A_t = gamma (Q + K) + lambda_A A + B_A a_t

    All else is as in the Q/K/A block.
    """

    gate_bounds = _without("alpha")

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (Q, K, A)."""
        (kappa,), w = kernels, gates["w_qk"]
        coupled = ((None, w, None), (w, None, None), (None, None, None))
        return CoupledTransition(local_entries(gates), coupled, kappa)


class NoKeyBlock(TransformerBlock):
    """Two states, without K.

        Q_t = lambda_Q Q + alpha kappa A + B_Q q_t
        A_t = gamma Q + lambda_A A + B_A a_t

    All else is as in the Q/K/A block.
    """

    states = ("Q", "A")
    input_gates = ("B_Q", "B_A")
    gate_bounds = _without("decay_K", "w_qk", "B_K")

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (Q, A)."""
        (kappa,) = kernels
        local = ((gates["decay_Q"], None), (gates["gamma"], gates["decay_A"]))
        return CoupledTransition(local, ((None, gates["alpha"]), (None, None)), kappa)


class UnboundedBlock(TransformerBlock):
    """The Q/K/A block with the plain spectrum of the kernel, of any magnitude."""

    kernel_bound = None


class SteadyGatesBlock(TransformerBlock):
    """The Q/K/A block with gates that see the mean of the input alone, and no position or time."""

    def context(self, x: Array, means: Float[Array, "T b c"], start: Time) -> Array:
        """Returns the mean of each frame as it came in."""
        del start
        plain = x.astype(jnp.float32).mean((-3, -2)).swapaxes(0, 1)
        return jnp.broadcast_to(plain, means.shape)


class PartialReadoutBlock(TransformerBlock):
    """The Q/K/A block of which some states alone are read out.

    Attributes:
        read: their names.
    """

    read: tuple[str, ...] = ("Q",)

    @property
    def read_states(self) -> tuple[str, ...]:
        """Names of the states that are read out.

        Raises:
            ValueError: there is no such state, or none is named.
        """
        if not self.read or not set(self.read) <= set(self.states):
            raise ValueError(f"read is {self.read}; choose one or more of {self.states}")
        return self.read
