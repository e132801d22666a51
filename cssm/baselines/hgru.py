"""The horizontal gated recurrent unit: a nonlinear recurrence over a map, one step after the other.

Source: Linsley, Kim, Veerabadran, Windolf and Serre 2018, "Learning long-range spatial dependencies
with horizontal gated recurrent units", section 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, PRNGKey
from common.kernels import mixing_conv_2d
from common.nn import LayerNorm
from cssm.model import as_frames

HORIZON = 8
"""Steps that the gates remember at first: their biases begin at -/+ log of 1 to HORIZON - 1."""
NORM_SCALE = 0.1
"""Initial scale of the norms, as in recurrent batch norm."""
CIRCUIT = {"alpha": 0.1, "mu": 1.0, "kappa": 0.5, "beta": 1.0, "omega": 0.5}
"""Weights of the circuit, one for each channel, and what they begin with."""


class HGRUCell(nn.Module):
    """One step of the hGRU; x is the drive, p the state H2 of the step before, * a convolution.

        G1 = sigmoid(norm(U1 p))            C1 = norm(W * (G1 p))
        H1 = tanh(x - C1 (alpha p + mu))
        G2 = sigmoid(norm(U2 H1))           C2 = norm(W * H1)
        H2 = (1 - G2) p + G2 tanh(kappa H1 + beta C2 + omega H1 C2)

    Inhibition is multiplied by the state it acts on (alpha), excitation by its source (omega): the
    bilinear terms, which no scan can parallelise. U1 and U2 are 1 x 1, one kernel W serves both
    stages, and W from channel a to b is W from b to a. The authors' batch norms, one for each step,
    are layer norms over channels here, the same at every step: `common.train` keeps no batch
    statistics, and T is free. Outside the map is zero.

    Attributes:
        channels: width c.
        kernel_size: side of W, odd.
        dtype: compute dtype; parameters are float32.
    """

    channels: int
    kernel_size: int = 15
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: no channels, or a kernel without a centre.
        """
        super().__post_init__()
        if self.channels < 1:
            raise ValueError(f"channels is {self.channels}; expected 1 or more")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; expected an odd number")

    @nn.compact
    def __call__(
        self, state: Float[Array, "b h w c"], x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], None]:
        """Returns the next state, and nothing else, as `nn.scan` wants it."""
        weights = {name: self._per_channel(name, start, x.shape) for name, start in CIRCUIT.items()}
        alpha, mu, kappa, beta, omega = weights.values()
        conv = partial(mixing_conv_2d, kernel=self._kernel(), boundary="zero")
        gain = self._gate("gain", state, remember=False)
        inhibition = self._norm("norm_inhibition", conv(gain * state))
        below = jnp.tanh(x - inhibition * (alpha * state + mu))
        mix = self._gate("mix", below, remember=True)
        excitation = self._norm("norm_excitation", conv(below))
        new = jnp.tanh(kappa * below + beta * excitation + omega * below * excitation)
        return (1 - mix) * state + mix * new, None

    def _per_channel(self, name: str, start: float, shape: tuple[int, ...]) -> Array:
        value = self.param(name, nn.initializers.constant(start), (self.channels,), jnp.float32)
        return jnp.broadcast_to(value.astype(self.dtype), shape)

    def _kernel(self) -> Float[Array, "k k c c"]:
        shape = 2 * (self.kernel_size,) + 2 * (self.channels,)
        raw = self.param("kernel", nn.initializers.xavier_normal(), shape, jnp.float32)
        return (0.5 * (raw + jnp.swapaxes(raw, -1, -2))).astype(self.dtype)

    def _gate(self, name: str, x: Array, remember: bool) -> Array:
        raw = nn.Dense(self.channels, use_bias=False, dtype=self.dtype, name=name)(x)
        bias = _negated(chrono_bias) if remember else chrono_bias
        return jax.nn.sigmoid(self._norm(f"norm_{name}", raw, bias))

    def _norm(self, name: str, x: Array, bias: Callable = nn.initializers.zeros) -> Array:
        scale = nn.initializers.constant(NORM_SCALE)
        return LayerNorm(dtype=self.dtype, scale_init=scale, bias_init=bias, name=name)(x)


class HGRUClassifier(nn.Module):
    """Stem, hGRU from a state of zero, readout of its last state.

    Attributes:
        stem: images to maps.
        cell: one step of the recurrence.
        readout: frames to logits.
        seq_len: time steps that a still image is shown for.
    """

    stem: nn.Module
    cell: HGRUCell
    readout: nn.Module
    seq_len: int

    def setup(self) -> None:
        """Puts the parameters of stem and readout at the top level of the tree."""
        nn.share_scope(self, self.stem)
        nn.share_scope(self, self.readout)

    def __call__(
        self,
        x: Float[Array, "b H W 3"] | Float[Array, "b t H W 3"],
        training: bool = False,
    ) -> Float[Array, "b classes"]:
        """Returns the logits.

        Args:
            x: still images, each shown for `seq_len` steps, or videos with their own t.
            training: for the norms of stem and readout.

        Raises:
            ValueError: x is neither.
        """
        steps = self.seq_len if x.ndim == 4 else x.shape[1]
        x = self.stem(as_frames(x), training)
        return self.readout(_run(self.cell, x, steps)[:, None], training)


def _run(cell: HGRUCell, x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b h w c"]:
    """Returns the state after the last step; the one frame of a still image enters at each."""
    still = x.shape[1] == 1
    drive, axis = (x[:, 0], nn.broadcast) if still else (x, 1)
    scan: Any = nn.scan
    walk = scan(
        lambda cell, state, x: cell(state, x),
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=axis,
        length=steps,
    )
    return walk(cell, jnp.zeros_like(x[:, 0]), drive)[0]


def chrono_bias(key: PRNGKey, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draws log of a uniform time from 1 to HORIZON - 1 steps."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, HORIZON - 1.0))


def _negated(draw: Callable) -> Callable:
    return lambda *arguments: -draw(*arguments)
