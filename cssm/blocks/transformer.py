"""The Q/K/A block: attention-like states that iterate through one spatial kernel."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Complex, Float
from common.kernels import CoupledTransition, GatedInput, kernel_spectrum, linear_scan
from common.kernels.spectral import Origin
from common.nn import Rotary
from cssm.gates import SpectralGate, decay, gate_context

STATES = ("Q", "K", "A")


class TransformerBlock(nn.Module):
    """Three linear states per channel and frequency, solved by a scan over time.

    With kappa the bounded spectrum of one depthwise kernel and all gates numbers per time and
    frequency:

        Q_t = lambda_Q Q + w kappa K + alpha kappa A + B_Q q_t
        K_t = w kappa Q + lambda_K K + B_K k_t
        A_t = gamma (Q + K) + lambda_A A + B_A a_t

    The decays lambda lie in (0.1, 0.99), the other gates in (0, 1). Read out are the three states
    times C_gate, back in space. Source: TransformerCSSM of drewlinsley/CSSM, January 2026.

    Attributes:
        channels: width c of the block.
        kernel_size: side of the spatial kernel, in cells of the map.
        rotary: position code applied to the block's input.
        origin: where the kernel's centre lies, see `common.kernels.lay_out_kernel`.
        dtype: compute dtype of the projections; transforms and scan run in float32.
    """

    channels: int
    kernel_size: int
    rotary: Rotary
    origin: Origin = "centre"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, last_only: bool = False
    ) -> Float[Array, "b T h w c"]:
        """Returns the block's output without the residual.

        Args:
            x: input frames; t = 1 is a still image that enters at every step.
            steps: number T of time steps.
            last_only: return the last frame alone (T = 1).
        """
        height, width = x.shape[-3:-1]
        x = self.rotary(x, steps)
        gates = self._gates(gate_context(x, steps), height, width // 2 + 1)
        kernel = self.param(
            "kernel",
            nn.initializers.xavier_normal(),
            (self.channels, self.kernel_size, self.kernel_size),
        )
        spectrum = kernel_spectrum(kernel, height, width, origin=self.origin)
        spectrum = jnp.moveaxis(spectrum, 0, -1)
        drives = self._drives(x)
        last_only = last_only and not self.is_mutable_collection("intermediates")
        states = linear_scan(
            _transition(gates, spectrum),
            tuple(GatedInput(gates[f"B_{s}"], d) for s, d in zip(STATES, drives, strict=True)),
            output="last" if last_only else "all",
        )
        out_gate = gates["C_gate"][-1] if last_only else gates["C_gate"]
        out = jnp.stack([_to_space(out_gate * s, height, width) for s in states], -1)
        self.sow("intermediates", "states", out)
        return self._project_out(out[None] if last_only else out)

    def _gates(self, context: Array, height: int, frequencies: int) -> dict[str, Array]:
        bounds = {f"decay_{s}": decay for s in STATES}
        names = ("w_qk", "alpha", "gamma", *(f"B_{s}" for s in STATES), "C_gate")
        bounds |= dict.fromkeys(names, jax.nn.sigmoid)
        gates = {}
        for name, bound in bounds.items():
            gate = SpectralGate(height, frequencies, bound, self.dtype, name=name)
            gates[name] = gate(context)
        self.sow("intermediates", "gates", gates)
        return gates

    def _drives(self, x: Array) -> list[Complex[Array, "t b h f c"]]:
        projected = nn.Dense(3 * self.channels, dtype=self.dtype, name="input_proj")(x)
        projected = jnp.moveaxis(projected.astype(jnp.float32), 1, 0)
        return jnp.split(jnp.fft.rfft2(projected, axes=(-3, -2)), 3, axis=-1)

    def _project_out(self, states: Float[Array, "T b h w c n"]) -> Float[Array, "b T h w c"]:
        interleaved = states.reshape(*states.shape[:-2], -1)
        out = nn.Dense(self.channels, dtype=self.dtype, name="output_proj")(interleaved)
        return jnp.moveaxis(out, 0, 1)


def _to_space(spectra: Array, height: int, width: int) -> Float[Array, "*b h w c"]:
    return jnp.fft.irfft2(spectra, s=(height, width), axes=(-3, -2))


def _transition(gates: dict[str, Array], spectrum: Array) -> CoupledTransition:
    gamma, w = gates["gamma"], gates["w_qk"]
    local = (
        (gates["decay_Q"], None, None),
        (None, gates["decay_K"], None),
        (gamma, gamma, gates["decay_A"]),
    )
    coupled = ((None, w, gates["alpha"]), (w, None, None), (None, None, None))
    return CoupledTransition(local, coupled, spectrum)
