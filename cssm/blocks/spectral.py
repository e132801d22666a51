"""What all spectral blocks share: transforms, gates, kernels, scan. A variant adds its equation."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Complex, Float
from common.kernels import (
    CoupledTransition,
    GatedInput,
    kernel_spectrum,
    linear_scan,
    real_inverse_fft2,
)
from common.kernels.spectral import Origin
from common.nn import Rotary, time_code
from cssm.gates import Bound, GridGate
from cssm.spectra import SpectralDense, SpectralReadout, frame_means, frame_spectra, map_size

Gates = dict[str, Float[Array, "T b h f 1"]]
Size = tuple[int, int]


class SpectralBlock(nn.Module):
    """Linear states per channel and frequency, s_t = M_t s_{t-1} + b_t, solved by a scan.

    A variant says in class variables which kernels and gates there are, and in methods what they
    make of transition, inputs and output. Transforms and scan are in float32.

    Attributes:
        channels: width c of the block.
        kernel_size: side of the spatial kernels, in cells of the map.
        rotary: position code applied to the block's input.
        origin: where the kernels' centre lies, see `common.kernels.lay_out_kernel`.
        dtype: compute dtype of the projections.
    """

    channels: int
    kernel_size: int
    rotary: Rotary
    origin: Origin = "centre"
    dtype: jnp.dtype = jnp.float32

    kernel_names: ClassVar[tuple[str, ...]] = ("kernel",)
    kernel_init: ClassVar[Any] = staticmethod(nn.initializers.xavier_normal())
    kernel_bound: ClassVar[float | None] = 0.999  # of the spectrum's magnitude
    gate_bounds: ClassVar[Mapping[str, Bound]] = {}

    def context(self, x: Array, frames: Array, steps: int) -> Float[Array, "T b c"]:
        """Returns what the gates see: here the mean of each turned frame."""
        return frame_means(frames, map_size(x), steps)

    def gates(self, context: Float[Array, "T b c"], size: Size) -> Gates:
        """Returns the gates by name."""
        height, width = size
        return {
            name: GridGate(height, width // 2 + 1, bound, self.dtype, name=name)(context)
            for name, bound in self.gate_bounds.items()
        }

    def transition(self, gates: Gates, *kernels: Complex[Array, "h f c"]) -> CoupledTransition:
        """Returns M_t."""
        raise NotImplementedError

    def inputs(self, gates: Gates, frames: Array, size: Size) -> tuple[GatedInput, ...]:
        """Returns b_t."""
        raise NotImplementedError

    def read_out(self, states: list[Array], gates: Gates, size: Size) -> Float[Array, "T b h w c"]:
        """Returns the block's output."""
        raise NotImplementedError

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
        size = map_size(x)
        frames = frame_spectra(x, self.rotary, steps)
        gates = self.gates(self.context(x, frames, steps), size)
        if self.gate_bounds:
            self.sow("intermediates", "gates", gates)
        last_only = last_only and not self.is_mutable_collection("intermediates")
        states: Any = linear_scan(
            self.transition(gates, *(self._spectrum(name, size) for name in self.kernel_names)),
            self.inputs(gates, frames, size),
            output="last" if last_only else "all",
        )
        if last_only:
            states = [s[None] for s in states]
            gates = {name: gate[-1:] for name, gate in gates.items()}
        return jnp.moveaxis(self.read_out(states, gates, size), 0, 1)

    def _spectrum(self, name: str, size: Size) -> Complex[Array, "h f c"]:
        shape = (self.channels, self.kernel_size, self.kernel_size)
        kernel = self.param(name, self.kernel_init, shape, jnp.float32)
        spectrum = kernel_spectrum(kernel, *size, origin=self.origin, rho=self.kernel_bound)
        return jnp.moveaxis(spectrum, 0, -1)

    def sow_states(self, *maps: Float[Array, "T b h w c"]) -> None:
        """Stores what is read of the states, (T, b, h, w, c, n), where it is asked for."""
        self.sow("intermediates", "states", jnp.stack(maps, -1))


class ProjectedBlock(SpectralBlock):
    """A spectral block with a projection into its states and one out of them.

    Every state has an input gate; what is read out are the states times 'C_gate'. The gates see
    the time too.
    """

    states: ClassVar[tuple[str, ...]]
    input_gates: ClassVar[tuple[str, ...]]  # one for each state

    @property
    def read_states(self) -> tuple[str, ...]:
        """Names of the states that are read out."""
        return self.states

    def context(self, x: Array, frames: Array, steps: int) -> Float[Array, "T b c"]:
        """Returns the mean of each turned frame plus the sinusoidal code of its time."""
        return super().context(x, frames, steps) + time_code(steps, x.shape[-1])[:, None]

    def inputs(self, gates: Gates, frames: Array, size: Size) -> tuple[GatedInput, ...]:
        """Returns each state's projection of the frames times its gate."""
        project = SpectralDense(len(self.states), self.channels, self.dtype, name="input_proj")
        drives = project(frames, size)
        return tuple(
            GatedInput(gates[name], drive)
            for name, drive in zip(self.input_gates, drives, strict=True)
        )

    def read_out(self, states: list[Array], gates: Gates, size: Size) -> Float[Array, "T b h w c"]:
        """Returns the projection of the gated states, back in space."""
        named = dict(zip(self.states, states, strict=True))
        chosen, gate = [named[name] for name in self.read_states], gates["C_gate"]
        if self.is_mutable_collection("intermediates"):
            self.sow_states(*(real_inverse_fft2(gate * state, size) for state in chosen))
        project = SpectralReadout(self.channels, self.dtype, name="output_proj")
        return project(chosen, gate, size)
