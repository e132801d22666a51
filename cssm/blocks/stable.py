"""Blocks whose recurrence contracts at every frequency, whatever their gates and inputs do."""

import jax.numpy as jnp

from common.array_types import Array, Complex, Float
from common.kernels import CoupledTransition, larger
from common.kernels.transitions import row_spectra
from cssm.blocks.hgru_bilinear import HGRUBilinearBlock
from cssm.blocks.spectral import Gates
from cssm.blocks.transformer import TransformerBlock

RHO = 0.999  # above the largest decay, 0.99


class StableTransformerBlock(TransformerBlock):
    """The Q/K/A block with couplings that take no more than the decays leave.

    The transition of the plain block, M_t, has the decays lambda on its diagonal. Here the other
    entries of every row i are multiplied by one number,

        min(1, (0.999 - lambda_i) / r_i),    r_i = their sum of magnitudes,

    with the kernel's magnitude at a frequency taken as its largest over the channels. Parameters,
    decays in (0.1, 0.99) and all rows that obey the bound already are those of the plain block.

    Every trajectory is bounded. Proof: no row of M_t sums to more than rho = 0.999 in magnitude,
    so |M_t s| <= rho |s| in the maximum norm, for every time, frequency, channel and input. From
    |s_t| <= rho |s_{t-1}| + |b_t| follows |s_t| <= max |b| / (1 - rho). The adjoint states of the
    backward pass, a_{t-1} = M_t^H a_t + ..., contract likewise in the sum of magnitudes. QED.

    A spectral radius below 1 (which follows: no eigenvalue exceeds a norm) would not be enough,
    as M_t changes with time: the matrices (0 2; 0 0) and (0 0; 2 0) have radius 0, and taken in
    turn they double the state. One norm in which all M_t contract is needed. That it is this one
    costs little: for entries of one sign the radius is the least maximum norm over all units of
    the states (Perron, Frobenius), and the projections into and out of the block choose the units.

    Source: for the block, see there; row sums after Gershgorin.
    """

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (Q, K, A), a contraction."""
        return contracted(super().transition(gates, *kernels))


class StableHGRUBilinearBlock(HGRUBilinearBlock):
    """The X/Y/Z block with couplings that take no more than the decays leave.

    Rows are scaled as in `StableTransformerBlock`, and the same proof holds.
    """

    def transition(self, gates: Gates, *kernels: Array) -> CoupledTransition:
        """Returns M_t of (X, Y, Z), a contraction."""
        return contracted(super().transition(gates, *kernels))


def contracted(transition: CoupledTransition, rho: float = RHO) -> CoupledTransition:
    """Scales the entries beside the diagonal so that no row's magnitudes sum to more than rho.

    Args:
        transition: with local entries below rho on the diagonal, and real gates throughout.
        rho: bound of the maximum norm.
    """
    spectra = row_spectra(transition.spectrum, transition.states)
    local, coupled = [], []
    for i, spectrum in enumerate(spectra):
        near, far = transition.local[i], transition.coupled[i]
        factor = _row_factor(i, near, far, spectrum, rho)
        local.append(
            tuple(
                entry if j == i or entry is None else factor * entry for j, entry in enumerate(near)
            )
        )
        coupled.append(tuple(None if entry is None else factor * entry for entry in far))
    return CoupledTransition(tuple(local), tuple(coupled), transition.spectrum)


def _row_factor(
    row: int, local: tuple, coupled: tuple, spectrum: Array | None, rho: float
) -> Float[Array, "t b h f 1"]:
    """Returns min(1, room / need), with room > 0 and without a division by a need of zero."""
    need = sum(abs(entry) for j, entry in enumerate(local) if j != row and entry is not None)
    if spectrum is not None:
        magnitude = _largest_magnitude(spectrum)[None, None]
        need += sum(abs(entry) for entry in coupled if entry is not None) * magnitude
    room = rho - local[row]
    return room / larger(room, jnp.asarray(need))


def _largest_magnitude(spectrum: Complex[Array, "h f c"]) -> Float[Array, "h f 1"]:
    """Returns max |K| over the channels.

    By its place: the gradient of a maximum counts the entries that equal it, and XLA may compute
    the magnitudes anew for the comparison, round otherwise, count none, and divide by zero.
    """
    place = jnp.argmax(jnp.abs(spectrum), -1, keepdims=True)
    return jnp.abs(jnp.take_along_axis(spectrum, place, -1))
