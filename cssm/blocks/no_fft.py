"""A control that must fail: the same kind of recurrence, for each pixel by itself."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels import CoupledTransition, GatedInput, linear_scan
from common.kernels.spectral import Origin
from common.nn import Rotary, time_code
from cssm.gates import GridGate

INITIAL_LOGIT = 2.0


class NoFFTBlock(nn.Module):
    """One linear state per channel and pixel, without any mixing over space.

    With a = sigmoid(logit) per channel, and delta, B, C numbers per time and pixel:

        s_t = a^delta_t s + delta_t B_t m_t,    m = SiLU(first half of the projected input)

    Read out is C_t s_t through an RMS norm, times the SiLU of the other half, projected. Pixels
    meet in the gates' context alone, the mean over space. Source: the no-FFT control of
    drewlinsley/CSSM, May 2026, without its short convolutions.

    Attributes:
        channels: width c of the block.
        kernel_size: not used, there is no kernel.
        rotary: position code applied to the block's input.
        origin: not used.
        dtype: compute dtype of the projections; the scan runs in float32.
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
        x = jnp.moveaxis(self.rotary(x, steps), 1, 0)
        projected = nn.Dense(2 * self.channels, dtype=self.dtype, name="input_proj")(x)
        memory, output = jnp.split(projected, 2, -1)
        gates = self._gates(x, steps)
        last_only = last_only and not self.is_mutable_collection("intermediates")
        logit = self.param(
            "decay_logit", nn.initializers.constant(INITIAL_LOGIT), (self.channels,), jnp.float32
        )
        rate = jax.nn.log_sigmoid(logit)[None, None, None, None]
        drive = jax.nn.silu(memory.astype(jnp.float32))
        (state,) = linear_scan(
            CoupledTransition(((jnp.exp(gates["delta"] * rate),),), ((None,),), (None,)),
            (GatedInput(gates["delta"] * gates["B"], drive),),
            output="last" if last_only else "all",
        )
        read = gates["C"][-1] * state if last_only else gates["C"] * state
        self.sow("intermediates", "states", read[..., None])
        read = nn.RMSNorm(dtype=self.dtype, name="norm")(read[None] if last_only else read)
        output = output[-1:] if last_only else output
        out = nn.Dense(self.channels, dtype=self.dtype, name="output_proj")(
            read * jax.nn.silu(output)
        )
        return jnp.moveaxis(out, 0, 1)

    def _gates(self, x: Array, steps: int) -> dict[str, Float[Array, "T b h w 1"]]:
        height, width = x.shape[-3:-1]
        context = x.astype(jnp.float32).mean((-3, -2)) + time_code(steps, x.shape[-1])[:, None]
        bounds = {"delta": jax.nn.softplus, "B": jax.nn.sigmoid, "C": jax.nn.sigmoid}
        gates = {
            name: GridGate(height, width, bound, self.dtype, name=f"{name}_gate")(context)
            for name, bound in bounds.items()
        }
        self.sow("intermediates", "gates", gates)
        return gates
