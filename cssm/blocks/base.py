"""What all blocks are called by: a whole sequence, or its next piece."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, PyTree, Time
from common.kernels.spectral import Boundary, Origin
from common.nn import Rotary


class StateSpaceBlock(nn.Module):
    """A causal map of frames: the output at time t depends on the frames up to t.

    A variant computes in `advance`, compact, a piece of a sequence from the state before it.

    Attributes:
        channels: width c of the block.
        kernel_size: side of the spatial kernels, in cells of the map.
        rotary: position code applied to the block's input.
        origin: where the kernels' centre lies, see `common.kernels.lay_out_kernel`.
        dtype: compute dtype of the projections; transforms and scan run in float32.
        param_dtype: dtype of the parameters.
        boundary: what lies beyond the map, see `cssm.spectra.Grid`.
    """

    channels: int
    kernel_size: int
    rotary: Rotary
    origin: Origin = "centre"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    boundary: Boundary = "circular"

    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, last_only: bool = False
    ) -> Float[Array, "b T h w c"]:
        """Returns the block's output for a whole sequence, without the residual.

        Args:
            x: input frames; t = 1 is a still image that enters at every step.
            steps: number T of time steps.
            last_only: return the last frame alone (T = 1).
        """
        return self.advance(x, steps, last_only=last_only)[0]

    def advance(
        self,
        x: Float[Array, "b t h w c"],
        steps: int,
        state: PyTree = None,
        start: Time = 0,
        last_only: bool = False,
    ) -> tuple[Float[Array, "b T h w c"], PyTree]:
        """Returns the output for the next piece of a sequence, and the state after it.

        Args:
            x: input frames; t = 1 is a still image that enters at every step.
            steps: number T of time steps.
            state: from the piece before; None before the first.
            start: time of the first step; may be traced.
            last_only: return the last frame alone (T = 1).
        """
        raise NotImplementedError

    def dense(self, width: int, name: str) -> nn.Dense:
        """Returns a linear layer over the channels, in the block's dtypes."""
        return nn.Dense(width, dtype=self.dtype, param_dtype=self.param_dtype, name=name)
