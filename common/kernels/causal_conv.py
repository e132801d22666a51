"""Depthwise causal convolution over time, y_t = bias + sum_j kernel[j] x_{t - (k - 1) + j}.

The last tap meets the current input and tap 0 the oldest one, as in `flax.linen.Conv` with
`padding="CAUSAL"`, `torch.nn.Conv1d` and the published state space models: kernels are exchanged
with these as they are, and a kernel printed from left to right lies over the inputs as they came.
Inputs before the first are zero, or come from `state`, the last k - 1 inputs so far.
"""

import jax.numpy as jnp

from common.array_types import Array, Float
from common.kernels.taps import correlate_taps


def causal_conv(
    x: Float[Array, "*b t c"],
    kernel: Float[Array, "k c"],
    bias: Float[Array, "c"] | None = None,
    state: Float[Array, "*b k-1 c"] | None = None,
) -> Float[Array, "*b t c"]:
    """Convolves every channel over time with its own kernel; y_t sees no input after t.

    The arithmetic is in float32 at least, the result has the dtype of x.

    Args:
        x: inputs.
        kernel: taps, the last one for the current input.
        bias: added to every output.
        state: the inputs before the first, see `causal_conv_state`; zero where None.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(x.shape, kernel, bias)
    wide = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
    joined = _with_history(x, kernel.shape[0], state).astype(wide)
    flat = joined.reshape(-1, joined.shape[-2], 1, x.shape[-1])
    y = correlate_taps(flat, kernel.astype(wide)[:, None]).reshape(x.shape)
    return (y if bias is None else y + bias.astype(wide)[(None,) * (y.ndim - 1)]).astype(x.dtype)


def causal_conv_state(
    x: Float[Array, "*b t c"], taps: int, state: Float[Array, "*b k-1 c"] | None = None
) -> Float[Array, "*b k-1 c"]:
    """Returns the state after the inputs x: the last taps - 1 of them.

    Args:
        x: inputs; any number of them, also fewer than taps - 1, also none.
        taps: length k of the kernel.
        state: the state before them; zero where None.
    """
    joined = _with_history(x, taps, state)
    return joined[..., joined.shape[-2] - (taps - 1) :, :]


def causal_conv_step(
    state: Float[Array, "*b k-1 c"],
    x_t: Float[Array, "*b c"],
    kernel: Float[Array, "k c"],
    bias: Float[Array, "c"] | None = None,
) -> tuple[Float[Array, "*b k-1 c"], Float[Array, "*b c"]]:
    """Convolves one more input, for decoding; returns the next state and the output.

    Args:
        state: the last k - 1 inputs, the oldest first; zeros before the first input.
        x_t: the current input.
        kernel: taps, the last one for the current input.
        bias: added to the output.

    Raises:
        ValueError: shapes that do not fit.
    """
    x = x_t[..., None, :]
    y = causal_conv(x, kernel, bias, state)
    return causal_conv_state(x, kernel.shape[0], state), y[..., 0, :]


def _with_history(x: Array, taps: int, state: Array | None) -> Array:
    """Returns x with the taps - 1 inputs before it."""
    if state is None:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(taps - 1, 0), (0, 0)])
    expected = (*x.shape[:-2], taps - 1, x.shape[-1])
    if state.shape != expected:
        raise ValueError(f"state has shape {state.shape}; expected {expected}")
    return jnp.concatenate([state.astype(x.dtype), x], axis=-2)


def _check(shape: tuple[int, ...], kernel: Array, bias: Array | None) -> None:
    if kernel.ndim != 2 or kernel.shape[0] < 1 or kernel.shape[1] != shape[-1]:
        raise ValueError(f"kernel {kernel.shape} does not fit x {shape}; expected (k, {shape[-1]})")
    if bias is not None and bias.shape != shape[-1:]:
        raise ValueError(f"bias has shape {bias.shape}; expected {shape[-1:]}")
