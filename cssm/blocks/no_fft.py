"""A control that must fail: the same kind of recurrence, for each pixel by itself."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, PyTree, Time
from common.kernels import CoupledTransition, GatedInput
from common.kernels.scan_spread import spread_linear_scan
from common.kernels.spread import spread
from common.nn import time_code
from cssm.blocks.base import StateSpaceBlock
from cssm.gates import GridGate

INITIAL_LOGIT = 2.0


class NoFFTBlock(StateSpaceBlock):
    """One linear state per channel and pixel, without any mixing over space.

    With a = sigmoid(logit) per channel, and delta, B, C numbers per time and pixel:

        s_t = a^delta_t s + delta_t B_t m_t,    m = SiLU(first half of the projected input)

    Read out is C_t s_t through an RMS norm, times the SiLU of the other half, projected. Pixels
    meet in the gates' context alone, the mean over space. Source: the no-FFT control of
    drewlinsley/CSSM, May 2026, without its short convolutions.

    There is no kernel: `kernel_size`, `origin` and `boundary` mean nothing here.
    """

    @nn.compact
    def advance(
        self,
        x: Float[Array, "b t h w c"],
        steps: int,
        state: PyTree = None,
        start: Time = 0,
        last_only: bool = False,
    ) -> tuple[Float[Array, "b T h w c"], PyTree]:
        """Returns the output, and the state after the last step, one of (b, h, w, c)."""
        x = jnp.moveaxis(self.rotary(x, steps, start), 1, 0)
        x = spread(jnp.broadcast_to(x, (steps, *x.shape[1:])), "t b h w c")
        memory, output = jnp.split(self.dense(2 * self.channels, "input_proj")(x), 2, -1)
        gates = self._gates(x, start)
        last_only = last_only and not self.is_mutable_collection("intermediates")
        initial = nn.initializers.constant(INITIAL_LOGIT)
        logit = self.param("decay_logit", initial, (self.channels,), self.param_dtype)
        rate = jax.nn.log_sigmoid(logit.astype(jnp.float32))[None, None, None, None]
        drive = jax.nn.silu(memory.astype(jnp.float32))
        states: Any = spread_linear_scan(
            CoupledTransition(((jnp.exp(gates["delta"] * rate),),), ((None,),), (None,)),
            (GatedInput(gates["delta"] * gates["B"], drive),),
            state,
            output="last" if last_only else "all",
        )
        if last_only:
            states, output = [s[None] for s in states], output[-1:]
            gates = {name: gate[-1:] for name, gate in gates.items()}
        read = gates["C"] * states[0]
        self.sow("intermediates", "states", read[..., None])
        norm = nn.RMSNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="norm")
        out = self.dense(self.channels, "output_proj")(norm(read) * jax.nn.silu(output))
        return jnp.moveaxis(out, 0, 1), tuple(s[-1] for s in states)

    def _gates(self, x: Array, start: Time) -> dict[str, Float[Array, "T b h w 1"]]:
        steps, _, height, width, channels = x.shape
        code = time_code(steps, channels, start)[:, None]
        context = x.astype(jnp.float32).mean((-3, -2)) + code
        bounds = {"delta": jax.nn.softplus, "B": jax.nn.sigmoid, "C": jax.nn.sigmoid}
        gates = {
            name: GridGate(height, width, bound, self.dtype, self.param_dtype, name=f"{name}_gate")(
                context
            )
            for name, bound in bounds.items()
        }
        self.sow("intermediates", "gates", gates)
        return gates
