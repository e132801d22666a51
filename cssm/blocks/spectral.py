"""What all spectral blocks share: transforms, gates, kernels, scan. A variant adds its equation."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Complex, Float, PyTree, Time
from common.kernels import CoupledTransition, GatedInput
from common.kernels.scan_spread import spread_linear_scan
from common.kernels.spread import spread
from common.nn import time_code
from cssm.blocks.base import StateSpaceBlock
from cssm.gates import Bound, GridGate
from cssm.spectra import (
    Grid,
    SpectralDense,
    SpectralReadout,
    frame_means,
    frame_spectra,
    grid_of,
)

Gates = dict[str, Float[Array, "T b h f 1"]]
SPECTRA = "t b h f c"
"""Layout of spectra and gates: rows go over the mesh axis 'frequency'."""


class SpectralBlock(StateSpaceBlock):
    """Linear states per channel and frequency, s_t = M_t s_{t-1} + b_t, solved by a scan.

    A variant says in class variables which kernels and gates there are, and in methods what they
    make of transition, inputs and output. Transforms and scan are in float32.
    """

    kernel_names: ClassVar[tuple[str, ...]] = ("kernel",)
    kernel_init: ClassVar[Any] = staticmethod(nn.initializers.xavier_normal())
    kernel_bound: ClassVar[float | None] = 0.999  # of the spectrum's magnitude
    gate_bounds: ClassVar[Mapping[str, Bound]] = {}

    def context(self, x: Array, means: Float[Array, "T b c"], start: Time) -> Array:
        """Returns what the gates see, (T, b, c): here the mean of each turned frame."""
        del x, start
        return means

    def gates(self, context: Float[Array, "T b c"], grid: Grid) -> Gates:
        """Returns the gates by name."""
        size, dtypes = grid.spectrum_size, (self.dtype, self.param_dtype)
        return {
            name: GridGate(*size, bound, *dtypes, name=name)(context)
            for name, bound in self.gate_bounds.items()
        }

    def transition(self, gates: Gates, *kernels: Complex[Array, "h f c"]) -> CoupledTransition:
        """Returns M_t."""
        raise NotImplementedError

    def inputs(self, gates: Gates, frames: Array, grid: Grid) -> tuple[GatedInput, ...]:
        """Returns b_t."""
        raise NotImplementedError

    def read_out(self, states: list[Array], gates: Gates, grid: Grid) -> Float[Array, "T b h w c"]:
        """Returns the block's output."""
        raise NotImplementedError

    @nn.compact
    def advance(
        self,
        x: Float[Array, "b t h w c"],
        steps: int,
        state: PyTree = None,
        start: Time = 0,
        last_only: bool = False,
    ) -> tuple[Float[Array, "b T h w c"], PyTree]:
        """Returns the output, and the states after the last step, each (b, h, f, c)."""
        grid = grid_of(x, self.kernel_size, self.origin, self.boundary)
        frames = spread(frame_spectra(x, grid, self.rotary, steps, start), SPECTRA)
        gates = self.gates(self.context(x, frame_means(frames, grid, steps), start), grid)
        gates = {name: spread(gate, SPECTRA) for name, gate in gates.items()}
        if self.gate_bounds:
            self.sow("intermediates", "gates", gates)
        last_only = last_only and not self.is_mutable_collection("intermediates")
        states: Any = spread_linear_scan(
            self.transition(gates, *(self._spectrum(name, grid) for name in self.kernel_names)),
            self.inputs(gates, frames, grid),
            state,
            output="last" if last_only else "all",
        )
        if last_only:
            states = [s[None] for s in states]
            gates = {name: gate[-1:] for name, gate in gates.items()}
        out = jnp.moveaxis(self.read_out(states, gates, grid), 0, 1)
        return out, tuple(s[-1] for s in states)

    def _spectrum(self, name: str, grid: Grid) -> Complex[Array, "h f c"]:
        shape = (self.channels, self.kernel_size, self.kernel_size)
        kernel = self.param(name, self.kernel_init, shape, self.param_dtype)
        return grid.kernel_spectrum(kernel, self.origin, self.kernel_bound)

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

    def context(self, x: Array, means: Float[Array, "T b c"], start: Time) -> Array:
        """Returns the mean of each turned frame plus the sinusoidal code of its time."""
        means = super().context(x, means, start)
        steps, _, channels = means.shape
        return means + time_code(steps, channels, start)[:, None]

    def inputs(self, gates: Gates, frames: Array, grid: Grid) -> tuple[GatedInput, ...]:
        """Returns each state's projection of the frames times its gate."""
        dtypes = (self.dtype, self.param_dtype)
        project = SpectralDense(len(self.states), self.channels, *dtypes, name="input_proj")
        drives = project(frames, grid)
        return tuple(
            GatedInput(gates[name], drive)
            for name, drive in zip(self.input_gates, drives, strict=True)
        )

    def read_out(self, states: list[Array], gates: Gates, grid: Grid) -> Float[Array, "T b h w c"]:
        """Returns the projection of the gated states, back in space."""
        named = dict(zip(self.states, states, strict=True))
        chosen, gate = [named[name] for name in self.read_states], gates["C_gate"]
        if self.is_mutable_collection("intermediates"):
            self.sow_states(*(grid.maps(gate * state) for state in chosen))
        dtypes = (self.dtype, self.param_dtype)
        project = SpectralReadout(self.channels, *dtypes, name="output_proj")
        return project(chosen, gate, grid)
