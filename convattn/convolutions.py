"""Short convolutions over time, one kernel for each channel, and the smearing of keys.

Each takes whole sequences through `__call__` and pieces of them through `extend`, with the same
numbers; what a piece needs of those before it is its state.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels import causal_conv, causal_conv_state


class CausalConv(nn.Module):
    """y_t = bias + sum_j kernel[j] x_{t - (k - 1) + j}: the input and the k - 1 before it.

    Attributes:
        channels: size of the last axis.
        taps: k, length of the kernel; the last tap meets the current input.
        dtype: of the result; sums are in float32 at least.
    """

    channels: int
    taps: int = 5
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: no taps.
        """
        super().__post_init__()
        if self.taps < 1:
            raise ValueError(f"taps is {self.taps}; expected 1 or more")

    def setup(self) -> None:
        """Makes the parameters."""
        self.kernel = self.param("kernel", _spread(self.taps), (self.taps, self.channels))
        self.bias = self.param("bias", nn.initializers.zeros, (self.channels,))

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Convolves whole sequences."""
        return causal_conv(x, self.kernel, self.bias).astype(self.dtype)

    def init_state(self, batch: int) -> Float[Array, "b k-1 c"]:
        """Returns the inputs before the first: zeros."""
        return jnp.zeros((batch, self.taps - 1, self.channels), self.dtype)

    def extend(
        self, x: Float[Array, "b t c"], state: Float[Array, "b k-1 c"]
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b k-1 c"]]:
        """Convolves the next inputs; returns the results and the next state."""
        y = causal_conv(x, self.kernel, self.bias, state).astype(self.dtype)
        return y, causal_conv_state(x, self.taps, state)


class SymmetricConv(nn.Module):
    """y_t = bias + sum_j kernel[j] x_{t - (k - 1) / 2 + j}: half of the taps meet later inputs.

    In a model that predicts the next token this reads the answer. It is here to show that, and
    cannot take a sequence in pieces.

    Attributes:
        channels: size of the last axis.
        taps: k, odd length of the kernel; the middle tap meets the current input.
        dtype: of the result; sums are in float32 at least.
    """

    channels: int
    taps: int = 5
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: no odd number of taps.
        """
        super().__post_init__()
        if self.taps % 2 == 0 or self.taps < 1:
            raise ValueError(f"taps is {self.taps}; a symmetric kernel needs an odd number")

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Convolves whole sequences, with zeros before the first and after the last input."""
        kernel = self.param("kernel", _spread(self.taps), (self.taps, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        later = self.taps // 2
        padded = jnp.pad(x, ((0, 0), (0, later), (0, 0)))
        return causal_conv(padded, kernel, bias)[:, later:].astype(self.dtype)


class Smear(nn.Module):
    """y_t = a x_t + (1 - a) x_{t-1}, with one share a = sigmoid(alpha) for each head.

    Source: Olsson et al. 2022, "In-context learning and induction heads", argument 3 ("smeared
    keys"). The first input has none before it and stays as it is.

    Attributes:
        channels: size of the last axis, heads one after the other.
        heads: number of heads.
        dtype: of the result.
    """

    channels: int
    heads: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the parameters."""
        self.alpha = self.param("alpha", nn.initializers.zeros, (self.heads,))

    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Smears whole sequences."""
        return self._smeared(x, x[:, :1])

    def init_state(self, batch: int) -> Float[Array, "b 2 c"]:
        """Returns the state before the first input."""
        return jnp.zeros((batch, 2, self.channels), self.dtype)

    def extend(
        self, x: Float[Array, "b t c"], state: Float[Array, "b 2 c"]
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b 2 c"]]:
        """Smears the next inputs; the state is the last input, and ones once there is one."""
        before = jnp.where(state[:, 1:] > 0, state[:, :1], x[:, :1])
        last = jnp.concatenate([x[:, -1:], jnp.ones_like(x[:, -1:])], axis=1)
        return self._smeared(x, before), last.astype(state.dtype)

    def _smeared(self, x: Array, before: Array) -> Array:
        """Mixes each input with the one before it."""
        share = jnp.repeat(jax.nn.sigmoid(self.alpha), self.channels // self.heads)
        share = share[None, None].astype(x.dtype)
        earlier = jnp.concatenate([before.astype(x.dtype), x[:, :-1]], axis=1)
        return (share * x + (1 - share) * earlier).astype(self.dtype)


def _spread(taps: int) -> nn.initializers.Initializer:
    """Returns normal weights that keep the variance of independent inputs."""
    return nn.initializers.normal(taps**-0.5)
