"""Convolution with few taps between all channels, as in the layers of neural networks."""

import jax
import jax.numpy as jnp
from jax import lax

from common.array_types import Array, Float
from common.kernels.arrays import equally_varying
from common.mesh import is_spread


def correlate_2d(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c d"]
) -> Float[Array, "b h w d"]:
    """Correlates maps with a kernel, y[i, d] = sum_pc kernel[p, c, d] x[i + p - k // 2, c].

    Zeros lie beyond the map. It is `lax.conv_general_dilated` with a gradient of its own on a CPU,
    by matrix products over one map after the other. With XLA's gradient, forward and backward take
    about as long outside of loops, and 14 to 23 times as long in them (32 and 64 channels, 3 x 3
    taps, jax 0.10.2; `experiments.benchmarks.convolution`, cases layer_32 and layer_64).

    Args:
        x: maps, channels last.
        kernel: taps first, then channels in and channels out, as the layers of Flax have them.

    Raises:
        ValueError: a side of the kernel is even; kernel and x have different numbers of channels.
    """
    rows, columns, *_ = kernel.shape
    if rows % 2 == 0 or columns % 2 == 0:
        raise ValueError(f"kernel {kernel.shape} has no centre; expected odd numbers of taps")
    if kernel.shape[2] != x.shape[-1]:
        raise ValueError(f"kernel {kernel.shape} does not fit x {x.shape}")
    one_by_one = jax.default_backend() == "cpu" and not is_spread()
    return _with_own_gradient(x, kernel) if one_by_one else _conv(x, kernel)


def _conv(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _with_own_gradient(x: Array, kernel: Array) -> Array:
    return _conv(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    turned = jnp.swapaxes(kernel[::-1, ::-1], -1, -2)
    return _conv(cotangent, turned), _kernel_gradient(x, cotangent, kernel)


def _kernel_gradient(x: Array, cotangent: Array, kernel: Array) -> Array:
    """Returns the sum over maps and places of x[i + p - k // 2, c] cotangent[i, d]."""
    rows, columns, *channels = kernel.shape
    height, width = x.shape[1:3]
    margins = ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0))

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        framed, slope = jnp.pad(pair[0], margins), pair[1]
        wide = jnp.concatenate([framed[:, j : j + width] for j in range(columns)], -1)
        products = [
            jnp.einsum(
                "hwk,hwd->kd", wide[i : i + height], slope, preferred_element_type=total.dtype
            )
            for i in range(rows)
        ]
        return total + jnp.stack(products), None

    accumulated = jnp.promote_types(kernel.dtype, jnp.float32)
    start = jnp.zeros((rows, columns * channels[0], channels[1]), accumulated)
    start, _, _ = equally_varying((start, x, cotangent))
    total, _ = lax.scan(add, start, (x, cotangent))
    return total.reshape(kernel.shape).astype(kernel.dtype)


_with_own_gradient.defvjp(_forward, _backward)
